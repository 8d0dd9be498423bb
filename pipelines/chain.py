"""What an artifact says of where it came from: ``lineage.json`` in its folder, or a box at the end of an mp4.

It holds a node for the artifact and for everything that went into it, back to the clips: stage, parameters, identity of
the code, seed, versions, inputs by content hash. So a checkpoint that was copied elsewhere still tells its whole chain.
All of it is a function of what went in: an identical run leaves identical bytes. Commit, machine and times are not;
they stand beside it (:mod:`pipelines.run_facts`).
"""

from __future__ import annotations

import hashlib
import json
import struct
import uuid
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines import run_facts
from pipelines.run_facts import Runs
from pipelines.stage import BESIDE, CHAIN, digest, file_digest, write_json

VERSION = 1
BOX = uuid.UUID("6f0d3b7e-2f7c-5c43-9d0e-3b1f5a7c9e21").bytes
"""Of the ``uuid`` box (ISO/IEC 14496-12, 11.1) that holds the chain of a clip; players pass over it."""
CREDENTIALS = uuid.UUID("d8fec3d6-1b0e-483c-9297-5828877ec481").bytes
"""Of the ``uuid`` box that C2PA puts into an mp4, behind its first box: what follows moves by the size of it."""
MOST_BYTES = 16 << 20
"""Of a chain, packed or not: more is no chain of ours."""
Nodes = dict[str, dict[str, Any]]
"""By content hash, what made that artifact."""
Read = tuple[dict[str, dict[str, Any]], Nodes]
"""What a node read, and the nodes of all that."""


class NoChain(ValueError):
    """Nothing in a file or folder says where it came from, or what says so is damaged; told in one line."""


# ---- written ------------------------------------------------------------------------------------------------------


def inputs_of(paths: Mapping[str, Path], places: Mapping[str, str]) -> Read:
    """What is read, by name: place in the project, digest, and the digests of artifacts inside; and all their nodes."""
    read: dict[str, dict[str, Any]] = {}
    nodes: Nodes = {}
    for name, path in paths.items():
        if not path.exists():
            continue
        read[name] = {"path": places[name], "digest": digest(path)}
        holders = [path] if (path / CHAIN).is_file() else sorted(p.parent for p in path.glob(f"*/{CHAIN}"))
        for holder in holders:
            content = _read_json(holder / CHAIN)
            nodes |= content["nodes"]
            if holder is not path:
                read[name].setdefault("holds", {})[holder.name] = content["artifact"]
    return read, nodes


def carry(out: Path, node: Mapping[str, Any], paths: Mapping[str, Path], places: Mapping[str, str]) -> None:
    """Write the chain into the folder of an artifact that is otherwise complete.

    ``paths`` are what it was made from and ``places`` what each is called in the project.
    """
    read, read_nodes = inputs_of(paths, places)
    own = digest(out)
    nodes = {own: {**node, "inputs": read}} | read_nodes  # a copy of what was read is that, whoever made the copy
    content = {"version": VERSION, "artifact": own, "nodes": nodes, "files": beside(out)}
    write_json(out / CHAIN, {**content, "sha256": seal(content)})
    run_facts.leave(out, run_facts.of_inputs(paths, read_nodes))


def name_again(folder: Path) -> None:
    """Let the chain in a copy of an artifact name the small files that the copy has; nothing where it has no chain."""
    if (folder / CHAIN).is_file():
        content = {**_read_json(folder / CHAIN), "files": beside(folder)}
        write_json(folder / CHAIN, {**content, "sha256": seal(content)})


def seal(content: Mapping[str, Any]) -> str:
    """SHA-256 of a record but for its own seal: a bit that flips in it is found."""
    plain = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, allow_nan=False).encode()).hexdigest()


def beside(folder: Path) -> dict[str, str]:
    """Hashes of the files that the artifact's own hash does not name: records, cards, small files.

    Clips are left out: there may be millions, and DVC has their hashes.
    """
    named: set[str] = set()
    if (folder / "checkpoint.json").is_file():
        named = set(_plain_json(folder / "checkpoint.json").get("weights") or {})
    elif (folder / "manifest.json").is_file():
        manifest = _plain_json(folder / "manifest.json")
        named = {*(manifest.get("shards") or {}), *(manifest.get("files") or {}), "manifest.json"}
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in BESIDE)
    if (folder / "catalog.parquet").is_file():
        files = (path for path in files if path.parent == folder)
    told = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: file_digest(path) for name, path in told.items() if name not in named}


