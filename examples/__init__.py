"""Programs to read and run; installed with the command as `zrep_cli.examples`, which also holds the quotes."""
