"""The disk. Implements `zrep.ports`.

home       the directory: its lock, its identity, where everything in it stands
meta       promise and vote, saved whole
log        the records, over `segment` (one file) and `frames` (how a record stands in it)
store      the LMDB environment, the image of the log's permanent prefix; `group` extends it
"""