def _plain_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def embed(clip: Path, node: Mapping[str, Any], paths: Mapping[str, Path], places: Mapping[str, str]) -> str:
    """Append the chain to an mp4 that this command wrote, with its run and those of what was read; returns its hash.

    Only content credentials may follow (:mod:`pipelines.standards.content_credentials`), which sign the chain as well.
    """
    read, own = inputs_of(paths, places), {digest(clip): run_facts.of_this_process()}
    return append(clip, node, read, run_facts.of_inputs(paths, read[1]) | own)


def append(clip: Path, node: Mapping[str, Any], read: Read, runs: Runs | None = None) -> str:
    """Append the chain to an mp4, as its last write; equal clips get equal bytes, but for ``runs``. Returns its hash.

    ``read`` is what :func:`inputs_of` gives, which costs more than many clips.
    """
    own = digest(clip)
    nodes = {own: {**node, "inputs": read[0]}} | read[1]  # a copy of what was read is that, whoever made the copy
    told = {"version": VERSION, "artifact": own, "nodes": nodes, **({"runs": runs} if runs else {})}
    text = json.dumps(told, sort_keys=True, allow_nan=False)
    packed = zlib.compress(text.encode(), 9)
    with clip.open("ab") as stream:
        stream.write(struct.pack(">I4s16s", 24 + len(packed), b"uuid", BOX) + packed)
    return own


# ---- read ---------------------------------------------------------------------------------------------------------


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NoChain(f"{path}: cannot be read ({error}); `dvc checkout` restores it.") from None
    return _checked(content, path)


def _checked(content: Any, path: Path) -> dict[str, Any]:
    whole = isinstance(content, dict) and content.get("version") == VERSION and isinstance(content.get("nodes"), dict)
    if whole and "sha256" in content and content["sha256"] != seal(content):
        raise NoChain(f"{path}: damaged: it is not what its own SHA-256 says; `dvc checkout` restores it.")
    if not whole or content.get("artifact") not in content["nodes"]:
        raise NoChain(f"{path}: no lineage of version {VERSION}; it was damaged, or written by another Reelgraph.")
    if not all(isinstance(node, dict) and isinstance(node.get("inputs"), dict) for node in content["nodes"].values()):
        raise NoChain(f"{path}: its nodes are damaged; `dvc checkout` restores it.")
    return content


