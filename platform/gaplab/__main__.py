"""`python -m gaplab`: the command, where no script of it is on the path."""

from gaplab.cli import main

main()
