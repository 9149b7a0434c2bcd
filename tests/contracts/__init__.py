"""One suite per port, run on the disk and on its memory twin: the simulator tests what it claims to."""
