"""`python -m gaplab`: run the command without its script on the path."""

from gaplab.cli import main

main()
