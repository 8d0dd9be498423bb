"""What is gone and does not come back by itself: each path with the file and line that records it, and the remedy.

A deleted output is no mistake: DVC takes it from its cache or runs the stage again. Data that no stage makes, and what
a frozen stage made, can only come from the cache, a remote, or whoever has it; `dvc` itself then says `missing data
'source'` or `[Errno 2]`.
"""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from dagster_dvc import graph
from dagster_dvc.lock import read_lock
from dagster_dvc.project import DvcProject, Stage

HASH = re.compile(r"[0-9a-f]{32}(\.dir)?")
"""What names an object of DVC's cache; anything else becomes no path."""


def in_cache(project: DvcProject, hash_: str | None, is_legacy: bool = False) -> bool:
    """Whether DVC's cache holds the object of this hash; of a folder, every file in it. DVC 2 had another place."""
    if not hash_ or not HASH.fullmatch(hash_):
        return False
    found = Path(_object(project, hash_, is_legacy))
    if not found.is_file() or not hash_.endswith(".dir"):
        return found.is_file()
    hashes = [member["md5"] for member in json.loads(found.read_text(encoding="utf-8"))]
    return all(HASH.fullmatch(one) and os.path.isfile(_object(project, one, is_legacy)) for one in hashes)  # noqa: PTH113


def cached_files(project: DvcProject, hash_: str) -> dict[str, Path]:
    """Files of an output by their place in it ("" for a file), in DVC's cache; empty where they are not all there."""
    if not in_cache(project, hash_):
        return {}
    found = Path(_object(project, hash_))
    if not hash_.endswith(".dir"):
        return {"": found}
    members = json.loads(found.read_text(encoding="utf-8"))
    inside = [Path(member["relpath"]) for member in members]
    if any(path.is_absolute() or ".." in path.parts for path in inside):
        return {}  # a listing that no DVC wrote: it would lead out of the output
    return {member["relpath"]: Path(_object(project, member["md5"])) for member in members}


def lost(project: DvcProject, stages: Iterable[Stage]) -> list[str]:
    """One line for every missing path that no run brings back: sources, code, and outputs of frozen stages."""
    stages = list(stages)
    runs = [stage for stage in stages if not stage.frozen]  # what a frozen stage read is needed no more
    lines = [_source(project, stage, dep) for stage in runs for dep in _absent(project, stage.deps)]
    frozen = [stage for stage in stages if stage.frozen]
    lines += [_frozen(project, stage, path) for stage in frozen for path in _absent(project, _outs(stage))]
    return list(dict.fromkeys(filter(None, lines)))


def wanted(project: DvcProject, stage: Stage) -> list[str]:
    """Why this stage cannot run: all that is lost, and inputs that another stage has to make again first."""
    makers = {path: project.producer(path) for path in _absent(project, stage.deps)}
    lines = [
        f"{stage.file}:{stage.line}: stage '{stage.name}' reads {path}, which is missing; "
        f"make it again: dvc repro {made[0].name}"
        for path, made in makers.items()
        if made
    ]
    return [*lost(project, [stage]), *lines]


def _object(project: DvcProject, hash_: str, is_legacy: bool = False) -> str:
    """As text: of a folder there may be hundreds of thousands."""
    cache = project.manifest["cache"].removesuffix("/files/md5") if is_legacy else project.manifest["cache"]
    return os.path.join(project.root, cache, hash_[:2], hash_[2:])  # noqa: PTH118


def _outs(stage: Stage) -> list[str]:
    return [out.path for out in stage.outs]


def _absent(project: DvcProject, paths: Iterable[str]) -> list[str]:
    return [path for path in paths if "://" not in path and not (project.root / path).exists()]


def _source(project: DvcProject, stage: Stage, path: str) -> str:
    if project.producer(path):
        return ""
    tracked = next((source for source in project.manifest["sources"] if graph.overlap(path, source["path"])), None)
    if tracked is None:
        place = f"{stage.file}:{stage.line}: stage '{stage.name}' reads {path}"
        return f"{place}, which is missing and which no stage makes; put it there"
    place = _place(project, tracked["file"], tracked["md5"])
    return f"{place}: {path} is missing; {_remedy(project, tracked['path'], tracked['md5'], 'put the same file there')}"


def _frozen(project: DvcProject, stage: Stage, path: str) -> str:
    entry = read_lock(project).get(stage.name)
    locked = entry.outs.get(path) if entry else None
    hash_, is_legacy = (locked.hash, locked.is_legacy) if locked else (None, False)
    place = _place(project, str(Path(stage.file).with_suffix(".lock")), hash_)
    otherwise = f"take 'frozen' from {stage.file}:{stage.line} and run it again"
    return f"{place}: {path} is missing and stage '{stage.name}' is frozen; " + _remedy(
        project, stage.name, hash_, otherwise, is_legacy
    )


def _remedy(project: DvcProject, target: str, hash_: str | None, otherwise: str, is_legacy: bool = False) -> str:
    if in_cache(project, hash_, is_legacy):
        return f"bring it back: dvc checkout {target}"
    return f"DVC's cache does not hold {hash_ or 'it'} either; dvc pull {target}, or {otherwise}"


def _place(project: DvcProject, file: str, text: str | None) -> str:
    """``file:line`` of the first line that holds the text."""
    path = project.root / file
    lines = path.read_text(encoding="utf-8").splitlines() if text and path.is_file() else []
    return f"{file}:{next((number for number, line in enumerate(lines, 1) if str(text) in line), 1)}"
