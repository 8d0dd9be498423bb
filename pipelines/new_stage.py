"""``reel new ROOM NAME``: a working stage to start from, with all that belongs to it.

Writes the module with a small objective, its parameters' class, a section of params.yaml, an entry of dvc.yaml and a
page of documentation; appends, so that comments and every other line stay. No other stage becomes stale by it.
"""

from __future__ import annotations

import argparse
import keyword
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.document import PARAMS_FILE, read_document
from pipelines.stage import StageError
from pipelines.told import plain

ROOMS = ("representation", "generation", "evaluation")
"""Rooms whose stages may read the latents; footage and latents come before them."""
GRAPH, LINEAGE = Path("dvc.yaml"), Path("tests/lineage.txt")

MODULE = '''"""Stage {name}: a convolution that takes noise off latents, to be replaced by your own objective."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pipelines.data.batches import Batches
from pipelines.data.shards import Shards
from pipelines.{room}.{name}_params import {title}Params
from pipelines.training.loop import train as run_training
from pipelines.training.objective import Batch, LossOutput
from pipelines.training.run import Run

MEASURED_SAMPLES = 64


class {title}Network(ModelMixin, ConfigMixin):
    """One convolution; as a model of diffusers it writes its own config.json and safetensors."""

    @register_to_config
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Latents [B, C, T, H, W] from noised ones."""
        return self.convolution(x)


class {title}:
    """E | net(latents + noise_std eps) - latents |^2, per sample the mean over all elements."""

    trained: tuple[str, ...] = ("net",)
    reads: tuple[str, ...] = ("latents",)

    def __init__(self, net: nn.Module, noise_std: float) -> None:
        self.net, self.noise_std = net, noise_std

    def error(self, latents: Tensor) -> Tensor:
        """Squared error [B] of what is made of noised latents [B, C, T, H, W]."""
        noised = latents + self.noise_std * torch.randn_like(latents)
        return (self.net(noised) - latents).square().flatten(1).mean(1)

    def losses(self, batch: Batch, step: int) -> dict[str, LossOutput]:
        """The error on the batch; the loop averages it."""
        return {{"net": LossOutput(self.error(batch["latents"].float()))}}


def train(params: {title}Params, latents: Path, out: Path, metrics: Path, plots: Path) -> None:
    """Train on the train split of a latents folder; measure on validation; write checkpoint, metrics and curves."""
    shards = Shards(latents)
    shards.manifest.require(list({title}.reads), "{name}")
    shards.manifest.require_one_shape("latents", "{name}")
    run = Run.open(params, {{"latents": latents}}, out=out, metrics=metrics, plots=plots)
    channels = shards.manifest.fields["latents"].shape[0]
    assert channels is not None
    objective = {title}({title}Network(channels), params.noise_std)
    training = params.training
    rows = shards.rows("validation").tolist()[:MEASURED_SAMPLES]
    held_out = torch.from_numpy(shards.load(rows, "latents").astype(np.float32))

    def validate(step: int) -> dict[str, float]:
        return {{"loss": float(objective.error(held_out.to(run.device)).mean())}}

    batches = Batches(shards, "train", list({title}.reads), training.batch_size, training.seed)
    run_training(objective, batches, run, validate)
    with torch.no_grad():
        torch.manual_seed(training.seed)
        results = {{"validation_error": float(objective.error(held_out.to(run.device)).mean())}}
    run.finish({{"net": objective.net}}, results)
'''

PARAMS = '''"""Parameters of the stage {name}. Torch-free; without defaults: values stand in params.yaml."""

from __future__ import annotations

from pipelines.params import Params, Positive, Training


class {title}Params(Params):
    """Section ``{name}``."""

    noise_std: Positive
    training: Training
'''

SECTION = """
# What the stage {name} is for.
{name}:
  noise_std: 0.5           # standard deviation of the noise that is taken off; latents have 1
  training:
    seed: 0
    steps: 200             # updates
    batch_size: 16         # clips, of all processes together
    micro_batch: 16        # clips per process and forward
    precision: fp32        # fp32, fp16, bf16, or auto
    gradient_checkpointing: false
    compile: false
    max_grad_norm: 1.0
    ema: null              # or {{decay: 0.999, warmup_steps: 10}}
    optimizer: {{name: adamw, learning_rate: 1.0e-3, betas: [0.9, 0.99], weight_decay: 0.0}}
    schedule: {{shape: constant, warmup_steps: 10}}
    per_network: null
    stop_when: null
    log_every: 20
    save_every: 100
    validate_every: 100
"""