def boxes(clip: Path) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and size of the boxes at the top of an mp4.

    Raises:
        NoChain: it is cut, or no mp4.
    """
    length, at = clip.stat().st_size, 0
    with clip.open("rb") as stream:
        while at < length:
            stream.seek(at)
            head = stream.read(16)
            size, kind = struct.unpack(">I4s", head[:8]) if len(head) >= 8 else (0, b"")
            size = struct.unpack(">Q", head[8:16])[0] if size == 1 and len(head) == 16 else size or length - at
            if not kind or size < 8 or at + size > length:
                raise NoChain(f"{clip}: damaged or no mp4 (a box of {size} bytes at offset {at} of {length}).")
            yield kind, at, size
            at += size


def boxed(clip: Path) -> tuple[dict[str, Any], str] | None:
    """The chain in a clip, and the hash of the clip without it; None where it has none."""
    for kind, at, size in boxes(clip):
        if kind != b"uuid" or size < 24 or size > MOST_BYTES:
            continue
        with clip.open("rb") as stream:
            stream.seek(at)
            if stream.read(24)[8:] != BOX:
                continue
            try:
                unpacker = zlib.decompressobj()
                text = unpacker.decompress(stream.read(size - 24), MOST_BYTES)
                content = json.loads(text) if unpacker.eof else None
            except (zlib.error, ValueError):
                content = None
        return _checked(content, clip), _made(clip, at)
    return None


def _made(clip: Path, end: int) -> str:
    """The hash of a clip up to ``end`` as it was before content credentials, if any, were put into it."""
    parts = [(kind, at, size) for kind, at, size in boxes(clip) if at < end]
    with clip.open("rb") as stream:

        def starts(at: int, mark: bytes) -> bool:
            stream.seek(at + 8)
            return stream.read(16) == mark

        put = next(((at, size) for kind, at, size in parts if kind == b"uuid" and starts(at, CREDENTIALS)), None)
        found = hashlib.sha256()
        for kind, at, size in parts:
            if put is not None and at == put[0]:
                continue
            stream.seek(at)
            if put is not None and kind == b"moov" and size <= MOST_BYTES:
                found.update(_moved_back(bytearray(stream.read(size)), *put))
                continue
            for done in range(0, size, 1 << 20):
                found.update(stream.read(min(1 << 20, size - done)))
    return found.hexdigest()


HOLDERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
"""Boxes down to the tables that say where in the file each chunk of frames begins (ISO/IEC 14496-12, 8.7.5)."""


def _moved_back(moov: bytearray, put_at: int, put_size: int, start: int = 0, end: int | None = None) -> bytearray:
    """The same box with every place behind what was put in moved back by its size."""
    at, end = start, len(moov) if end is None else end
    while at + 8 <= end:
        size, kind = struct.unpack_from(">I4s", moov, at)
        if size < 8 or at + size > end:
            break
        if kind in HOLDERS:
            _moved_back(moov, put_at, put_size, at + 8, at + size)
        elif kind in (b"stco", b"co64"):
            code, wide = (">Q", 8) if kind == b"co64" else (">I", 4)
            count = min(struct.unpack_from(">I", moov, at + 12)[0], (size - 16) // wide) if size >= 16 else 0
            for place in range(at + 16, at + 16 + count * wide, wide):
                [chunk] = struct.unpack_from(code, moov, place)
                struct.pack_into(code, moov, place, chunk - put_size if chunk > put_at + put_size - 1 else chunk)
        at += size
    return moov


def carried(path: Path) -> tuple[dict[str, Any], str | None]:
    """The chain that a file or folder carries, and the content hash of what lies there now.

    A file without a chain of its own (a shard, a weight file) is part of the artifact in whose folder it lies; then the
    hash is that of the artifact. An earlier checkpoint or data set, which has no ``lineage.json``, tells what it knows.

    Raises:
        NoChain: nothing there says so.
    """
    if not path.exists():
        raise NoChain(f"{path}: no such file or folder.")
    if path.is_file() and path.suffix.lower() == ".mp4":
        found = boxed(path)
        if found is not None:
            return found
    folder = artifact_folder(path)
    if folder is not None:
        if (folder / CHAIN).is_file():
            return _read_json(folder / CHAIN), content_hash(folder)
        return _of_record(folder), None
    raise NoChain(
        f"{path}: nothing in it says where it came from: no {CHAIN} or checkpoint.json in its folder, no box in an "
        "mp4. What a stage writes carries it; what was made before it did, does not."
    )


def artifact_folder(path: Path) -> Path | None:
    """The folder that tells of a path: itself, or one of the next above it; None where there is none."""
    folders = [path, *path.absolute().parents][:4] if path.is_dir() else [*path.absolute().parents][:3]
    for folder in folders:
        if (folder / CHAIN).is_file() or (folder / "checkpoint.json").is_file():
            return folder
        if path.is_dir() and folder == path and (folder / "dvc.yaml").is_file():
            break
    return None


def content_hash(folder: Path) -> str:
    """The hash by which artifacts name this one.

    Raises:
        NoChain: the file in which it describes itself is damaged.
    """
    try:
        return digest(folder)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise NoChain(
            f"{folder}: what it says of itself cannot be read ({error}); `dvc checkout` restores it."
        ) from None


def _of_record(folder: Path) -> dict[str, Any]:
    """A checkpoint from before chains: its own node, what it read by hash alone."""
    own = content_hash(folder)
    record = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    read = dict(record.get("inputs") or {}) | ({"parent": record["parent"]} if record.get("parent") else {})
    known = {name: record.get(name) for name in ("stage", "params", "code", "seed", "command", "environment")}
    rest = {"step": record.get("step"), "segments": record.get("segments"), "path": folder.name}
    results = record.get("results") or {}
    gates = [*(results.get("gates") or []), *(results.get("baselines") or [])]
    return {"version": VERSION, "artifact": own, "nodes": {own: {**known, **rest, "gates": gates, "inputs": read}}}
