"""zrep: py-lmdb, replicated."""
