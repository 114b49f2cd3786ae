"""`python -m kmerge`: the verbs for models that are files."""

import sys

from kmerge.commands import main

if __name__ == "__main__":
    sys.exit(main())
