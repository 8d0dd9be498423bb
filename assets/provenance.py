"""Where a result came from, as its page in Dagster says it: code, parent checkpoints, everything that was read."""

import json
import subprocess
from pathlib import Path
from typing import Any

import dagster as dg


def checkpoint_metadata(folder: Path) -> dict[str, Any]:
    """Of a checkpoint folder: steps, seed and a table with the digest of every input. Empty for anything else."""
    record = _json(folder / "checkpoint.json")
    if not record:
        return {}
    metadata: dict[str, Any] = {}
    inputs = [
        {"input": name, "path": str(source.get("path", "")), "digest": str(source.get("digest", ""))[:16]}
        for name, source in (record.get("inputs") or {}).items()
    ]
    if inputs:
        metadata["checkpoint/inputs"] = dg.MetadataValue.table(records=[dg.TableRecord(row) for row in inputs])
    weights = [{"file": name, "sha256": str(digest)[:16]} for name, digest in (record.get("weights") or {}).items()]
    if weights:
        metadata["checkpoint/weights"] = dg.MetadataValue.table(records=[dg.TableRecord(row) for row in weights])
    known = [f"{name} {record[name]}" for name in ("step", "seed") if isinstance(record.get(name), int)]
    if known:
        metadata["checkpoint/run"] = ", ".join(known)
    if record.get("parent"):
        metadata["checkpoint/parent"] = dg.MetadataValue.json(record["parent"])
    card = folder / "README.md"
    if card.is_file():
        metadata["checkpoint/card"] = dg.MetadataValue.md(card.read_text(encoding="utf-8"))
    return metadata


def report_metadata(folder: Path) -> dict[str, Any]:
    """Pages and clips in an output: the path of the first HTML page, the number and place of mp4 files."""
    found: dict[str, Any] = {}
    page = next(iter(sorted(folder.glob("*.html"))), None) if folder.is_dir() else None
    if page:
        found["report"] = dg.MetadataValue.path(str(page))
    clips = sorted(folder.rglob("*.mp4")) if folder.is_dir() else []
    if clips:
        found["clips"] = len(clips)
        found["clips/first"] = dg.MetadataValue.path(str(clips[0]))
    return found


def code_metadata(root: Path) -> dict[str, str]:
    """The commit of the code and whether files differ from it; empty outside git."""
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return {}
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"git/commit": commit, "git/state": "with local changes" if changed else "clean"}


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
