"""`reel ablate`: variants and training seeds, each in a folder of its own, and a table of what differs beyond noise.

A folder under ``.work/ablations`` is a copy of the project's code with its own params.yaml, dvc.lock and outputs. It
shares DVC's cache with the project: what no edit touches comes back from the run cache, what a run made is there for
the project and for later ablations. The project's own files are only read. The same command again goes on where it
was stopped: finished stages are unchanged, a stopped training resumes from its folder.
"""

import configparser
import fnmatch
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dagster_dvc.project import DvcProject, ProjectError
from dagster_dvc.results import headline, numbers, read_metrics
from dagster_project import tables
from dagster_project.comparison import LEVEL, Difference, difference, spread
from dagster_project.variants import PARAMS, Ablation, Run, write_params

FOLDER = Path(".work") / "ablations"
SKIPPED = {".git", ".dvc", ".venv", ".work", ".dagster", "__pycache__", "wandb"}
MEANINGS = "pipelines.evaluation.glossary"
"""Says which way a number is better, as the report has it; a room's module, so it runs in its own process."""

Values = dict[str, dict[str, dict[int, float]]]
"""Column (a variant, or a compared prefix) -> number -> seed -> value."""
Judged = dict[str, dict[str, Difference | None]]
"""Column -> number -> its difference to the first column."""


def folder_of(project: DvcProject, run: Run) -> Path:
    """Where a run lives."""
    return project.root / FOLDER / run.folder


def prepare(project: DvcProject, run: Run) -> DvcProject:
    """The run's folder with the project's code as it is now, its own params, and the project's cache.

    Outputs, dvc.lock and the state of a stopped training stay as an earlier call of the same run left them.

    Raises:
        ProjectError: the project reads files beside its folder, which a copy elsewhere would not find.
    """
    outside = [path for path in project.sources if path.startswith("..")]
    if outside:
        raise ProjectError(
            f"dvc.yaml: {', '.join(outside)}: outside of the project; reel ablate works in copies of it. "
            "Name the path from the root of the file system (/…), or move it into the project"
        )
    target = folder_of(project, run)
    wanted = set(_files(project))
    for path in wanted:
        _place(project.root / path, target / path, linked=_in_sources(project, path))
    for path in set(_walked(target, _made(project))) - wanted:
        (target / path).unlink()
    write_params(project.root, target / PARAMS, run.edits)
    if not (target / "dvc.lock").exists() and (project.root / "dvc.lock").exists():
        shutil.copy(project.root / "dvc.lock", target / "dvc.lock")
    _share_cache(project, target)
    return DvcProject(target)


def _files(project: DvcProject) -> Iterator[str]:
    """Code and sources: what git would carry, or, without git, everything that no stage makes."""
    made = _made(project)
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False)
    if done.returncode == 0 and done.stdout:
        listed = [path for path in done.stdout.split("\0") if path and not path.startswith(".dvc/")]
        yield from (path for path in listed if (project.root / path).is_file() and not _inside(path, made))
        for source in project.sources:
            yield from _below(project.root, source)
    else:
        yield from _walked(project.root, made)


def _made(project: DvcProject) -> list[str]:
    """What stages make, and what is written beside them: never copied, never swept away."""
    return [*(out.path for stage in project.stages.values() for out in stage.outs), "dvc.lock", PARAMS]


def _below(root: Path, path: str) -> Iterator[str]:
    found = root / path
    if Path(path).is_absolute():
        return
    files = [found] if found.is_file() else (file for file in found.rglob("*") if file.is_file())
    yield from (str(file.relative_to(root)) for file in files)


def _walked(root: Path, made: Sequence[str]) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if name not in SKIPPED and not _inside(str(here / name), made)]
        yield from (path for name in files if not _inside(path := str(here / name), made))


