"""`python -m ptool` is `ptool`."""

import sys

from ptool.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
