"""The disk. Implements `zrep.ports`.

home        the directory: its lock, its identity, where everything in it stands
meta        promise and vote, saved whole; by `sealed`, as is a checkpoint
log         the records, over `segment` (one file) and `frames` (how a record stands in it)
store       the LMDB environment, the image of the log's permanent prefix
  image     a write transaction that carries it from one prefix to a longer one; `sessions`, `catalogue`
  group     the master's open group transaction; `child` is one transaction in it, `writers` its queue
  checkpoint  how a store that no commit flushes comes back after a crash of the operating system
  writeout    writing a file out little by little, so that its flush holds up nobody else's
reader      a home that is only read
plain       LMDB environments without replication: copied from here, adopted here
failures    the errors that LMDB itself would raise
files       what everything here does with files
"""
