"""The pure machine: everything that decides. No clock, no random source, no I/O, no thread in here."""
