"""`python -m deltagram`."""

from deltagram.cli import main

if __name__ == "__main__":
    main()
