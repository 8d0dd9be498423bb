"""Resume state on disk: complete, whole or absent, and never a pickle.

A tree of dictionaries and lists is stored as ``state.json`` (structure and plain values) and ``state.safetensors``
(the tensors, named by their place). A state folder is written beside its final place, flushed and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pipelines.outputs import follow_umask
from pipelines.stage import StageError, file_digest, say

KEEP = 2
"""How many complete states stay; the last good one is never removed first."""


def split(tree: Any, place: str, tensors: dict[str, torch.Tensor]) -> Any:
    """The tree with a copy of each tensor put aside under its place; dictionaries keep non-string keys."""
    if isinstance(tree, torch.Tensor):
        tensors[place] = tree.detach().to("cpu", copy=True).contiguous()
        return {"tensor": place}
    if isinstance(tree, dict):
        return {"items": [[key, split(value, f"{place}/{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return {"list": [split(value, f"{place}/{index}", tensors) for index, value in enumerate(tree)]}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return {"value": tree}
    raise TypeError(f"{place}: a {type(tree).__name__} cannot be part of a resume state.")


def join(node: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Inverse of :func:`split` (tuples come back as lists)."""
    if "tensor" in node:
        return tensors[node["tensor"]]
    if "items" in node:
        return {key: join(value, tensors) for key, value in node["items"]}
    if "list" in node:
        return [join(value, tensors) for value in node["list"]]
    return node["value"]


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def snapshot(tree: dict[str, Any]) -> tuple[Any, dict[str, torch.Tensor]]:
    """Structure and tensors of a tree as they are now: what is trained on afterwards does not change them."""
    tensors: dict[str, torch.Tensor] = {}
    structure = split(tree, "", tensors)
    return structure, tensors


def _write(folder: Path, step: int, structure: Any, tensors: dict[str, torch.Tensor]) -> Path:
    final = folder / f"state-{step:09d}"
    partial = folder / f".state-{step:09d}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_file(tensors, partial / "state.safetensors")
        digest = file_digest(partial / "state.safetensors")
        text = json.dumps({"step": step, "tensors": digest, "tree": structure})
        check = hashlib.sha256(text.encode()).hexdigest()
        (partial / "state.json").write_text(json.dumps({"check": check, "content": text}), encoding="utf-8")
        follow_umask(partial)
        for path in (partial / "state.safetensors", partial / "state.json", partial):
            _flush(path)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _flush(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in sorted(folder.glob("state-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def write(folder: Path, step: int, tree: dict[str, Any]) -> Path:
    """Write the state of ``step``; older complete states are removed only after it is safe on disk."""
    return _write(folder, step, *snapshot(tree))


class Writer:
    """Writes states in a thread, one after another, while training goes on; a failure is raised at the next call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="state")
        self.pending: Future[Path] | None = None

    def write(self, step: int, tree: dict[str, Any]) -> None:
        """Take a snapshot now and write it soon; waits for the one before, so that at most one is held in memory."""
        self.wait()
        self.pending = self.pool.submit(_write, self.folder, step, *snapshot(tree))

    def wait(self) -> None:
        """Until all that was given is on disk."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.result()


class Damaged(ValueError):
    """A state is not what was written, or not all of it: content decides, never an error of the disk's moment."""


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """An error of the disk's moment in one line; the state stays as it is."""
    try:
        yield
    except OSError as error:
        raise StageError(
            f"{error.filename or path}: {error.strerror or error}. The state is left as it is: run it again when the "
            f"disk answers. To go on from the state before it, remove {path}."
        ) from None


def _content(path: Path) -> dict[str, Any]:
    """Structure and digests of a state, as they were written."""
    try:
        outer = json.loads((path / "state.json").read_text(encoding="utf-8"))
        text = outer["content"]
        is_whole = hashlib.sha256(text.encode()).hexdigest() == outer["check"]
    except FileNotFoundError:
        raise Damaged("state.json is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damaged("state.json is damaged") from None
    if not is_whole:
        raise Damaged("state.json is damaged")
    return json.loads(text)


def _load(path: Path) -> dict[str, Any]:
    content = _content(path)
    try:
        digest = file_digest(path / "state.safetensors")
    except FileNotFoundError:
        raise Damaged("state.safetensors is missing") from None
    if digest != content["tensors"]:
        raise Damaged("state.safetensors is damaged")
    return join(content["tree"], load_file(path / "state.safetensors"))


def facts(path: Path) -> dict[str, Any]:
    """What a state says of its run, with its step; no tensor is read.

    Raises:
        Damaged: ``state.json`` is not what was written. KeyError: it is of an earlier form.
        StageError: it cannot be read at the moment.
    """
    with _readable(path):
        content = _content(path)
    tree = dict(content["tree"]["items"])
    return {"step": content["step"], **join(tree["run"], {})}


def complete(folder: Path) -> list[Path]:
    """The states of a run, newest first; none where there is no such folder.

    Raises:
        StageError: the folder cannot be read at the moment.
    """
    with _readable(folder):
        names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208 (a glob is silent about what it cannot read)
    return [folder / name for name in sorted(names, reverse=True) if name.startswith("state-")]


def newest(folder: Path) -> dict[str, Any] | None:
    """The newest complete state; a damaged one is named and set aside as ``broken-…``. None where there is none.

    Raises:
        StageError: a state cannot be read at the moment. It is left where it is.
    """
    for path in complete(folder):
        try:
            with _readable(path):
                return _load(path)
        except Damaged as error:
            aside = path.with_name(f"broken-{path.name}-{os.getpid()}")
            path.rename(aside)
            say(f"resume state {path.name} is not usable ({error}); set aside as {aside.name}")
    return None


# ---- of a network ----


def trained_part(network: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a network without its frozen weights, which the stage builds or loads again."""
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in network.state_dict().items() if name not in frozen}


def load_trained_part(network: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Inverse of :func:`trained_part`."""
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    network.load_state_dict(
        {**{name: value for name, value in network.state_dict().items() if name in frozen}, **state}
    )
