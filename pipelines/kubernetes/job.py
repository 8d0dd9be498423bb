"""What a pod's container runs: ``python -m pipelines.kubernetes.job <processes> <module> <function> …``.

It is the pod's first process: the system sends it no signal that it does not listen for, and gives it every process
that lost its parent. A SIGTERM (the pod is deleted or evicted, or its time is over) is passed on, so that the stage
saves; what is left after the grace time is ended. The exit code is what the launcher takes in.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pipelines.processes import supervise
from pipelines.stage import STOPPED


def command(processes: int, words: Sequence[str]) -> list[str]:
    """The command that starts the stage's processes in this pod."""
    python = [sys.executable, "-m"]
    if processes == 1:
        return [*python, "pipelines", *words]
    several = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*python, *several, "-m", "pipelines", *words]


def main(argv: Sequence[str]) -> int:
    """Run the stage; returns the exit code that Kubernetes records."""
    code, asked = supervise(command(int(argv[0]), argv[1:]), dict(os.environ), (), lambda: None)
    return STOPPED if asked and code else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
