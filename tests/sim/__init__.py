"""The simulator: whole groups in one thread, in virtual time, from a seed."""
