"""What DVC will record of a stage: held still while it runs, put back when it fails.

DVC reads parameters and code when a stage *ends* and deletes its outputs when it *starts*; both would cost a user the
truth or their results. Reads ``dvc.yaml``, ``dvc.lock`` and the cache as files; imports no DVC.
"""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from pipelines.code.definitions import CodeError
from pipelines.code.stages import Identity, changed, source_folder, stage_identity
from pipelines.commands import GRAPH, stage_entries
from pipelines.document import PARAMS_FILE, load, read_document
from pipelines.stage import StageError, file_digest

LOOK_EVERY_SECONDS = 2.0
"""Between two looks at whether somebody edits what a running stage will be recorded with."""

TIMES, KEPT_TIMES = Path(".work/times.json"), 5
"""Seconds of the last runs of every stage; ``reel plan`` forecasts by them."""
TIMED_ABOVE = "DVC_REPRO_TIMED"
"""Set by whoever starts ``dvc repro`` and notes the times itself (Dagster, ``reel run``)."""


def note_time(stage: str, seconds: float) -> None:
    """Remember how long a stage took, unless somebody above does."""
    if TIMED_ABOVE in os.environ:
        return
    try:
        _note(stage, seconds)
    except OSError as error:  # the work is done; a note less is no failure
        print(f"{stage}: warning: {TIMES} cannot be written ({error.strerror or error})", flush=True)


