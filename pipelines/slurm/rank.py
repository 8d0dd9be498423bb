"""One process of a stage as ``srun`` starts it: torch's variables from Slurm's, and exit codes that srun can add up.

srun ends every other process when one ends badly, and returns the highest exit code. So a process that was asked to
stop and has saved ends with 0 (the first may still be writing), and one that lost the others with the lowest code there
is: whatever went wrong where, the cause counts, not that the others noticed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

LOST, FAILED = 1, 3
"""Exit codes: another process no longer answers; an error without words of its own (Python's 1)."""


def variables(slurm: Mapping[str, str]) -> dict[str, str]:
    """What torch.distributed and accelerate ask for; empty where the job is one process."""
    ranks = int(slurm.get("SLURM_STEP_NUM_TASKS") or slurm["SLURM_NTASKS"])
    if ranks == 1:
        return {}
    return {
        "RANK": slurm["SLURM_PROCID"],
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": slurm["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(-(-ranks // int(slurm["SLURM_STEP_NUM_NODES"]))),
    }


def lost_notes(folder: Path, number: str) -> list[Path]:
    """What processes of a job have said of others that no longer answer."""
    return sorted(folder.glob(f"{number}.lost-*"))


def exit_code(code: int) -> int:
    """The stage's exit code as srun is to see it."""
    from pipelines.peers import LOST_CODE
    from pipelines.stage import STOPPED

    return {STOPPED: 0, LOST_CODE: LOST, LOST: FAILED}.get(code, code)


def main() -> int:
    """Run the stage in this process."""
    os.environ.update(variables(os.environ))
    from pipelines.__main__ import run
    from pipelines.peers import told_of

    try:
        code = run(sys.argv[1:])
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        import traceback

        traceback.print_exc()
        code = 1
    reason = told_of()
    if reason:
        place = Path(os.environ["REEL_JOB_FOLDER"]) / f"{os.environ['SLURM_JOB_ID']}.lost-{os.environ['SLURM_PROCID']}"
        place.write_text(reason, encoding="utf-8")
    return exit_code(code)


if __name__ == "__main__":
    ended = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)  # threads that wait for a process that is cut off would hold, or abort, an ordinary exit
