"""`python -m zrep_cli` is `zrep`."""

from .main import main

main()
