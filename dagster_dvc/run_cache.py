"""Parameters that DVC leaves out of the key of its run cache, so that old results would come back beside new values.

The key is a hash of the stage's lock entry without the entries ``size`` and ``nfiles``: meant for outputs, it holds at
any depth of the parameters too (treeverse/dvc#10296, DVC 3.67). A stage that tracks such a parameter is run without the
run cache here, and `complaints` asks for another name, because a plain ``dvc repro`` cannot know.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from dagster_dvc.generated import held
from dagster_dvc.places import line_of
from dagster_dvc.project import DvcProject, Stage

LEFT_OUT = frozenset({"size", "nfiles"})


def unkeyed(project: DvcProject, stage: Stage) -> list[tuple[str, tuple[str, ...]]]:
    """File and path of every parameter of the stage that is no part of the run cache's key."""
    found = []
    for file, values in stage.params.items():
        values = held(project, file) if project.producer(file) else values
        keys = stage.param_keys[file] or list(values)
        for key in keys:
            inner = values.get(key)
            found += [(file, (key,))] if key in LEFT_OUT else [(file, (key, *path)) for path in _paths(inner)]
    return found


def complaints(project: DvcProject, stage: Stage) -> list[str]:
    """A line for each such parameter, with file and line."""
    return [
        f"{file}:{line_of(project.root / file, path)}: {'.'.join(path)}: DVC leaves parameters named '{path[-1]}' out "
        f"of the key of its run cache, so stage '{stage.name}' would get an old result for a new value; rename it"
        for file, path in unkeyed(project, stage)
    ]


def _paths(value: Any) -> Iterator[tuple[str, ...]]:
    """Paths below a value to what is left out; in a list the position counts."""
    if isinstance(value, Mapping):
        items = [(str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list):
        items = [(str(number), inner) for number, inner in enumerate(value)]
    else:
        return
    for key, inner in items:
        if isinstance(value, Mapping) and key in LEFT_OUT:
            yield (key,)
        else:
            yield from ((key, *path) for path in _paths(inner))
