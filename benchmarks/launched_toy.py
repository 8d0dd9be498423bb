"""A toy project of one stage behind the real launcher: one process, or two that talk over gloo.

With a file ``stubborn.on`` in the project, the stage ignores SIGINT and SIGTERM, and so does a worker in a session of
its own that each of its processes starts.
"""

from pathlib import Path

import yaml

from tests.dagster_dvc import toy

REPO = Path(__file__).parents[1]
CMD = "python -m pipelines.launch pipelines.toy.toy train --params train --out work/model --metrics metrics/train.json"
PARAMS = '''
from pipelines.params import Params, Whole

class TrainParams(Params):
    """Values of the toy."""
    steps: Whole
'''
STAGE = '''
"""Counts, saves every step, and hears a stop, as the training loop does."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipelines import stage
from pipelines.toy.params import TrainParams

SAVED = Path(".work/step")
DEAF = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; time.sleep(300)"


def train(params: TrainParams, out: Path, metrics: Path) -> None:
    together, first = meet()
    if Path("stubborn.on").exists():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-c", DEAF, "pipelines-worker"], start_new_session=True)
    begun = int(SAVED.read_text()) if SAVED.exists() else 0
    together(False)
    with stage.saves_on_stop() as stop:
        for step in range(begun, params.steps):
            time.sleep(0.1)
            if first:
                Path(".work/partial").write_text(str(step + 1))
                Path(".work/partial").replace(SAVED)
                print(f"step {step + 1} of {params.steps}", flush=True)
            if together(stop.is_set()):
                raise stage.Stopped(f"stopped after step {step + 1}")
    if first:
        SAVED.unlink(missing_ok=True)
        with stage.whole_folder(out) as folder:
            (folder / "steps.txt").write_text(str(params.steps))
        stage.write_metrics(metrics, {"steps": params.steps})
    together(False)


def meet():
    """A function that says whether any process was asked to stop, and whether this is the first process."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return bool, True
    import torch
    import torch.distributed as processes

    processes.init_process_group("gloo")

    def together(asked: bool) -> bool:
        flag = torch.tensor(float(asked))
        processes.all_reduce(flag)
        return bool(flag)

    return together, processes.get_rank() == 0
'''


def make(root: Path, processes: int) -> Path:
    """The project in `root`; with several processes, its ``launch.yaml`` says so."""
    package = root / "pipelines"
    (package / "toy").mkdir(parents=True)
    (package / "code").mkdir()
    (package / "slurm").mkdir()
    for module in [found for part in ("", "code", "slurm") for found in (REPO / "pipelines" / part).glob("*.py")]:
        (root / module.relative_to(REPO)).write_text(module.read_text(encoding="utf-8"))
    for name, text in (("__init__", ""), ("params", PARAMS), ("toy", STAGE)):
        (package / "toy" / f"{name}.py").write_text(text)
    entry = {"cmd": CMD, "deps": ["pipelines/toy"], "params": ["train"]}
    entry |= {"outs": ["work/model"], "metrics": ["metrics/train.json"]}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": entry}}))
    (root / "params.yaml").write_text("train: {steps: 3000}\n")
    (root / ".dvcignore").write_text("__pycache__\n*.pyc\n.work\n.dagster\n")
    if processes > 1:
        (root / "launch.yaml").write_text(f"num_processes: {processes}\nuse_cpu: true\n")
    toy.dvc(root, "init", "--no-scm", "--quiet")
    return root