def _inside(path: str, roots: Sequence[str]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def _in_sources(project: DvcProject, path: str) -> bool:
    return _inside(path, project.sources)


def _place(source: Path, target: Path, linked: bool) -> None:
    """A copy of a file of code, which may be edited while a run goes on; data is linked, where the disk allows it."""
    now = source.stat()
    if target.is_file():
        kept = target.stat()
        if os.path.samestat(now, kept) or (now.st_size, now.st_mtime_ns) == (kept.st_size, kept.st_mtime_ns):
            return
        target.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if linked:
            os.link(source, target)
            return
    except OSError:
        pass  # another file system
    shutil.copy2(source, target)


def _share_cache(project: DvcProject, target: Path) -> None:
    """DVC in the folder: no git of its own, the project's cache, and outputs as links into it."""
    own = target / ".dvc"
    own.mkdir(exist_ok=True)
    if (project.root / ".dvc" / "config").exists():
        shutil.copy(project.root / ".dvc" / "config", own / "config")
    local = configparser.ConfigParser(interpolation=None)
    local.read(project.root / ".dvc" / "config.local", encoding="utf-8")
    local.read_dict({"core": {"no_scm": "true"}})
    local.read_dict({"cache": {"dir": _cache(project.root), "type": "reflink,hardlink,symlink,copy"}})
    with (own / "config.local").open("w", encoding="utf-8") as stream:
        local.write(stream)


@functools.cache
def _cache(root: Path) -> str:
    """DVC's cache of the project, which its configuration may have put anywhere."""
    command = [sys.executable, "-P", "-m", "dvc", "cache", "dir"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProjectError(f".dvc/config: DVC does not tell its cache: {done.stderr.strip()}")
    return str((root / done.stdout.strip()).resolve())


def collect(project: DvcProject, plan: Ablation, done: Sequence[Run], compared: Sequence[str]) -> Values:
    """The numbers of the runs that are done; with ``compared``, those below each prefix are a column.

    A failed run must not be among them: DVC gives back the outputs of before, which are the baseline's.
    """
    found: Values = {}
    for run in done:
        inside = DvcProject(folder_of(project, run))
        for goal in plan.goals:
            told = numbers(read_metrics(inside, inside.stage(goal)))
            named = f"{goal}:" if len(plan.goals) > 1 else ""
            for column, name, value in _columns(told, run.variant, compared, len(plan.variants) > 1):
                found.setdefault(column, {}).setdefault(named + name, {})[run.seed] = value
    return found


def _columns(
    told: Mapping[str, float], variant: str, compared: Sequence[str], several: bool
) -> Iterator[tuple[str, str, float]]:
    if not compared:
        yield from ((variant, name, value) for name, value in told.items())
    for prefix in compared:
        column = f"{prefix} ({variant})" if several else prefix
        start = prefix.rstrip("/") + "/"
        yield from ((column, name[len(start) :], value) for name, value in told.items() if name.startswith(start))


def shown(project: DvcProject, plan: Ablation, values: Values, patterns: Sequence[str], compared: bool) -> list[str]:
    """The numbers to compare: those of the patterns, else each goal's headline (of compared prefixes: all)."""
    known = list(dict.fromkeys(name for column in values.values() for name in column))
    if patterns:
        chosen = [name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
        if not chosen:
            raise ProjectError(
                f"reel ablate: no number is called {' or '.join(patterns)}; there are {', '.join(known)}"
            )
        return chosen
    if compared:
        return [name for name in known if not name.endswith(("_spread", "_low", "_high", "seconds"))]
    heads: dict[str, None] = {}
    for inside in (DvcProject(folder_of(project, run)) for run in plan.runs):
        for stage in map(inside.stage, plan.goals):
            named = f"{stage.name}:" if len(plan.goals) > 1 else ""
            heads |= dict.fromkeys(named + name for name in headline(stage, read_metrics(inside, stage)))
    return [name for name in heads if name in known]


def directions(
    project: DvcProject, names: Sequence[str], higher: Sequence[str], lower: Sequence[str]
) -> dict[str, str]:
    """Which way each number is better: as the command says, else as the report's glossary says, else unknown."""
    found = _glossary(project, names)
    for words, better in ((higher, "higher"), (lower, "lower")):
        found |= {name: better for name in names if any(fnmatch.fnmatchcase(name, word) for word in words)}
    return found


def _glossary(project: DvcProject, names: Sequence[str]) -> dict[str, str]:
    if not project.root.joinpath(*MEANINGS.split(".")).with_suffix(".py").is_file():
        return {}
    bare = {name: name.rpartition(":")[2] for name in names}
    command = [sys.executable, "-m", MEANINGS, *bare.values()]
    done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout) if done.returncode == 0 and done.stdout else {}
    return {name: told.get(short, "") for name, short in bare.items()}


def verdicts(values: Values, names: Sequence[str], better: Mapping[str, str]) -> Judged:
    """Column -> number -> its difference to the first column."""
    baseline, *others = values
    return {
        column: {
            name: difference(values[baseline].get(name, {}), values[column].get(name, {}), better.get(name, ""))
            for name in names
        }
        for column in others
    }


def table(values: Values, names: Sequence[str], judged: Judged) -> str:
    """A row per number and column: mean and spread over seeds, the difference with its interval, the verdict."""
    baseline = next(iter(values))
    rows = []
    for name in names:
        for column, told in values.items():
            mean = spread(list(told.get(name, {}).values()))
            count = str(len(told.get(name, {})))
            if column == baseline:
                rows.append([name, column, count, mean, "", "baseline" if judged else ""])
            else:
                rows.append(["", column, count, mean, *words(judged[column][name])])
    text = tables.table(rows, ["number", "variant", "seeds", "mean ± sd", "difference", "verdict"])
    found = [told.get(name) for told in judged.values() for name in names]
    return text + ("\n\n" + _reading(sum(one is not None and one.low is not None for one in found)) if judged else "")


def words(found: Difference | None) -> list[str]:
    """Difference with its interval, and verdict."""
    if found is None:
        return ["", "no seed in common"]
    if found.low is None or found.high is None:
        return [f"{found.mean:+.3g}", found.verdict]
    return [f"{found.mean:+.3g} [{found.low:+.3g}, {found.high:+.3g}]", found.verdict]


def _reading(count: int) -> str:
    """How to read so many verdicts."""
    if not count:
        return "Differences to the first variant. One training each says nothing of the next seed: there is no verdict."
    wrong = f"{count * (1 - LEVEL):.1g}"
    return (
        f"Differences to the first variant, paired by seed, {LEVEL:.0%} intervals (Student's t). A verdict needs an "
        f"interval without zero;\nof {count} comparisons without any effect about {wrong} would get one by chance."
    )


def record(
    project: DvcProject, plan: Ablation, values: Values, names: Sequence[str], better: Mapping[str, str]
) -> Path:
    """Everything that the table stands on, as JSON beside the runs' folders; returns the file."""
    judged = verdicts(values, names, better)
    file = project.root / FOLDER / "ablation.json"
    content = {
        "runs": [{"variant": run.variant, "seed": run.seed, "folder": run.folder} for run in plan.runs],
        "goals": plan.goals,
        "seeds_moved_in": plan.seeded,
        "values": values,
        "differences": {
            column: {name: vars(found) for name, found in told.items() if found} for column, told in judged.items()
        },
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return file
