"""The graph service: servers that hold shards of a graph and answer whole questions, and the client that asks them.

`frames` (bytes, no I/O), `connection` (sockets), `ring` (shared memory) and `handshake` are the wire, written down in
docs/internals/graph-wire.md. `server` has the sockets, `answering` what is answered, from `versions`; `peer`, `failover` and `peer_map` ask
others, for `remote` (the client) and `remote_shards` (a server that needs rows of another). `endpoints` finds servers.
"""
