"""``python -m pipelines <module> <function> …``: one stage in this process (the launcher starts this)."""

import signal
import sys
from collections.abc import Sequence

from pipelines.processes import end_descendants, follow_parent, leave_group
from pipelines.progress import print_traceback
from pipelines.stage import main


def run(words: Sequence[str]) -> int:
    """Run one stage in this process, which nobody may orphan; returns its exit code."""
    sys.excepthook = print_traceback
    orphaned = follow_parent()
    try:
        code = main(list(words))
        if code == 0:  # after an error the others may wait in a collective for ever; torchrun ends them
            leave_group()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):  # the work is over: they could only break the exit
            signal.signal(number, signal.SIG_IGN)
        if orphaned():  # nobody above is left to do it
            end_descendants(0.5)
    return code


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
