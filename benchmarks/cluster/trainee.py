"""A project of one stage with the real launcher and the real training loop, slow enough to be interrupted."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

REPO = Path(__file__).parents[2]
STEPS = 60
CMD = (
    "python -m pipelines.launch pipelines.toy.toy train --params train --out checkpoints/train "
    "--metrics metrics/train.json --plots plots/train"
)
PARAMS = '''
from pipelines.params import NonNegative, Params, Training

class TrainParams(Params):
    """A training, and how long each of its steps waits."""
    training: Training
    pause_seconds: NonNegative
'''
STAGE = '''
"""A regression of points on points, trained by the project's own loop."""
import json
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from pipelines.toy.params import TrainParams
from pipelines.training.loop import train as update
from pipelines.training.objective import LossOutput
from pipelines.training.run import Run


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, x):
        return self.layers(x)[:, 0]

    def save_pretrained(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({}))


class Regression:
    trained, reads = ("net",), ("x",)

    def __init__(self, pause):
        self.net, self.pause = Net(), pause

    def losses(self, batch, step):
        time.sleep(self.pause)
        loss = (self.net(batch["x"] + 0.1 * torch.randn_like(batch["x"])) - batch["x"].sum(1).sin()) ** 2
        return {"net": LossOutput(loss, torch.rand(len(loss)))}


class Points:
    def keys(self, step):
        return [f"{step}-{row}" for row in range(8)]

    def read(self, step, start, stop):
        x = torch.randn(8, 16, generator=torch.Generator().manual_seed(step))
        return {"x": x[start:stop], "key": self.keys(step)[start:stop]}


def train(params: TrainParams, out: Path, metrics: Path, plots: Path) -> None:
    run = Run.open(params, {}, out=out, metrics=metrics, plots=plots)
    objective = Regression(params.pause_seconds)
    update(objective, Points(), run)
    run.finish({"net": objective.net}, {"score": 1.0})
'''
TRAINING = f"""
train:
  pause_seconds: 0.2
  training:
    seed: 1
    steps: {STEPS}
    batch_size: 8
    micro_batch: 4
    precision: fp32
    gradient_checkpointing: false
    compile: false
    max_grad_norm: 1.0
    ema: {{decay: 0.9, warmup_steps: 2}}
    optimizer: {{name: adamw, learning_rate: 0.01, betas: [0.9, 0.99], weight_decay: 0.0}}
    schedule: {{shape: constant, warmup_steps: 0}}
    per_network: null
    stop_when: null
    log_every: 5
    save_every: 10
    validate_every: 1000
"""


def make(root: Path, machine: dict[str, object]) -> Path:
    """The project in ``root``, with this machine file."""
    root.mkdir(parents=True)
    shutil.copytree(REPO / "pipelines", root / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    toy = root / "pipelines" / "toy"
    toy.mkdir()
    for name, text in (("__init__", ""), ("params", PARAMS), ("toy", STAGE)):
        (toy / f"{name}.py").write_text(text)
    entry = {"cmd": CMD, "deps": ["pipelines/toy"], "params": ["train"], "outs": ["checkpoints/train"]}
    entry |= {"metrics": ["metrics/train.json"], "plots": ["plots/train"]}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train": entry}}))
    (root / "params.yaml").write_text(TRAINING)
    (root / "launch.yaml").write_text(yaml.safe_dump(machine))
    (root / ".dvcignore").write_text("__pycache__\n*.pyc\n.work\n.dagster\n")
    command = [sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    return root


def bits(root: Path) -> str:
    """What the training ended with: a hash of weights, averages and logged losses."""
    out = root / "checkpoints" / "train"
    files = sorted(path for path in out.rglob("*") if path.suffix in (".safetensors", ".jsonl"))
    parts = [path.relative_to(out).as_posix().encode() + path.read_bytes() for path in files]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16] if files else "no checkpoint"


def saved_step(root: Path) -> int:
    """The newest step on disk; 0 where nothing is saved."""
    names = [path.name for path in (root / ".work" / "train").glob("*/state-*")]
    return max((int(name.removeprefix("state-")) for name in names if name[6:].isdigit()), default=0)


def resumes(root: Path) -> int:
    """How often the run was taken up again, by its metrics."""
    return int(json.loads((root / "metrics" / "train.json").read_text())["resumes"])
