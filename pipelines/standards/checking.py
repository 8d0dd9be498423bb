"""What ``reel audit`` looks at in a release: its signature, its statements, and whether git holds the code that ran."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pipelines.chain import NoChain, carried
from pipelines.provenance import SHORT, lineage
from pipelines.stage import RUNS, StageError
from pipelines.standards import signing, statements

Verdict: TypeAlias = Literal["verified", "missing", "does not match", "unknown"]
Found: TypeAlias = tuple[str, Verdict, str]
"""What was looked at, verdict, and what was seen: what :mod:`pipelines.data.audit` tells."""


def items(folder: Path, quick: bool, trusted: Path | None) -> Iterator[Found]:
    """Everything that a release has beside an artifact; nothing where the folder is none.

    ``trusted`` is the public key of whoever the release must be of; without it the release's own key is taken, which
    tells damage from whole and says by its fingerprint whose it is.
    """
    if not any((folder / name).exists() for name in (signing.SIGNATURE, signing.PUBLIC, statements.FILE)):
        return
    try:
        key = signing.public_key(trusted or folder / signing.PUBLIC)
        signed = signing.signed_files(folder, key)
    except signing.BadSignature as error:
        yield signing.SIGNATURE, "does not match", str(error)
        yield from _runs(folder)
        return
    whose = "the key given" if trusted else "its own key; compare the fingerprint with what its owner published"
    yield signing.SIGNATURE, "verified", f"{len(signed)} files signed by {signing.fingerprint(key)[:16]}, {whose}"
    yield from _files(folder, signed, quick)
    yield from _statements(folder, key)
    yield from _runs(folder)


def _files(folder: Path, signed: dict[str, str], quick: bool) -> Iterator[Found]:
    try:
        if quick:
            here = signing.files(folder)
            for name in sorted(signed.keys() - here.keys()):
                yield name, "missing", "it was signed"
            for name in sorted(here.keys() - signed.keys()):
                yield name, "does not match", signing.ADDED
            yield "signed files", "unknown", "their bytes were not read (--quick)"
            return
        wrong = dict(signing.differences(folder, signed))
    except StageError as error:
        yield "signed files", "does not match", str(error)
        return
    for name, told in wrong.items():
        verdict: Verdict = "missing" if told.startswith("missing") else "does not match"
        yield name, verdict, told
    for name in sorted(signed.keys() - wrong.keys()):
        yield name, "verified", f"as it was signed, SHA-256 {signed[name][:SHORT]}"


def _statements(folder: Path, key: signing.Public) -> Iterator[Found]:
    """Each signed by the same key, and of artifacts that the chain names."""
    if not (folder / statements.FILE).is_file():
        return
    try:
        made = statements.read(folder / statements.FILE, key)
        nodes = carried(folder)[0]["nodes"]
        about = [_about(statement) for statement in made]
    except (signing.BadSignature, NoChain, OSError, KeyError, TypeError, IndexError) as error:
        yield statements.FILE, "does not match", str(error)
        return
    strange = sorted({one for one in about if one not in nodes})
    untold = sorted(nodes.keys() - set(about))
    if strange or untold:
        named = ", ".join(one[:SHORT] for one in [*strange, *untold])
        yield statements.FILE, "does not match", f"not of the artifacts of lineage.json: {named}"
    else:
        yield statements.FILE, "verified", f"{len(made)} statements, on every artifact of the chain"


def _about(statement: dict[str, Any]) -> str:
    return str(statement["subject"][0]["digest"][statements.CONTENT])


def _runs(folder: Path) -> Iterator[Found]:
    """What ran from code that no commit holds, or of which no run is recorded, cannot be looked up."""
    if not (folder / RUNS).is_file():
        return
    try:
        json.loads((folder / RUNS).read_text(encoding="utf-8"))
        found = lineage(folder)
    except (NoChain, OSError, ValueError):
        yield RUNS, "does not match", "cannot be read"
        return
    for digest, node in found.nodes.items():
        run, stage = found.runs.get(digest) or {}, node.get("stage")
        if run.get("dirty"):
            told = f"ran from commit {str(run.get('commit'))[:SHORT]} with local changes that no commit holds"
            yield f"code of {stage}", "unknown", told
        elif not run.get("commit"):
            yield f"code of {stage}", "unknown", "no commit is recorded"
