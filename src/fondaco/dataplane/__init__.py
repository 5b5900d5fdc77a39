"""Data plane: reads and writes over HTTP/1.1: the server, and the thin and fast clients."""