def _note(stage: str, seconds: float) -> None:
    TIMES.parent.mkdir(exist_ok=True)
    with TIMES.open("a+", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.seek(0)
        known: dict[str, list[float]] = {}
        with contextlib.suppress(ValueError, AttributeError):  # half written when a machine lost its power, or by hand
            found = json.loads(stream.read())
            known = {name: took for name, took in found.items() if isinstance(took, list)}
        known[stage] = [*known.get(stage, []), round(seconds, 1)][-KEPT_TIMES:]
        stream.truncate(0)
        stream.write(json.dumps(known, indent=1, sort_keys=True))


def _code(entry: Mapping[str, Any]) -> list[Path]:
    """The Python files among a stage's dependencies."""
    paths = [Path(dependency) for dependency in entry.get("deps", [])]
    found = [sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.suffix == ".py" else [] for path in paths]
    return [source for sources in found for source in sources]


def _touched(stage: str) -> dict[Path, int]:
    """When each file that may matter to the stage was last written: cheap enough to ask every few seconds."""
    reached = (file for file in source_folder().joinpath("pipelines").rglob("*") if "__pycache__" not in file.parts)
    files = [GRAPH, PARAMS_FILE, *_code(stage_entries().get(stage, {})), *reached]
    return {file: file.stat().st_mtime_ns for file in files if file.is_file()}


def tracked_inputs(stage: str, code: Identity | None = None) -> tuple[dict[str, Any], Identity]:
    """What DVC will record of the stage besides data: parameters, command, code files among its dependencies; its code.

    ``code``: its identity, where it is known.

    Raises:
        CodeError: its code cannot be understood.
    """
    entry = stage_entries().get(stage, {})
    values = read_document(PARAMS_FILE)[0]
    sections = [name for name in entry.get("params", []) if isinstance(name, str)]
    snapshot: dict[str, Any] = {f"params.yaml: {name}": values.get(name) for name in sections}
    snapshot["dvc.yaml: cmd"] = entry.get("cmd")
    snapshot |= {str(source): file_digest(source) for source in _code(entry)}
    return snapshot, code or stage_identity(stage, entry) or Identity("", {})


def _changed(before: tuple[dict[str, Any], Identity], stage: str) -> list[str]:
    (was, code_then), (now, code_now) = before, tracked_inputs(stage)
    found = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
    if code_then.value != code_now.value:
        found += [f"code: {name}" for name in changed(code_then.parts, code_now.parts)]
    return found


def _configured(name: str, default: str) -> tuple[Path, str]:
    """A value of ``[cache]`` in DVC's configuration of this project, and the folder that paths in it start from."""
    found = Path(), default
    for file in ("config", "config.local"):
        reader = configparser.ConfigParser(interpolation=None)
        with contextlib.suppress(configparser.Error):
            reader.read(Path(".dvc") / file, encoding="utf-8")
            value = reader.get("cache", name, fallback=None)
            found = found if value is None else (Path(".dvc"), value.strip("\"'"))
    return found


HASH = re.compile(r"[0-9a-f]{32}(\.dir)?")
"""What names an object of DVC's cache."""


def cache_folder() -> Path:
    """Where DVC keeps what it tracks in this project: ``cache.dir`` of its configuration, else ``.dvc/cache``."""
    folder, value = _configured("dir", ".dvc/cache")
    return folder / value


def link_types() -> list[str]:
    """How DVC puts a file of its cache into the project: ``cache.type``, the first that works; its own default else."""
    return [name.strip().strip("\"'") for name in _configured("type", "reflink,copy")[1].strip("[]").split(",")]


def files_listed(text: str) -> dict[str, str]:
    """The MD5 of an output's files by their places in it, as DVC's list of a folder says.

    Raises:
        ValueError: no DVC wrote it: it is damaged, or would lead out of the output or the cache.
    """
    try:
        found = {str(item["relpath"]): str(item["md5"]) for item in json.loads(text)}
    except (TypeError, KeyError, RecursionError):
        raise ValueError("is no list of DVC's") from None
    for name, md5 in found.items():
        if not name or Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name or not HASH.fullmatch(md5):
            raise ValueError("names what is no file of the output")
    return found


def cached_files(md5: str) -> dict[str, Path]:
    """Files of an output by their place in it (a file's own is ""), in DVC's cache; empty where it is not there."""

    def place(name: str) -> Path:
        return cache_folder() / "files" / "md5" / name[:2] / name[2:]

    if not HASH.fullmatch(md5) or not place(md5).is_file():
        return {}
    if not md5.endswith(".dir"):
        return {"": place(md5)}
    try:
        return {name: place(own) for name, own in files_listed(place(md5).read_text(encoding="utf-8")).items()}
    except ValueError:
        return {}


def _recorded_outs(text: str) -> list[dict[str, Any]]:
    """``outs`` of every stage in a lock file, or of the one stage in an entry of the run cache."""
    content = load(text) or {}
    entries = (content.get("stages") or {}).values() if "stages" in content else [content]
    return [out for entry in entries for out in entry.get("outs", [])]


def earlier_versions(out: Path, most: int) -> list[dict[str, Path]]:
    """Earlier contents of the output ``out`` as :func:`cached_files` gives them: the last recorded one first, then
    those of DVC's run cache, newest first.
    """
    lock, runs = Path("dvc.lock"), (cache_folder() / "runs").glob("*/*/*")
    newest = sorted((path for path in runs if path.suffix == ""), key=lambda path: path.stat().st_mtime, reverse=True)
    hashes: dict[str, None] = {}
    for record in [*([lock] if lock.is_file() else []), *newest]:
        text = record.read_text(encoding="utf-8")
        if f"path: {out.as_posix()}\n" in text:
            outs = [one for one in _recorded_outs(text) if one["path"] == out.as_posix()]
            hashes |= {one["md5"]: None for one in outs if "md5" in one}
        if len(hashes) >= most:
            break
    return [files for md5 in hashes if (files := cached_files(md5))]


def link(file: Path, place: Path) -> None:
    """Put a file at a second place: one copy on the disk where the file system can, two where not."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.hardlink_to(file)
    except OSError:
        _copied(file, place)


def _copied(file: Path, place: Path) -> None:
    """A copy under a name of its own: what was there may be a link to a cached file, which is not written through."""
    partial = place.with_name(f".{place.name}.partial-{os.getpid()}")
    try:
        shutil.copyfile(file, partial)
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)


def placed(file: Path, place: Path, kinds: Sequence[str]) -> None:
    """Put a file of DVC's cache into the project as its setting says; what is linked is read-only, as DVC makes it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        with contextlib.suppress(OSError):
            if kind == "reflink":
                _clone(file, place)
            elif kind in ("hardlink", "symlink"):
                file.chmod(0o444)
                place.hardlink_to(file) if kind == "hardlink" else place.symlink_to(file.resolve())
            else:
                break
            return
    _copied(file, place)


def _clone(file: Path, place: Path) -> None:
    """A copy that shares its blocks until one of both is written (Btrfs, XFS); OSError where that cannot be."""
    clone_file = 0x40049409  # FICLONE of linux/fs.h
    try:
        with file.open("rb") as source, place.open("xb") as target:
            fcntl.ioctl(target, clone_file, source.fileno())
    except OSError:
        place.unlink(missing_ok=True)
        raise


def restore_outputs(stage: str) -> list[str]:
    """Put outputs that DVC removed back from its cache, as ``dvc.lock`` records them; returns the paths restored."""
    lock = Path("dvc.lock")
    if "DVC_STAGE" not in os.environ or not lock.is_file():
        return []
    entry = ((load(lock.read_text(encoding="utf-8")) or {}).get("stages") or {}).get(stage, {})
    restored, kinds = [], link_types()
    for out in entry.get("outs", []):
        target, files = Path(out["path"]), cached_files(out.get("md5", ""))
        if target.exists() or not files or not all(file.is_file() for file in files.values()):
            continue
        for name, file in files.items():
            placed(file, target / name if name else target, kinds)
        restored.append(out["path"])
    return restored


@contextlib.contextmanager
def unchanged_inputs(stage: str, code: Identity | None = None) -> Iterator[Callable[[], None]]:
    """Fail the stage if its parameters, or definitions that it reaches, were edited inside the block.

    ``code``: the identity that it was started with; None: as it is now.

    Yields a function to call now and then: it warns, once per edit, while there is still time to take it back.

    Raises:
        StageError: naming what changed. The work is kept in ``.work`` for a run with the old values.
    """
    before, touched, said = tracked_inputs(stage, code), _touched(stage), ""
    next_look = time.monotonic() + LOOK_EVERY_SECONDS

    def look() -> None:
        nonlocal touched, said, next_look
        if time.monotonic() < next_look:
            return
        next_look = time.monotonic() + LOOK_EVERY_SECONDS
        with contextlib.suppress(OSError, ValueError, YAMLError):  # half written: seen whole at the next look
            now = _touched(stage)
            if now == touched:
                return
            found, touched = ", ".join(_changed(before, stage)), now
            if found and found != said:
                remedy = "put it back before the stage ends, or its result is not recorded"
                print(f"{stage}: warning: {found} changed while the stage is running; {remedy}", flush=True)
            elif said and not found:
                print(f"{stage}: its inputs are again what they were at the start", flush=True)
            said = found

    yield look
    try:
        edited = _changed(before, stage)
    except CodeError as error:
        edited = [str(error).split(";")[0]]
    if edited:
        raise StageError(
            f"{', '.join(edited)} changed while the stage was running, so its result would be recorded under the "
            "wrong values. Nothing is recorded; run it again (work with the old values is kept in .work)."
        )
