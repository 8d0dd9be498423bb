"""A checkpoint is a folder that says where it came from.

``config.json`` and ``*.safetensors`` load with ``from_pretrained`` of the network's own library, ``ema/`` holds the
averaged weights the same way, ``README.md`` is the model card and ``checkpoint.json`` says where it came from:
everything read, with digests, every parameter, the identity of the code, the versions and the results. All of it is a
function of what went in: an identical run leaves identical bytes, whatever was committed meanwhile, and what follows
stays fresh. Times, the machine and the commit stand in the run's own record (:mod:`pipelines.training.record`).
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
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


def inside(path: Path) -> str:
    """The path inside the project; only its name where it is elsewhere: a checkpoint travels, a machine does not."""
    with contextlib.suppress(ValueError):
        return path.resolve().relative_to(Path.cwd()).as_posix()
    return path.name


def source(path: Path) -> Source:
    """Where one artifact stood and what it was."""
    return Source(inside(path), digest(path))


def command(words: Sequence[str]) -> list[str]:
    """A command line without places of this machine."""
    return [inside(Path(word)) if Path(word).is_absolute() else word for word in words]


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def commit() -> dict[str, Any]:
    """Commit and whether tracked files differ from it; empty where git does not hold this code.

    An archive unpacked inside another repository must not claim that repository's commit.
    """
    found = _git("rev-parse", "HEAD")
    if found is None or _git("ls-files", "--error-unmatch", "dvc.yaml") is None:
        return {}
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": found, "dirty": bool(status)}


def branch() -> str | None:
    """The branch that is checked out; None outside git."""
    return _git("rev-parse", "--abbrev-ref", "HEAD")


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


def _loading(folder: Path, where: str) -> list[str]:
    """How each saved network is loaded, where its ``config.json`` names a class of diffusers or transformers."""
    lines = []
    for path in sorted(folder.rglob("config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        library = "diffusers" if "_diffusers_version" in config else "transformers"
        kind = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
        if kind is not None:
            part = (Path(where) / path.parent.relative_to(folder)).as_posix()
            lines.append(f'    {library}.{kind}.from_pretrained("{part}")')
    return lines


def card(record: Mapping[str, Any], loading: Sequence[str] = ()) -> str:
    """The model card: what it is, how to load it, what it was made from, what it reached, how to make it again."""
    stage = record["stage"]
    lines = [f"# {stage}", "", f"Trained {record['step']} steps by Reelgraph's stage `{stage}`.", ""]
    if loading:
        lines += ["## Load", "", *loading, ""]
    made_from = dict(record["inputs"]) | ({"parent": record["parent"]} if record.get("parent") else {})
    lines += ["## Made from", ""]
    lines += [f"- {name}: `{item['path']}`, digest `{item['digest'][:16]}`" for name, item in made_from.items()]
    if record.get("code"):
        lines.append(f"- code: `{record['code']}`")
    lines += [f"- {name} {number}" for name, number in (record.get("environment") or {}).items()]
    lines += ["", "## Results", ""]
    numbers = [(name, value) for name, value in record["results"].items() if isinstance(value, (int, float))]
    lines += [f"- {name}: {value:.4g}" for name, value in numbers]
    for gate in record["results"].get("gates", ()):
        judged = f"{gate['value']:.4g} {gate['comparison']} {gate['threshold']:g}"
        lines.append(f"- gate {gate['name']}: {judged}: {gate['verdict']}")
    lines += ["", "## Make it again", "", f"    dvc repro {stage}", ""]
    return "\n".join(lines)


def write_record(folder: Path, record: Mapping[str, Any], where: str | None = None) -> None:
    """``checkpoint.json`` and the model card, after the weights are in place; ``where`` the folder will stand."""
    complete = {**record, "weights": weights(folder)}
    write_json(folder / "checkpoint.json", complete)
    (folder / "README.md").write_text(card(complete, _loading(folder, where or folder.name)), encoding="utf-8")
