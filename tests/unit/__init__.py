"""Unit tests: one file for each module, by its name."""
