"""Commands of `reel` that belong to a room: the platform knows their modules only, each runs in its own process."""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

TOOLS = {
    "fit": ("pipelines.training.fit", "Peak memory and step time of a training stage, per choice."),
    "verify": ("pipelines.data.verify", "Compare every byte of the latents with what was recorded."),
    "log": ("pipelines.journal", "Every run's record, in LOG.md; and the decision to keep or drop it."),
    "gc": ("pipelines.training.gc", "What is left over on the disk, and what it would free."),
    "new": ("pipelines.new_stage", "A working stage of your own to start from, with all that belongs to it."),
    "use": ("pipelines.footage.use", "Make a folder, tar or data set the source of the clips: looks, says, writes."),
    "jobs": ("pipelines.jobs", "This project's jobs on Slurm or Kubernetes, and which of them nobody follows."),
    "fetch": ("pipelines.footage.fetch", "Bring new footage from an address (s3://…) into the folder of the source."),
    "generate": ("pipelines.generation.generate", "Clips from prompts with any flow checkpoint."),
    "refine": ("pipelines.generation.refine", "A clip from keyframes, or from a video with missing frames."),
    "play": ("pipelines.generation.world_model.play", "Roll a world model out under keys and mouse, or drive it live."),
    "profile": ("pipelines.profile", "params.yaml at the size of a published model."),
    "export": ("pipelines.generation.export", "A trained flow as a pipeline folder of diffusers."),
    "release": ("pipelines.generation.release", "A checkpoint to give away: weights, card, chain, BOM, signature."),
    "import-fluxflow": ("pipelines.fluxflow", "A FluxFlow configuration as a profile of params.yaml."),
    "probe": ("pipelines.latents.denoiser_probe", "How hard the latents of autoencoders are to denoise."),
}
"""`reel NAME …` is `python -m MODULE …`: the module parses its own words, with ``prog="reel NAME"``."""

ON_A_GPU = frozenset({"fit", "generate", "refine", "play", "probe"})
"""Tools that compute with networks: the project's allocator gives each a GPU of its own, as it does stages."""

FORECASTS = {"raw_video": "pipelines.footage.forecast", "latent_shards": "pipelines.latents.plan"}
"""Stages whose module says beforehand how much of their input is new: one line of ``python -m MODULE --stage NAME``.

``--before`` names the stages that would run before it.
"""


TOLD = {
    "lineage": (
        "pipelines.provenance",
        "Where a checkpoint, data set, clip or stage's result came from, back to the clips.",
    ),
    "diff": ("pipelines.provenance_diff", "What differs between two artifacts and between all that went into them."),
    "audit": (
        "pipelines.data.audit",
        "Whether all in a folder is what it records, and no held-out clip is trained on.",
    ),
    "reproduce": (
        "pipelines.training.reproduce",
        "Make an artifact again in a folder of its own, and compare the bits.",
    ),
}
"""Commands about what artifacts carry, which need no project around them; paths are relative to the current folder."""


def told_of_paths(words: Sequence[str]) -> bool:
    """Whether a command is of :data:`TOLD` and names paths that are there; a stage is looked up in the project."""
    named = [word for word in words[1:] if not word.startswith("-")]
    is_help = bool({"-h", "--help"} & set(words))
    return words[:1] in (["diff"], ["audit"], ["reproduce"]) or (
        words[:1] == ["lineage"] and (is_help or any("/" in word or Path(word).exists() for word in named))
    )


def tell(name: str, words: Sequence[str]) -> int:
    """Replace this process by a command of :data:`TOLD`."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", TOLD[name][0], *words])


def forecasts(stages: Iterable[str], root: Path) -> list[str]:
    """One line for each of the stages that can tell what it would do; none where its inputs are not made yet."""
    import subprocess  # here: no other command starts one

    lines, stages = [], list(stages)
    for number, name in enumerate(stages):
        module = FORECASTS.get(name)
        if module is not None and root.joinpath(*module.split(".")).with_suffix(".py").is_file():
            command = [sys.executable, "-m", module, "--stage", name, "--before", *stages[:number]]
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
            lines += [f"{name}: {line}" for line in done.stdout.splitlines()]
    return lines


def run(name: str, words: Sequence[str], root: Path) -> int:
    """Replace this process by the tool, in the project's folder; paths in ``words`` are relative to that folder."""
    module, _ = TOOLS[name]
    os.chdir(root)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    sys.stdout.flush()
    through = ["pipelines.devices", name] if name in ON_A_GPU else []
    os.execv(sys.executable, [sys.executable, "-m", *through, module, *words])
