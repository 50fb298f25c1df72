"""`python -m fxsnn` is the command line."""

import sys

from fxsnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
