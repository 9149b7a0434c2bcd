"""zrep beside the limits of the machine and beside its peers, in one run: `python -m benchmarks`.

limits      what this machine can do at most: fdatasync, LMDB, ZeroMQ alone
peers       etcd, Redis, NATS, Berkeley DB, PySyncObj, each three servers, where it is installed
ours        zrep itself, by the workloads of `zrep bench`
goals       what is compared with what, and which ratio is wanted
"""
