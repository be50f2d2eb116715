"""`python -m ladle`, where the command itself is not on the path."""

from ladle.cli import main

main()
