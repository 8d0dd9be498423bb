"""A checkpoint is a folder that says where it came from.

``config.json`` and ``*.safetensors`` load with ``from_pretrained`` of the network's own library, ``ema/`` holds the
averaged weights the same way, ``README.md`` is the model card and ``checkpoint.json`` says where it came from:
everything read, with digests, every parameter, the identity of the code, the versions and the results. All of it is a
function of what went in: an identical run leaves identical bytes, whatever was committed meanwhile, and what follows
stays fresh. Times, the machine and the commit stand in the run's own record (:mod:`pipelines.record`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pipelines.stage import StageError, file_digest, write_json
from pipelines.written import read_json

OURS = {"StackedAutoencoder": "pipelines.models.autoencoder.load_autoencoder"}
"""Networks of this project: what loads them."""


class Saveable(Protocol):
    """A network that writes itself as ``config.json`` and safetensors."""

    def save_pretrained(self, save_directory: Any) -> Any: ...


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
    record = read_json(path, "weights")
    for name, expected in record["weights"].items():
        if not (folder / name).is_file():
            raise StageError(f"{folder / name}: named in checkpoint.json but missing; restore it with `dvc checkout`.")
        if file_digest(folder / name) != expected:
            raise StageError(f"{folder / name}: not the weights that checkpoint.json records; `dvc checkout` restores.")
    return record


def _loading(folder: Path, where: str) -> list[str]:
    """How each saved network is loaded, where its ``config.json`` names a class."""
    lines = []
    for path in sorted(folder.rglob("config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
        part = (Path(where) / path.parent.relative_to(folder)).as_posix()
        if kind in OURS:
            lines.append(f'    {OURS[kind]}("{part}")')
        elif kind is not None:
            library = "diffusers" if "_diffusers_version" in config else "transformers"
            lines.append(f'    {library}.{kind}.from_pretrained("{part}")')
    return lines


def _segments(record: Mapping[str, Any]) -> list[str]:
    """By which code each part of a run was trained, where it was more than one."""
    parts = record.get("segments") or []
    if len(parts) < 2:
        return []
    ends = [*(part["from"] for part in parts[1:]), record["step"]]
    whole = zip(parts, ends, strict=True)
    return [f"- steps {part['from']} to {end} of {part['steps']}: code `{part['code'][:16]}`" for part, end in whole]


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
    lines += _segments(record)
    lines += [f"- {name} {number}" for name, number in (record.get("environment") or {}).items()]
    lines += ["", "## Results", ""]
    numbers = [(name, value) for name, value in record["results"].items() if isinstance(value, (int, float))]
    lines += [f"- {name}: {value:.4g}" for name, value in numbers]
    for gate in record["results"].get("gates", ()):
        value = f"{gate['value']:.4g}" if "value" in gate else "not available"
        lines.append(f"- gate {gate['name']}: {value} {gate['comparison']} {gate['threshold']:g}: {gate['verdict']}")
    lines += ["", "## Make it again", "", f"    dvc repro {stage}", ""]
    return "\n".join(lines)


def write_record(folder: Path, record: Mapping[str, Any], where: str | None = None) -> None:
    """``checkpoint.json`` and the model card, after the weights are in place; ``where`` the folder will stand."""
    complete = {**record, "weights": weights(folder)}
    write_json(folder / "checkpoint.json", complete)
    (folder / "README.md").write_text(card(complete, _loading(folder, where or folder.name)), encoding="utf-8")
