"""The `zrep` command; installed as the package `zrep_cli`."""
