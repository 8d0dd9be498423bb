"""``python -m pipelines <module> <function> …``: one stage in this process (the launcher starts this)."""

import signal
import sys

from pipelines.processes import end_descendants, follow_parent, leave_group
from pipelines.stage import main

if __name__ == "__main__":
    orphaned = follow_parent()
    try:
        code = main()
        if code == 0:  # after an error the others may wait in a collective for ever; torchrun ends them
            leave_group()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):  # the work is over: they could only break the exit
            signal.signal(number, signal.SIG_IGN)
        if orphaned():  # nobody above is left to do it
            end_descendants(0.5)
    sys.exit(code)
