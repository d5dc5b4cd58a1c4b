"""`python -m reverie`: the command line."""

from reverie.cli import main

main()
