"""``python -m outmask``: the command ``outmask``."""

import sys

from outmask.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
