"""`python -m tertuliad.doctor`."""

from __future__ import annotations

import sys

from tertuliad.doctor.command import main

if __name__ == "__main__":
    sys.exit(main())
