"""The disk. Implements `zrep.ports`.

home        the directory: its lock, its identity, where everything in it stands
meta        promise and vote, saved whole
log         the records, over `segment` (one file) and `frames` (how a record stands in it)
store       the LMDB environment, the image of the log's permanent prefix
  image     a write transaction that carries it from one prefix to a longer one; `sessions`, `catalogue`
  group     the master's open group transaction; `child` is one transaction in it, `writers` its queue
  checkpoint  how a store that no commit flushes comes back after a crash of the operating system
  reader, export, failures   read-only homes, copies, LMDB's errors in our words
"""
