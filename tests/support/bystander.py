"""A parent of the daemon that a test may kill: it starts its arguments, says who they are, waits.

`python bystander.py COMMAND...` prints the child's process id on standard error as its first line;
the child has the parent's standard input and output.
"""

from __future__ import annotations

import subprocess
import sys


def main() -> None:
    child = subprocess.Popen(sys.argv[1:], stderr=subprocess.DEVNULL)
    print(child.pid, file=sys.stderr, flush=True)
    child.wait()


if __name__ == "__main__":
    main()
