"""Everything that shows zrep keeps its promises; one folder per kind of evidence."""
