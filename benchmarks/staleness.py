"""`python -m benchmarks staleness`: what past commits made stale, by folders of code and by the identity of the code.

The last 118 commits (or all there are) that touch ``pipelines/`` are read from git, each beside its parent and with its
own ``dvc.yaml``. By folders, a stage is stale when a file in a folder of code among its dependencies changed, as at
commit f9ffa0f. By identity, when the hash of the definitions that its function reaches did. What follows a stale stage
is not counted.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import yaml

from benchmarks.paired import Figure
from pipelines.code.definitions import CodeError, Module
from pipelines.code.source import Source
from pipelines.code.stages import stage_identity
from pipelines.commands import stage_entries
from pipelines.stage import file_digest

ROOT = Path(__file__).parents[1]
COMMITS = 118
LAST = "f9ffa0f"
"""The last commit whose stages depend on folders of code; from there on both ways would count the same."""
TRAINS = {
    "autoencoder",
    "latent_mae",
    "anchored_flow_identity",
    "anchored_flow_motion",
    "anchored_flow_unified",
    "rectified_flow",
}


def git(*words: str) -> bytes:
    """Output of a git command in this repository."""
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=True).stdout


class Remembering(Source):
    """A package most of whose files were read before, in another commit."""

    known: ClassVar[dict[tuple[str, str], Module]] = {}

    def _read(self, name: str) -> Module | None:
        place = self.root / Path(*name.split("."))
        path = next((one for one in (place / "__init__.py", place.with_suffix(".py")) if one.is_file()), None)
        if path is None:
            return None
        key = (name, file_digest(path))
        if key not in self.known and (found := super()._read(name)) is not None:
            self.known[key] = found
        return replace(self.known[key], path=path)


@dataclass(frozen=True)
class Codes:
    """Of every stage of a commit its code, told in the two ways."""

    folders: dict[str, object]
    identities: dict[str, object]


def codes(commit: str) -> Codes:
    """What the stages of a commit are made of."""
    trees = {}
    for line in git("ls-tree", "-r", "-t", commit).decode().splitlines():
        facts, path = line.split("\t")
        trees[path] = facts.split()[2]
    folders: dict[str, object] = {}
    identities: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as place:
        with tarfile.open(fileobj=io.BytesIO(git("archive", commit, "pipelines", "dvc.yaml"))) as tar:
            tar.extractall(place, filter="data")
        source = Remembering(Path(place))
        for name, entry in stage_entries(Path(place) / "dvc.yaml").items():
            folders[name] = {dep: trees.get(dep) for dep in entry.get("deps", []) if dep.startswith("pipelines")}
            try:
                found = stage_identity(name, entry, source)
                identities[name] = found.value if found else None
            except (CodeError, yaml.YAMLError) as error:  # a commit in the middle of work
                identities[name] = f"{commit}: {error}"
    return Codes(folders, identities)


def changed(before: dict[str, object], after: dict[str, object]) -> set[str]:
    """The stages that both have, with other code."""
    return {name for name in before.keys() & after.keys() if before[name] != after[name]}


def measure(last: str = LAST) -> list[Figure]:
    """Stages and trainings made stale per commit; every commit is printed."""
    commits = git("log", f"-{COMMITS}", "--no-merges", "--format=%H", last, "--", "pipelines").decode().split()
    counts = []
    for commit in commits:
        before, after = codes(f"{commit}^"), codes(commit)
        old, new = changed(before.folders, after.folders), changed(before.identities, after.identities)
        counts.append((len(old), len(new), len(old & TRAINS), len(new & TRAINS)))
        subject = git("log", "-1", "--format=%h %s", commit).decode().strip()[:70]
        print("    stages {:2d} -> {:2d}, trainings {} -> {}   {}".format(*counts[-1], subject), flush=True)
    means = [sum(row[column] for row in counts) / len(counts) for column in range(4)]
    stages_by_folders, stages, trainings_by_folders, trainings = means
    print(f"  {len(counts)} commits up to {last}", flush=True)
    return [
        Figure("stages made stale", f"{stages:.2f} a commit", f"{stages_by_folders:.2f} by folders", "of it",
               (stages / stages_by_folders,), "at most 3.5 a commit"),
        Figure("trainings made stale", f"{trainings:.2f} a commit", f"{trainings_by_folders:.2f} by folders", "of it",
               (trainings / trainings_by_folders,), "at most 2.3 a commit"),
    ]  # fmt: skip


if __name__ == "__main__":
    for figure in measure(*sys.argv[1:2]):
        print(figure)
