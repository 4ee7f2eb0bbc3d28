"""``python -m concordant`` is ``concordant``."""

from __future__ import annotations

import sys

from concordant.cli import main

if __name__ == "__main__":
    sys.exit(main())
