"""``python -m outmask``: the command ``outmask``."""

import sys

from outmask.app.cli import main

sys.exit(main())
