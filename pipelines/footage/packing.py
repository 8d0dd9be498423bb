"""Where clips go in the data set: a file each, or from some number of clips on into tars.

Tars are a function of the clips and their order alone, and a new clip among the others changes the tar that it comes
into, and no other: the clips themselves say where a tar ends, by their content hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.data.catalog import TAR_OFFSET
from pipelines.data.stored import Place, member
from pipelines.data.tar import add, whole_tar
from pipelines.recording import link

USUAL, LEAST, MOST = 256, 64, 1024
"""Clips of a tar: on average about, at least (but for the last one), and at most."""


def deliver(
    rows: Sequence[dict[str, Any]], places: Mapping[str, Place], folder: Path, tars_above: int | None, tars: Path
) -> bool:
    """Put the clips of a data set into its folder, and say in their rows where they are; whether that is in tars.

    Args:
        rows: of the catalog, with ``key``, ``content_hash`` and ``file``.
        places: by key where a clip lies now.
        folder: of the data set; its folder ``clips`` exists.
        tars_above: of more clips than these go into tars; None: each is a file of its own.
        tars: where tars are made, and kept by the caller.
    """
    if tars_above is None or len(rows) <= tars_above:
        for row in rows:
            _put(places[row["key"]], folder / row["file"])
        return False
    tars.mkdir(parents=True, exist_ok=True)
    for group in groups(rows):
        made = _tar([places[row["key"]] for row in group], tars)
        name = f"clips/{made[0].file.name}"
        link(made[0].file, folder / name)
        for row, place in zip(group, made, strict=True):
            row |= {"file": name, TAR_OFFSET: place.offset}
    return True


def groups(rows: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The rows cut up into tars."""
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        is_last = int(row["content_hash"][:8], 16) % USUAL == 0
        if len(group) == MOST or (is_last and len(group) >= LEAST):
            yield group
            group = []
    if group:
        yield group


def _put(place: Place, file: Path) -> None:
    if place.offset is not None:
        file.write_bytes(place.content())
    elif place.file != file:
        link(place.file, file)


def _tar(places: Sequence[Place], tars: Path) -> list[Place]:
    """The places of the same clips in one tar, which holds nothing else; it is made where they are not there yet."""
    named = hashlib.sha256("\n".join(place.key for place in places).encode()).hexdigest()
    file = tars / f"clips-{named[:16]}.tar"
    if all(place.file == file for place in places):
        return list(places)
    made = []
    with whole_tar(file) as tar:
        for place in places:
            made.append(Place(place.key, file, tar.offset))
            add(tar, member(place.key), place.content())
    return made
