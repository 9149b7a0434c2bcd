"""The disk: log segments, meta file, LMDB store, home lock. Implements `zrep.ports`."""
