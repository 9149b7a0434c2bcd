"""py-lmdb's own tests, run on zrep: `python -m tests.lmdb_suite [--three] [DIR]`.

`standin` is what the tests import as `lmdb`; `run` runs them and compares what fails with
`differences.txt`, where each failure has the line of docs/lmdb-differences.md that explains it.
"""