ENTRY = """
  {name}:
    desc: What the stage {name} does, in one sentence.
    meta: {{dagster: {{group: {room}, kinds: [pytorch, model], pool: gpu, headline: [validation_error]}}}}
    cmd: python -m pipelines.launch pipelines.{room}.{name} train --params {name} --latents data/latents {outs}
    deps: [data/latents]
    params: [{name}, {{code.json: [{name}]}}]
    outs: [checkpoints/{name}]
    metrics: [metrics/{name}.json]
    plots: [plots/{name}]
"""

PAGE = """# {name}

What it is for, in two sentences. Code: `pipelines/{room}/{name}.py`.

| reads | for |
|---|---|
| `data/latents` | training and validation clips |

| number | meaning |
|---|---|
| `validation_error` | mean squared error on validation clips, latents having variance 1 |

| key | meaning |
|---|---|
| `noise_std` | standard deviation of the noise that is taken off |
| `training` | see [training.md](training.md) |
"""


OUTS = "--out checkpoints/{name} --metrics metrics/{name}.json --plots plots/{name}"


def check(room: str, name: str) -> None:
    """That a stage of this name can be made here.

    Raises:
        StageError: saying what is in the way.
    """
    if room not in ROOMS:
        raise StageError(f"room {room!r}: stages that read the latents live in {', '.join(ROOMS)}.")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise StageError(f"stage {name!r}: a name is lower-case letters, digits and underscores, as a Python module's.")
    if not GRAPH.is_file() or not Path("pipelines", room).is_dir():
        raise StageError(f"{Path.cwd()}: no {GRAPH} and pipelines/{room} here; run it inside a Reelgraph project.")
    taken = [
        place
        for place, known in (
            (str(GRAPH), read_document(GRAPH)[0]["stages"]),
            (PARAMS_FILE, read_document(PARAMS_FILE)[0]),
        )
        if name in known
    ]
    taken += [str(path) for path in new_files(room, name) if path.exists()]
    if taken:
        raise StageError(f"stage {name}: already in {', '.join(map(str, taken))}; take another name.")


def new_files(room: str, name: str) -> dict[Path, str]:
    """The files of a new stage and what is written into them."""
    return {
        Path(f"pipelines/{room}/{name}.py"): MODULE,
        Path(f"pipelines/{room}/{name}_params.py"): PARAMS,
        Path(f"docs/{name}.md"): PAGE,
    }


def _readers(name: str) -> set[str]:
    """Stages that depend on a folder in which the new stage's outputs will lie: those that find what there is."""
    folders = {Path(word).parent.as_posix() for word in OUTS.format(name=name).split() if "/" in word}
    stages = read_document(GRAPH)[0]["stages"]
    return {reader for reader, entry in stages.items() if folders & set(entry.get("deps") or [])}


def _with_stage(lineage: str, name: str, readers: set[str]) -> str:
    """The agreed graph with the new stage, and with it upstream of its readers."""
    lines = []
    for line in lineage.splitlines():
        reader, arrow, upstream = line.partition(" <- ")
        if reader in readers:
            line = f"{reader}{arrow}{', '.join(sorted([*upstream.split(', '), name]))}"
        lines.append(line)
    return "\n".join([*lines, f"{name} <- latent_shards"]) + "\n"


def make(room: str, name: str) -> list[Path]:
    """Write the stage; returns the files that were made or went on.

    Raises:
        StageError: as :func:`check`; nothing is written then.
    """
    check(room, name)
    words = {"room": room, "name": name, "title": "".join(part.capitalize() for part in name.split("_"))}
    words["outs"] = OUTS.format(name=name)
    files = new_files(room, name)
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.format(**words), encoding="utf-8")
    readers = _readers(name)
    grown = {GRAPH: ENTRY.format(**words), Path(PARAMS_FILE): SECTION.format(**words)}
    for path, text in grown.items():
        path.write_text(path.read_text(encoding="utf-8").rstrip("\n") + "\n" + text, encoding="utf-8")
    if LINEAGE.is_file():
        LINEAGE.write_text(_with_stage(LINEAGE.read_text(encoding="utf-8"), name, readers), encoding="utf-8")
        return [*files, *grown, LINEAGE]
    return [*files, *grown]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="reel new", description=plain(__doc__))
    parser.add_argument("room", help=f"one of {', '.join(ROOMS)}")
    parser.add_argument("name", help="of the stage: its module, its section, its entry and its page")
    given = parser.parse_args(argv)
    try:
        made = make(given.room, given.name)
    except StageError as error:
        print(f"new: {error}", file=sys.stderr)
        return 2
    for path in made:
        print(path)
    print(f"Next: reel check, then reel run {given.name}; its objective is in {made[0]}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
