"""``python -m dagster_dvc``: check, prepare, run and trace a DVC project, without web interface and without Python."""

import argparse
import sys
from collections.abc import Sequence

from dagster_dvc import doctor, missing
from dagster_dvc.command import count, exit_status
from dagster_dvc.lineage import tree
from dagster_dvc.project import DvcProject
from dagster_dvc.remote import hint
from dagster_dvc.repro import NOISE
from dagster_dvc.runner import Options, Runner


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 when all is well, 1 when something is not, 130 after ctrl-C."""
    arguments = _parser().parse_args(argv)
    return exit_status(lambda: arguments.command(DvcProject(arguments.project), arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dagster_dvc", description="A DVC project and its stages.")
    parser.add_argument("--project", default=".", metavar="FOLDER", help="the folder with dvc.yaml (default: here)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    add("doctor", check, "What is wrong with dvc.yaml, dvc.lock and the data, with file and line.")
    add("prepare", prepare, "Resolve the graph and hash the files now, so that a code location loads without dvc.")
    run = add("materialize", materialize, "Bring stages, and what they need, up to date; what is unchanged is reused.")
    run.add_argument("stage", nargs="*", default=["*"], help="a stage, group:NAME, NAME+ or a pattern (default: all)")
    run.add_argument("--jobs", type=count, default=2, metavar="N", help="stages at once (default 2)")
    run.add_argument("--pull", action="store_true", help="take from the DVC remote what it has")
    add("lineage", show_lineage, "Where a result came from.").add_argument("what", help="a stage, a path or a hash")
    return parser


def check(project: DvcProject, arguments: argparse.Namespace) -> int:
    """``doctor``: every complaint on a line of its own."""
    complaints, losses = doctor.complaints(project), missing.lost(project, project.stages.values())
    for line in [*complaints, *losses]:
        print(line, file=sys.stderr)
    if not complaints and not losses:
        print(f"dvc.yaml: {len(project.stages)} stages; dvc.lock can be read; nothing is lost.")
    return 1 if complaints or losses else 0


def prepare(project: DvcProject, arguments: argparse.Namespace) -> int:
    """``prepare``: for an image or a first start; what it writes is kept until a file changes."""
    project.fingerprint()
    project.hashes.save()
    print(f"{len(project.stages)} stages are resolved in {project.scratch.relative_to(project.root)}")
    return 0


def materialize(project: DvcProject, arguments: argparse.Namespace) -> int:
    """``materialize``: the stages in order, independent ones side by side, each line with its stage in front."""

    def line(stage: str, text: str) -> None:
        if not NOISE.match(text):
            print(f"{stage} | {text}", flush=True)

    names = project.needed(arguments.stage)
    if not arguments.pull and (text := hint(project, names)):
        print(text, flush=True)
    done = Runner(project, names, Options(arguments.jobs, pull=arguments.pull), on_line=line).run()
    for result in done.results.values():
        print(f"{result.stage}: {result.outcome}" + (f": {result.error}" if result.error else ""))
    return 1 if done.failed else 0


def show_lineage(project: DvcProject, arguments: argparse.Namespace) -> int:
    """``lineage``: stage, params, code and inputs, back to the sources."""
    print(tree(project, arguments.what))
    return 0


if __name__ == "__main__":
    sys.exit(main())
