"""The daemon with other bounds: `python bounded_daemon.py '{"CONNECTIONS": 3}' OPTION...`."""

from __future__ import annotations

import json
import sys

from tertuliad import limits


def main() -> None:
    for name, value in json.loads(sys.argv.pop(1)).items():
        assert hasattr(limits, name), name
        setattr(limits, name, value)
    from tertuliad import entry

    entry.main()


if __name__ == "__main__":
    main()
