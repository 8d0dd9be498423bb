"""``python -m pipelines <module> <function> …``: one stage in this process (the launcher starts this)."""

import sys

from pipelines.processes import follow_parent
from pipelines.stage import main

if __name__ == "__main__":
    follow_parent()
    sys.exit(main())
