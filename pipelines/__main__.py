"""``python -m pipelines <module> <function> …``: one stage in this process (the launcher starts this)."""

import sys

from pipelines.processes import follow_parent, leave_group
from pipelines.stage import main

if __name__ == "__main__":
    follow_parent()
    code = main()
    if code == 0:  # after an error the others may wait in a collective for ever; torchrun ends them
        leave_group()
    sys.exit(code)
