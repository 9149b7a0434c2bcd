"""The environment in py-lmdb's shape, on a real engine: a group of one."""
