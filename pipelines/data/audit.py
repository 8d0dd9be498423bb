"""``reel audit DIR``: is everything in a folder what it says it is, and is no clip of a held-out split trained on?

Reads every byte of the artifacts in DIR (a release, a copy, a project) and compares it with what they record: weights,
shards, chains and what they were made from. Per item: verified, missing, does not match, or unknown where nothing is
recorded. ``--quick`` looks at names, sizes and manifests and reads no shards and weights. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipelines import run_facts
from pipelines.chain import NoChain, beside, carried, content_hash
from pipelines.data import audit_clips, audit_dvc, audit_used
from pipelines.data.audit_clips import CATALOG
from pipelines.data.audited import BAD, Item
from pipelines.data.contract import MANIFEST, ContractError, Manifest
from pipelines.data.verify import verify
from pipelines.described import read_json
from pipelines.provenance import SHORT, answered
from pipelines.stage import CHAIN, RUNS, StageError, file_digest
from pipelines.standards import checking
from pipelines.standards.signing import SIGNATURE
from pipelines.told import plain

RECORD = "checkpoint.json"
SIGNS = (CHAIN, RECORD, MANIFEST, CATALOG)
"""Files by which a folder is known as an artifact."""
DEEPEST = 4
"""Folders below DIR in which artifacts are looked for."""


def artifacts(root: Path) -> list[Path]:
    """The folders of artifacts at DIR and below; hidden folders and what lies inside an artifact apart.

    Raises:
        StageError: there is none.
    """
    found: list[Path] = []
    waiting = [(root, 0)]
    while waiting:
        folder, depth = waiting.pop()
        if any((folder / name).is_file() for name in SIGNS):
            found.append(folder)
        elif depth < DEEPEST and folder.is_dir():
            inside = sorted((path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."), reverse=True)
            waiting += [(path, depth + 1) for path in inside]
    if not found:
        raise StageError(f"{root}: no checkpoint, data set or other artifact of ours in it ({', '.join(SIGNS)}).")
    return found


def audit(root: Path, quick: bool = False, trusted: Path | None = None) -> Iterator[Item]:
    """Everything in the folder, item by item; ``trusted`` is the public key that a release must be signed with.

    Raises:
        StageError: there is nothing to audit.
    """
    folders = artifacts(root)
    here = {_digest(folder): folder for folder in [*_inside(folders), *folders]}
    for folder in folders:
        shown = folder.relative_to(root).as_posix() if folder != root else folder.name or str(folder)
        yield from _weights(folder, shown, quick)
        yield from _shards(folder, shown, quick)
        yield from _chain(folder, shown, here, root, quick)
        yield from audit_clips.audit(folder, shown, quick, is_known=not quick and (root / audit_dvc.LOCK).is_file())
        for name, verdict, what in checking.items(folder, quick, trusted):
            yield Item(f"{shown}/{name}", verdict, what)
    if not quick:
        yield from audit_dvc.audit(root)


def _inside(folders: Sequence[Path]) -> list[Path]:
    """Checkpoints that artifacts hold, as a release holds the autoencoder of its latents."""
    return [record.parent for folder in folders for record in sorted(folder.glob(f"*/{RECORD}"))]


def _digest(folder: Path) -> str:
    try:
        return content_hash(folder)
    except NoChain:
        return ""


def _weights(folder: Path, shown: str, quick: bool) -> Iterator[Item]:
    if not (folder / RECORD).is_file():
        return
    try:
        recorded = dict(read_json(folder / RECORD)["weights"])
    except (ValueError, KeyError, TypeError):
        yield Item(f"{shown}/{RECORD}", "does not match", "cannot be read, or names no weights")
        return
    for name, expected in recorded.items():
        path = folder / name
        if not path.is_file():
            yield Item(f"{shown}/{name}", "missing", f"{RECORD} names it")
        elif quick:
            yield Item(f"{shown}/{name}", "unknown", "is there; its bytes were not read (--quick)")
        else:
            same = file_digest(path) == expected
            yield Item(f"{shown}/{name}", "verified" if same else "does not match", f"SHA-256 {expected[:SHORT]}")
    known = {(folder / name).resolve() for name in recorded}
    for path in sorted(folder.rglob("*.safetensors")):
        if path.resolve() not in known:
            yield Item(f"{shown}/{path.relative_to(folder)}", "unknown", f"weights that {RECORD} does not name")


def _shards(folder: Path, shown: str, quick: bool) -> Iterator[Item]:
    if not (folder / MANIFEST).is_file():
        return
    try:
        manifest = Manifest.read(folder)
        damages = {} if quick else {one.file: str(one) for one in reversed(list(verify(folder)))}
    except (ContractError, OSError, ValueError) as error:
        yield Item(f"{shown}/{MANIFEST}", "does not match", " ".join(str(error).split()))
        return
    for name, facts in manifest.shards.items():
        path = folder / name
        if not path.is_file():
            yield Item(f"{shown}/{name}", "missing", f"{MANIFEST} names it")
        elif path.stat().st_size != facts.size:
            yield Item(f"{shown}/{name}", "does not match", f"{path.stat().st_size} bytes instead of {facts.size}")
        elif quick:
            yield Item(f"{shown}/{name}", "unknown", "has its size; its bytes were not read (--quick)")
        elif name not in damages:
            yield Item(f"{shown}/{name}", "verified", f"SHA-256 {facts.sha256[:SHORT]}")
        else:
            yield Item(f"{shown}/{name}", "does not match", damages[name])
    for name, told in damages.items():
        if name not in manifest.shards:
            there = (folder / name).is_file()
            yield Item(f"{shown}/{name}", "does not match" if there else "missing", told)


def _chain(folder: Path, shown: str, here: dict[str, Path], root: Path, quick: bool) -> Iterator[Item]:
    """Whether it is what its chain says was made, and whether what it was made from is here."""
    try:
        content, now = carried(folder)
    except NoChain as error:
        is_there = (folder / CHAIN).is_file()
        yield Item(
            f"{shown}/{CHAIN}", "does not match" if is_there else "unknown", str(error).removeprefix(f"{folder}: ")
        )
        return
    own = content["artifact"]
    if now is None:
        yield Item(shown, "unknown", "it carries no hash of itself as it was made")
    else:
        said = f"content {own[:SHORT]}" + ("" if now == own else f", now {now[:SHORT]}")
        yield Item(shown, "verified" if now == own else "does not match", said)
    yield from _beside(folder, shown, content.get("files"))
    for name, one in content["nodes"][own]["inputs"].items():
        for place, wanted in _wanted(one):
            said = f"made from {name} {wanted[:SHORT]}"
            plain = wanted not in here and _is_plain(root, place)
            if plain and quick:
                yield Item(place, "unknown", f"{said}; what lies there was not read (--quick)")
            elif wanted in here or (plain and _digest(root / place) == wanted):
                yield Item(place, "verified", said)
            else:
                yield Item(place, "unknown", f"{said}, which is not here")


def _is_plain(root: Path, place: str) -> bool:
    """Whether a file or folder in DIR that is no artifact (metrics, plots, dvc.yaml) lies where it was read."""
    path = root / place
    inside = path.exists() and path.resolve().is_relative_to(root.resolve())
    return inside and not any((path / name).is_file() for name in SIGNS)


def _beside(folder: Path, shown: str, files: Any) -> Iterator[Item]:
    """Records, cards and small files against the hashes that the chain has of them; and who ran it when."""
    told = run_facts.damage(folder)
    if told is not None:
        yield Item(f"{shown}/{RUNS}", "does not match", told)
    if not isinstance(files, dict):
        return
    try:
        now = beside(folder)
    except (OSError, ValueError):
        return  # its record is damaged, and is told as such
    for name, expected in files.items():
        if name not in now:
            yield Item(f"{shown}/{name}", "missing", f"{CHAIN} names it")
        elif now[name] != expected:
            yield Item(
                f"{shown}/{name}", "does not match", f"SHA-256 {now[name][:SHORT]} instead of {expected[:SHORT]}"
            )
    whole = sum(now.get(name) == expected for name, expected in files.items())
    if files:
        yield Item(f"{shown}: other files", "verified", f"{whole} of {len(files)} have the SHA-256 of {CHAIN}")
    if (folder / SIGNATURE).is_file():
        return  # what came later is told by the signature, which covers it or not
    for name in sorted(now.keys() - files.keys()):
        yield Item(f"{shown}/{name}", "unknown", f"was not there when {CHAIN} was written")


def _wanted(one: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if one.get("holds"):
        yield from ((f"{one['path']}/{name}", held) for name, held in one["holds"].items())
    else:
        yield one["path"], one["digest"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 1 where something is missing or does not match, or a clip was found; 3 where
    that cannot be told."""
    parser = argparse.ArgumentParser(prog="reel audit", description=plain(__doc__))
    parser.add_argument("folder", type=Path, metavar="DIR", help="a release, a copy of artifacts, or a project")
    parser.add_argument("--quick", action="store_true", help="read no shards and no weights")
    parser.add_argument("--key", type=Path, metavar="PUB", help="public key (PEM) that a release must be signed with")
    parser.add_argument(
        "--clip", metavar="CLIP", help="only say whether a clip (key, content hash, source or file) was used"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    given = parser.parse_args(argv)
    try:
        if given.clip is not None:
            return audit_used.answer(given.folder, artifacts(given.folder), given.clip)
        items = []
        for item in audit(given.folder, given.quick, given.key):
            items.append(item)
            if not given.json:
                print(item, flush=True)
    except (StageError, OSError) as error:
        print(f"audit: {error}", file=sys.stderr)
        return 3
    if given.json:
        print(json.dumps([asdict(item) for item in items], indent=2))
    else:
        counts = {
            word: sum(item.verdict == word for item in items) for word in ("verified", *BAD, "unknown", "recorded")
        }
        print(", ".join(f"{count} {word}" for word, count in counts.items()))
    return 1 if any(item.verdict in BAD for item in items) else 0


if __name__ == "__main__":
    sys.exit(answered(main))
