"""The peers: each is three servers on this machine, on loopback, with their files in a temporary directory.

peer        what a peer is, and how its writers are measured
servers     starting and ending server processes
redis, etcd, nats                    servers, spoken to over a socket
berkeley, pysyncobj                  libraries, embedded in a process that obeys (`cli.bench_process`)
"""
