"""A revision of the project, or a DVC experiment, in a folder of its own: its code, and the outputs asked for.

The project itself is only read; outputs come from its DVC cache.
"""

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from dagster_dvc.project import ProjectError
from dagster_dvc.yaml12 import load


def said_by(words: list[str], cwd: Path) -> bytes:
    """What a command prints.

    Raises:
        ProjectError: it is not installed, or failed; its last line.
    """
    try:
        return subprocess.run(words, cwd=cwd, check=True, capture_output=True).stdout
    except FileNotFoundError:
        raise ProjectError(f"{words[0]}: not installed, and needed to read a revision") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        command = " ".join(word for word in words if word not in (sys.executable, "-m", "-P"))
        raise ProjectError(f"`{command}` failed: {lines[-1] if lines else error.returncode}") from None


def commit_of(name: str, root: Path) -> str:
    """The commit of a revision, or of the DVC experiment of that name.

    Raises:
        ProjectError: there is neither.
    """
    try:
        refs = said_by(["git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps"], root).decode()
    except ProjectError:
        raise ProjectError(
            f"{name}: no such folder, and git holds no project here that could have a revision"
        ) from None
    lines = [line.partition(" ") for line in refs.splitlines()]
    # refs/exps/<2 digits>/<38 digits>/<name>; what else lies there is DVC's own (exec/EXEC_HEAD, stash)
    found = {ref.split("/")[4]: commit for commit, _, ref in lines if ref.count("/") == 4}
    if name in found:
        return found[name]
    if name.startswith("-"):
        raise ProjectError(f"{name}: not a revision")
    try:
        return said_by(["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"], root).decode().strip()
    except ProjectError:
        known = f" (experiments: {', '.join(sorted(found))})" if found else ""
        raise ProjectError(f"{name}: neither a folder, nor a revision or experiment{known}") from None


def extract(commit: str, root: Path, folder: Path) -> None:
    """The files of a commit, as git has them, in a folder.

    Raises:
        ProjectError: git does not have it.
    """
    with tarfile.open(fileobj=io.BytesIO(said_by(["git", "archive", "--format=tar", commit], root))) as tar:
        tar.extractall(folder, filter="data")


def share_cache(root: Path, folder: Path) -> None:
    """DVC in a folder, without git, with the project's cache."""
    dvc = [sys.executable, "-P", "-m", "dvc"]
    cache = said_by([*dvc, "cache", "dir"], root).decode().strip()
    if not (folder / ".dvc").is_dir():
        said_by([*dvc, "init", "--no-scm", "--quiet"], folder)
    said_by([*dvc, "config", "--local", "core.no_scm", "true"], folder)
    said_by([*dvc, "cache", "dir", "--local", str((root / cache).resolve())], folder)


def outs_of(folder: Path) -> list[str]:
    """Everything that ``dvc.lock`` of a folder names as made by a stage."""
    content = load((folder / "dvc.lock").read_text(encoding="utf-8")) if (folder / "dvc.lock").is_file() else None
    stages = (content or {}).get("stages") or {}
    return [str(out["path"]) for stage in stages.values() for out in stage.get("outs") or ()]


def check_out(name: str, root: Path, folder: Path, is_wanted: Callable[[str], bool]) -> Path:
    """A revision or experiment in a folder, with those of its outputs that are wanted.

    Raises:
        ProjectError: there is no such revision, or DVC has not its outputs.
    """
    extract(commit_of(name, root), root, folder)
    share_cache(root, folder)
    wanted = sorted(filter(is_wanted, outs_of(folder)))
    if not wanted:
        raise ProjectError(f"{name}: dvc.lock of this revision knows none of these results; run them there first")
    try:
        said_by([sys.executable, "-P", "-m", "dvc", "checkout", *wanted], folder)
    except ProjectError as error:
        raise ProjectError(f"{name}: {error}. Try `dvc pull` of that revision, or `dvc exp pull`") from None
    return folder
