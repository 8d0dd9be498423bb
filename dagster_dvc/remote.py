"""What a DVC remote may hold of results that are recorded and not here: a fresh clone is filled, not trained again."""

from collections.abc import Iterable, Mapping, Sequence

from dagster_dvc.lock import read_lock
from dagster_dvc.missing import in_cache
from dagster_dvc.project import DvcProject, Stage
from dagster_dvc.status import Reason, stale

Why = Mapping[str, Sequence[Reason]]


def pullable(project: DvcProject, names: Iterable[str], why: Why | None = None) -> list[str]:
    """The stages among `names` of which nothing changed, and an output is not in DVC's cache.

    Stages behind one that has to run are not among them: what they would read may become another.

    Args:
        why: what is stale, where that has been found out already.
    """
    why, lock = stale(project) if why is None else why, read_lock(project)
    whole: set[str] = set()
    for name in project.stages:
        only_gone = all(reason.gone for reason in why.get(name, ()))
        if name in lock and only_gone and project.upstream[name] - {name} <= whole:
            whole.add(name)
    return [name for name in project.stages if name in whole & set(names) and _is_away(project, project.stages[name])]


def hint(project: DvcProject, names: Iterable[str], why: Why | None = None) -> str | None:
    """One line where results could come from the remote instead of being made again; None without a remote."""
    remote = project.manifest["remote"]
    found = pullable(project, names, why) if remote else []
    if not found:
        return None
    shown = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    return (
        f"{shown}: recorded, unchanged, not here: `--pull` (or `dvc pull` first) takes what the remote '{remote}' has; "
        "without it they are made again"
    )


def _is_away(project: DvcProject, stage: Stage) -> bool:
    outs = read_lock(project)[stage.name].outs
    kept = [outs[out.path] for out in stage.outs if out.path in outs and out.cache]
    return any(not in_cache(project, one.hash, one.is_legacy) for one in kept)
