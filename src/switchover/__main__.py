"""`python -m switchover` is the command line."""

from .cli.main import main

main()
