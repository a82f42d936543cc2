"""`python -m federation.cli`: the same as `brhub`, for programs that start it with their own interpreter."""

import sys

from federation.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
