"""A library that fails, tears or kills at the k-th call that touches the disk, and what drives it."""
