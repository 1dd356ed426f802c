"""Run the command line: ``python -m autopoly``."""

from autopoly.cli import main

if __name__ == "__main__":
    main()
