"""`python -m tertulia`: the command."""

from __future__ import annotations

import sys

from tertulia.cli import main

sys.exit(main())
