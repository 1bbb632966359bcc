"""`python -m deltagram`."""

from deltagram.cli import main

main()
