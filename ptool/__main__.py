"""`python -m ptool` is `ptool`."""

from ptool.cli.app import entry

if __name__ == "__main__":
    entry()
