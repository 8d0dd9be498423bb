"""Before one stage is started: the params files that other stages make for it are brought up to date, and how to start.

DVC does so when it runs the whole graph; ``--single-item`` runs no other stage. A stage that is running keeps DVC from
running what makes a file that it reads; then the command of the maker is run outright, and DVC records it later.
"""

from collections.abc import Callable
from dataclasses import replace

from dagster_dvc.frozen import keep
from dagster_dvc.generated import is_outdated, makers, run_beside
from dagster_dvc.project import DvcProject, Stage
from dagster_dvc.repro import Repro, Result
from dagster_dvc.run_cache import unkeyed


def refresh(project: DvcProject, name: str, on_line: Callable[[str], None] = lambda line: None) -> Result | None:
    """Bring the generated params files of a stage up to date; the result of what failed, None when all is well.

    What was not up to date is said in one line.
    """
    now = DvcProject(project.root)
    stage = now.stages.get(name)
    for maker in makers(now, stage) if stage is not None else ():
        if not is_outdated(now, maker):
            continue
        on_line(f"{', '.join(out.path for out in maker.outs)} was not up to date: {maker.name} runs first")
        result = keep(now, maker) if maker.frozen else Repro(now, maker.name).result()
        if result.outcome == "busy":
            result = _outright(now, maker)
        if not result.succeeded:
            return replace(result, stage=name, error=f"{maker.name}: {result.error.removeprefix(f'{maker.name}: ')}")
    now.hashes.save()
    return None


def prepared(
    project: DvcProject, name: str, *, pull: bool = False, on_line: Callable[[str], None] = lambda line: None
) -> Result | None:
    """All that comes before a stage is started; a result where it is not to be: it is frozen, or something failed."""
    now = DvcProject(project.root)
    stage = now.stages.get(name)
    if stage is not None and stage.frozen:
        return keep(now, stage, pull=pull, on_line=on_line)
    return refresh(project, name, on_line)


def options(
    project: DvcProject,
    name: str,
    *,
    force: bool = False,
    pull: bool = False,
    on_line: Callable[[str], None] = lambda line: None,
) -> tuple[str, ...]:
    """The options of ``dvc repro`` for a stage; without the run cache where its key lacks one of the parameters."""
    stage = project.stages.get(name)
    lacking = unkeyed(project, stage) if stage is not None else []
    if lacking and not force:
        named = ", ".join(".".join(path) for _, path in lacking)
        on_line(f"runs without DVC's run cache, whose key lacks {named}: rename it")
    words = {"--force": force, "--pull": pull, "--no-run-cache": bool(lacking)}
    return tuple(word for word, wanted in words.items() if wanted)


def _outright(project: DvcProject, maker: Stage) -> Result:
    for command in [maker.cmd] if isinstance(maker.cmd, str) else maker.cmd:
        done = run_beside(project, maker, command)
        if done.returncode:
            return Result(maker.name, "failed", 0.0, done.returncode, done.stderr.strip())
    return Result(maker.name, "executed", 0.0, 0)
