"""`python -m tertuliad.doctor`."""

from __future__ import annotations

import sys

from tertuliad.doctor.command import main
from tertuliad.home import keep_to_the_user

if __name__ == "__main__":
    keep_to_the_user()
    sys.exit(main())
