"""The command line: where py-lmdb's tests are, and what they run on."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.lmdb_suite.run import downloaded, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lmdb_suite", description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, help="py-lmdb's tests; downloaded when not given")
    parser.add_argument("--three", action="store_true", help="run on the master of a group of three")
    parser.add_argument("--only", default="", metavar="WORD", help="only tests whose names contain it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lmdb-suite-") as scratch:
        tests = arguments.directory or downloaded(Path(scratch))
        return run(tests.resolve(), three=arguments.three, only=arguments.only)


if __name__ == "__main__":
    sys.exit(main())
