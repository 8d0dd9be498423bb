"""`reel check`, and what is looked at before anything is run: mistakes with file and line, while nothing is lost."""

import argparse
import subprocess
import sys

from dagster_dvc import doctor
from dagster_dvc.generated import generated
from dagster_dvc.project import DvcProject
from dagster_project import footage


def check(project: DvcProject, arguments: argparse.Namespace) -> int:
    """`reel check`: the graph, the lock file and the parameters; every complaint with file and line."""
    complaints = doctor.complaints(project)
    is_wrong = _says_wrong(project, "entries")
    complaints += [] if complaints or is_wrong else generated(project).problems.values()
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if is_wrong or complaints:
        return 1
    for line in [*footage.unwatched(project), *footage.unread(project)]:
        print(f"warn  {line}")
    print(f"params.yaml can be used. dvc.yaml: {len(project.stages)} stages; dvc.lock can be read.")
    return 0


def params_are_wrong(project: DvcProject) -> bool:
    """Whether params.yaml has a mistake, said on stderr: DVC deletes outputs before a stage could say so."""
    return _says_wrong(project, "params")


def _says_wrong(project: DvcProject, module: str) -> bool:
    """Whether a module of the project's own that checks it has found something, which it says on stderr."""
    if not (project.root / "pipelines" / f"{module}.py").is_file():
        return False
    command = [sys.executable, "-m", f"pipelines.{module}"]
    return bool(subprocess.run(command, cwd=project.root, check=False, stdout=subprocess.DEVNULL).returncode)
