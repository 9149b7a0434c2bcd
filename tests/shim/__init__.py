"""A library that fails, tears or kills at the k-th call that touches the disk, and a disk that loses power."""

from pathlib import Path

MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
"""Where homes of these tests live: what a flush does is modelled, no disk has to be waited for."""
