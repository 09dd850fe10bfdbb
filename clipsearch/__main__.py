"""`python -m clipsearch`: the command line."""

from clipsearch.cli import main

main()
