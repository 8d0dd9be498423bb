"""Every mp4 that a stage leaves in its output (samples, validations) tells alone where it came from.

Done from outside of the stage, which knows nothing of it. Clips of a catalog are data and stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines import chain

SAMPLES = "samples.parquet"
"""Where a stage says of its clips what they are: a row each with ``file`` and what was asked for."""
ASKED = ("system", "prompt", "key", "seed")
DECODER = "autoencoder"


def tell(out: Path, node: Mapping[str, Any], paths: Mapping[str, Path], places: Mapping[str, str]) -> None:
    """Append its chain to each clip of an output; equal runs leave equal bytes."""
    clips = list(_clips(out))
    if not clips:
        return
    read = chain.inputs_of(paths, places)
    known = {name: node.get(name) for name in ("stage", "code", "environment", "params", "seed", "command")}
    rows = _rows(out)
    for clip in clips:
        name = clip.relative_to(out).as_posix()
        asked = rows.get(name)
        told = {**known, "path": f"{node['path']}/{name}", **({"asked": asked} if asked else {})}
        chain.append(clip, told, _narrowed(read, asked["system"]) if asked and "system" in asked else read)


def _clips(out: Path) -> Iterator[Path]:
    if not (out / "catalog.parquet").is_file():
        yield from (path for path in sorted(out.rglob("*.mp4")) if path.is_file() and not _is_told(path))


def _is_told(clip: Path) -> bool:
    try:
        return chain.boxed(clip) is not None
    except chain.NoChain:
        return True  # no clip that could be read again, so none that anybody would ask


def _rows(out: Path) -> dict[str, dict[str, Any]]:
    """What was asked for, by file."""
    if not (out / SAMPLES).is_file():
        return {}
    from pyarrow.parquet import read_table

    table = read_table(out / SAMPLES)
    if "file" not in table.column_names:
        return {}
    kept = table.select(["file", *(name for name in ASKED if name in table.column_names)]).to_pylist()
    return {row.pop("file"): row for row in kept if row["file"] is not None}


def _narrowed(read: chain.Read, system: str) -> chain.Read:
    """Of folders of artifacts only the system that made a clip and the decoder; and the nodes behind what is left."""
    inputs: dict[str, dict[str, Any]] = {}
    for name, one in read[0].items():
        holds = {key: own for key, own in (one.get("holds") or {}).items() if key in (system, DECODER)}
        inputs[name] = {"path": one["path"], "digest": one["digest"], **({"holds": holds} if holds else {})}
    nodes, waiting = {}, list(inputs.values())
    while waiting:
        one = waiting.pop()
        for own in (one.get("holds") or {"": one["digest"]}).values():
            if own in read[1] and own not in nodes:
                nodes[own] = read[1][own]
                waiting += nodes[own]["inputs"].values()
    return inputs, nodes
