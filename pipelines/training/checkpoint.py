"""A checkpoint is a folder that says where it came from.

``config.json`` and ``*.safetensors`` load with ``from_pretrained`` of the network's own library, ``ema/`` holds the
averaged weights the same way, ``README.md`` is the model card and ``checkpoint.json`` the record: everything read, with
digests, every parameter, the code, the machine, time spent and results (the logging contract of seed C).
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch

from pipelines.stage import StageError, digest, file_digest, write_json


class Saveable(Protocol):
    """A network that writes itself as ``config.json`` and safetensors."""

    def save_pretrained(self, save_directory: Any) -> Any: ...


@dataclass(frozen=True)
class Source:
    """An artifact that a run read: where it stood and what it was."""

    path: str
    digest: str


def sources(inputs: Mapping[str, Path]) -> dict[str, Source]:
    """Path and content digest of every input."""
    return {name: Source(str(path), digest(path)) for name, path in inputs.items()}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def code() -> dict[str, Any]:
    """Commit, branch and whether tracked files differ from it; empty where git does not hold this code.

    An archive unpacked inside another repository must not claim that repository's commit.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None or _git("ls-files", "--error-unmatch", "dvc.yaml") is None:
        return {}
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "branch": _git("rev-parse", "--abbrev-ref", "HEAD"), "dirty": bool(status)}


def environment() -> dict[str, str]:
    """Versions of what decides the numbers."""
    found = {"python": platform.python_version()}
    for name in ("torch", "accelerate", "diffusers", "transformers", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device, processes: int) -> dict[str, Any]:
    """What the run used; no host name."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": device.type,
        "kind": kind,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def weights(folder: Path) -> dict[str, str]:
    """SHA-256 of every weight file of the folder."""
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in sorted(folder.rglob("*.safetensors"))}


def save_networks(folder: Path, networks: Mapping[str, Saveable], averaged: Callable[[str], Any]) -> None:
    """Each network's weights, and under ``ema/`` its averaged ones; one network stands at the root.

    ``averaged(name)`` is a context in which the network carries its averaged weights, or None without an average.
    """
    for name, network in networks.items():
        place = folder if len(networks) == 1 else folder / name
        network.save_pretrained(place)
        swap = averaged(name)
        if swap is not None:
            with swap:
                network.save_pretrained(place / "ema")


def read(folder: Path) -> dict[str, Any]:
    """The record of a checkpoint.

    Raises:
        StageError: the folder is no checkpoint, or a weight file is missing or is not the recorded one.
    """
    path = folder / "checkpoint.json"
    if not path.is_file():
        raise StageError(
            f"{folder}: no checkpoint.json, so this is no checkpoint of ours; run the stage that makes it."
        )
    record = json.loads(path.read_text(encoding="utf-8"))
    for name, expected in record["weights"].items():
        if not (folder / name).is_file():
            raise StageError(f"{folder / name}: named in checkpoint.json but missing; restore it with `dvc checkout`.")
        if file_digest(folder / name) != expected:
            raise StageError(f"{folder / name}: not the weights that checkpoint.json records; `dvc checkout` restores.")
    return record


def card(record: Mapping[str, Any]) -> str:
    """The model card: what it is, what it was made from, what it reached, how to make it again."""
    lines = [
        f"# {record['stage']}",
        "",
        f"Trained {record['step']} steps by Reelgraph's stage `{record['stage']}`.",
        "",
    ]
    lines += ["## Made from", ""]
    lines += [
        f"- `{name}`: `{source['path']}`, digest `{source['digest'][:16]}`" for name, source in record["inputs"].items()
    ]
    commit = record["code"].get("commit")
    if commit:
        lines.append(f"- code: commit `{commit[:12]}`{' with local changes' if record['code']['dirty'] else ''}")
    lines += ["", "## Results", ""]
    lines += [f"- {name}: {value:.4g}" for name, value in record["results"].items() if isinstance(value, (int, float))]
    lines += ["", "## Make it again", "", f"    dvc repro {record['stage']}", ""]
    return "\n".join(lines)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """``checkpoint.json`` and the model card, after the weights are in place."""
    complete = {**record, "weights": weights(folder)}
    write_json(folder / "checkpoint.json", complete)
    (folder / "README.md").write_text(card(complete), encoding="utf-8")
