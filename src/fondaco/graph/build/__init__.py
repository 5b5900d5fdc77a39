"""Build: from tables of any origin to the files of one graph version, in bounded memory, and from a version and changes to the next one.

`version` and `update` are what the rest of the package calls. `tables` reads what callers give as chunks of `columns`; `runs` sorts more
than memory holds; `node_files`, `edge_files` and `feature_files` write. `importers` and `convert_deepgnn` bring other libraries' graphs
into tables.
"""
