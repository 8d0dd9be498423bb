"""Names on the model hub that move are made to stand still: the commit is written into ``params.yaml``.

``revision: null``, a branch or a tag means other weights tomorrow, under the same parameters; DVC would call the result
up to date. So before a stage runs, what such a name means now is looked up, written in its place (comments stay), and
recorded with the result. Where that cannot be said, the stage does not start.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.document import PARAMS_FILE, read_document
from pipelines.editing import edited
from pipelines.params import Params
from pipelines.stage import StageError

COMMIT = re.compile("[0-9a-f]{40}")
Resolve = Callable[[str, str | None, str | None], str | None]
"""(name, revision, subfolder) to the commit, None where it cannot be said."""


@dataclass(frozen=True)
class Moving:
    """A name on the hub without a commit, and where it stands."""

    place: tuple[str, ...]
    name: str
    revision: str | None
    subfolder: str | None


def moving(params: Any, place: tuple[str, ...]) -> Iterator[Moving]:
    """Every block with ``name`` and ``revision`` that names the hub (and no folder) without a commit."""
    if isinstance(params, Mapping):
        for key, value in params.items():
            yield from moving(value, (*place, str(key)))
    if not isinstance(params, Params):
        return
    fields = dict(params)
    name, revision = fields.get("name"), fields.get("revision")
    if (
        isinstance(name, str)
        and "revision" in fields
        and not Path(name).is_dir()
        and not COMMIT.fullmatch(revision or "")
    ):
        yield Moving(place, name, revision, fields.get("subfolder"))
    for key, value in fields.items():
        yield from moving(value, (*place, key))


def settle(params: Params, section: str, resolve: Resolve, path: Path = PARAMS_FILE) -> list[str]:
    """Write the commit of every moving name of a section; returns a line for each.

    Raises:
        StageError: which commit a name means cannot be said.
    """
    found = {one: resolve(one.name, one.revision, one.subfolder) for one in moving(params, (section,))}
    lines = read_document(path)[1] if found else {}
    said = []
    for one, commit in found.items():
        key = (*one.place, "revision")
        where = f"{path}:{lines.get(key, lines.get(one.place, 1))}: {'.'.join(key)}"
        meant = one.revision or "null, the newest,"
        if commit is None:
            raise StageError(
                f"{where}: {meant} of {one.name} moves, and which commit it is cannot be said: {_why()}. Write the "
                "commit (40 hexadecimal digits), or give a folder as its name."
            )
        _write(path, key, commit)
        said.append(f"{where}: {meant} of {one.name} is commit {commit}; written there, so that it stays so")
    return said


def _why() -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE is set, and the cache {constants.HF_HUB_CACHE} does not know it"
    return "the hub does not answer, or has no such model"


def _write(path: Path, key: tuple[str, ...], commit: str) -> None:
    """One value, whole or not at all; stages that start together wait for one another."""
    Path(".work").mkdir(exist_ok=True)
    with Path(".work/params.lock").open("a") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        change: Any = commit
        for name in reversed(key):
            change = {name: change}
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(edited(path.read_text(encoding="utf-8"), change), encoding="utf-8")
        partial.replace(path)
