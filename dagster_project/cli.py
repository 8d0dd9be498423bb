"""`reel`: the project's command. Runs stages through DVC, shows what is stale, and starts the web interface.

Each command imports what it needs when it is called: `reel --help` reads no project, `reel status` starts no process.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from dagster_dvc.command import count, exit_status, port
from dagster_dvc.problem import ProjectError
from dagster_project import ablate, accepting, comparing, home, keeping, promoting, tools

if TYPE_CHECKING:
    from dagster_dvc.project import DvcProject
    from dagster_dvc.runner import Options, Summary


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `reel` command; the exit status is 0 when all went well, 1 when something did not, 130 after ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's `reel run … &` hands down an ignored one
    words = sys.argv[1:] if argv is None else list(argv)
    return exit_status(lambda: _main(words))


def _main(words: list[str]) -> int:
    if tools.told_of_paths(words) or (words[:1] == ["lineage"] and not home.projects_around()):
        return tools.tell(words[0], words[1:])
    is_help = bool({"-h", "--help"} & set(words))
    root = home.ROOT if is_help else home.project_root()
    _use_code_of(root, words)
    if words and words[0] in tools.TOOLS:
        return tools.run(words[0], words[1:], root)
    arguments = _parser().parse_args(words)
    os.environ.update(home.environment(root))
    signal.signal(signal.SIGTERM, _interrupt)
    from dagster_dvc.project import DvcProject

    return arguments.command(DvcProject(root), arguments)


def _use_code_of(root: Path, words: Sequence[str]) -> None:
    """Where the project has code of its own, that is what runs, whatever checkout this environment belongs to.

    A worktree or a second clone shares an environment with the first one; its edits are meant.
    """
    line = home.of_elsewhere(root)
    if line is None:
        return
    if not home.has_platform(root):
        print(f"reel: {line}", file=sys.stderr, flush=True)
        return
    print(f"reel: works on {root} with its own code (the environment is of {home.ROOT})", file=sys.stderr, flush=True)
    command = [sys.executable, "-P", "-m", "dagster_project.cli", *words]  # no folder here may stand in the way
    os.execve(sys.executable, command, _with_first(root))


def _with_first(root: Path) -> dict[str, str]:
    """This environment with the project's code before every other."""
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "REEL_PROJECT": str(root)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reel", description="Run and inspect the lineage from raw video to evaluations."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[..., int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    ui = add("ui", open_ui, "Start the Dagster web interface on this machine.")
    ui.add_argument("--port", type=port, default=3000)
    ui.add_argument("--token", action="store_true", help="on a machine with other users: let in only who has a token")
    _add_runs(add)
    add("status", show_status, "Which stages are stale and why, and which are running and how far.")
    add("check", check, "Validate dvc.yaml, dvc.lock and params.yaml.")
    lineage = add("lineage", show_lineage, tools.TOLD["lineage"][1])
    lineage.add_argument("what", help="a path, a stage, or the first characters of a content hash that DVC knows")
    lineage.add_argument("rest", nargs=argparse.REMAINDER, help="of a path or stage: --all, --json, --svg FILE")
    demo = add("demo", run_demo, "Check everything, then run the whole graph.")
    demo.add_argument("--jobs", type=count, default=home.jobs(), metavar="N", help="stages at once (REEL_JOBS, else 2)")
    ablate.add_words(
        add("ablate", ablate.ablate, "Compare variants of params.yaml over training seeds, each in a folder.")
    )
    accepting.add_words(
        add("accept", accepting.accept, "Keep a training's result after a refactoring that ten steps show to be one.")
    )
    comparing.add_words(add("compare", comparing.compare, comparing.TEXT))
    keeping.add_words(add("keep", keeping.keep, "The autoencoder that latents are made from: which, and another one."))
    promoting.add_words(add("promote", promoting.promote, "Which checkpoint is in use: moved only to one not worse."))
    for name, (_, text) in (tools.TOLD | tools.TOOLS).items():  # for --help; `main` hands them on before
        if name != "lineage":
            commands.add_parser(name, help=text, add_help=False)
    return parser


def _add_runs(add: Callable[[str, Callable[..., int], str], argparse.ArgumentParser]) -> None:
    """The words of `reel run` and `reel plan`."""
    for name, command, text in (
        ("run", run, "Bring stages, and what they need, up to date; independent ones run side by side."),
        ("plan", plan, "What `reel run` would run, why, and how long it took last time."),
    ):
        sub = add(name, command, text)
        sub.add_argument("stage", nargs="*", help="a stage, group:NAME, NAME+ (with what follows), or a pattern")
        sub.add_argument("--all", action="store_true", help="the whole graph")
        sub.add_argument(
            "--jobs", type=count, default=home.jobs(), metavar="N", help="stages at once (REEL_JOBS, else 2)"
        )
        if name == "run":
            sub.add_argument(
                "--keep-going", action="store_true", help="after a failure, run what does not depend on it"
            )
            sub.add_argument("--pull", action="store_true", help="take what the DVC remote has, compute the rest")
            how = sub.add_mutually_exclusive_group()
            how.add_argument(
                "--force",
                action="store_true",
                help="run the named stages even if nothing changed, trained from nothing",
            )
            how.add_argument(
                "--continue",
                dest="carry_on",
                action="store_true",
                help="of the named stages, go on from a state that other code, or a run of another length, has left",
            )


def run(project: DvcProject, arguments: argparse.Namespace) -> int:
    """`reel run`: the stages, everything upstream of them, in order."""
    from dagster_dvc import remote
    from dagster_dvc.runner import Options
    from dagster_project import checking

    if checking.params_are_wrong(project):
        return 1
    names = project.select(arguments.stage or ["*"]) if arguments.force else _goals(project, arguments)
    asked = project.select(arguments.stage or ["*"]) if arguments.carry_on else []
    env = {name: {"REEL_CONTINUE": "1"} for name in asked}
    options = Options(arguments.jobs, arguments.keep_going, arguments.force, arguments.pull, env=env)
    if not (options.pull or options.force) and (line := remote.hint(project, names)):
        print(line, file=sys.stderr, flush=True)
    return _run(project, names, options)


def _run(project: DvcProject, names: Sequence[str], options: Options) -> int:
    from dagster_dvc.runner import Runner
    from dagster_project import tables
    from dagster_project.printing import Printer

    for problem in project.problems:
        print(problem, file=sys.stderr)
    printer = Printer(project)
    os.environ["REEL_JOBS"] = str(options.jobs)  # the cores are shared among so many
    runner = Runner(project, names, options, printer.line, printer.ended)
    try:
        done = runner.run()
    except KeyboardInterrupt:
        print("\n" + tables.summary(project, runner.summary))
        raise
    print()
    _report(project, done)
    return 1 if done.failed or project.problems else 0


def _report(project: DvcProject, done: Summary) -> None:
    from dagster_dvc import status
    from dagster_dvc.project import DvcProject
    from dagster_project import tables

    for result in done.failed:
        print(tables.failure(result, result.stage in done.restored), end="\n\n")
    print(tables.summary(project, done))
    count = len(done.results)
    print(f"\n{count} {'stage' if count == 1 else 'stages'} in {tables.duration(done.seconds)}")
    for line in tables.gates(project, done.results):
        print(f"gate  {line}")
    if done.failed:
        print(f"Then run again: reel run {' '.join(result.stage for result in done.failed)}")
        return
    report = project.root / "report" / "report.html"
    if report.is_file():
        print(f"Report: {report}")
    now = DvcProject(project.root)
    left = [name for name in status.stale(now) if name not in now.set_aside]
    print(f"Next: reel run {left[0]}" if left else f"{tables.nothing_to_do(now)} Next: reel ui")


def plan(project: DvcProject, arguments: argparse.Namespace) -> int:
    """`reel plan`: what would run, and roughly how long, from recorded times."""
    from dagster_dvc import remote, repro, running, status
    from dagster_project import tables

    found = status.plan(project, _goals(project, arguments))
    for problem in project.problems:
        print(problem, file=sys.stderr)
    if not found:
        print(tables.nothing_to_do(project))
        return 1 if project.problems else 0
    seconds, measured = repro.expected_seconds(project), repro.recorded_seconds(project)
    print(tables.plan(found, seconds, measured))
    for line in tools.forecasts(found, project.root):
        print(f"\n{line}", end="")
    print(tables.work(found, seconds, measured) + tables.under_way(found, running.running(project)))
    print("A stage that ran before with the same inputs comes back from DVC's run cache in a second.")
    if line := remote.hint(project, found):
        print(line)
    return 1 if project.problems else 0


def show_status(project: DvcProject, arguments: argparse.Namespace) -> int:
    """`reel status`: fresh, stale and why, running and how far."""
    from dagster_dvc import missing, remote, status
    from dagster_dvc.running import running
    from dagster_project import footage, tables

    for problem in project.problems:
        print(problem, file=sys.stderr)
    why = status.stale(project)
    print(tables.stale(why, project, running(project)))
    if line := remote.hint(project, project.stages, why):
        print(f"pull  {line}")
    for line in missing.lost(project, project.stages.values()):
        print(f"lost  {line}")
    for line in [*footage.unwatched(project), *footage.unread(project)]:
        print(f"warn  {line}")
    for line in tables.gates(project, project.stages):
        print(f"gate  {line}")
    return 1 if project.problems else 0


def check(project: DvcProject, arguments: argparse.Namespace) -> int:
    """`reel check`: every complaint about the graph, the lock file and the parameters, with file and line."""
    from dagster_project import checking

    return checking.check(project)


def show_lineage(project: DvcProject, arguments: argparse.Namespace) -> int:
    """`reel lineage`: of a stage what its result carries; of a hash, or of a result from before that, DVC's records."""
    from dagster_dvc.lineage import tree

    stage = project.stages.get(arguments.what)
    for out in stage.data_outs if stage is not None else ():
        if any((project.root / out.path / name).is_file() for name in ("lineage.json", "checkpoint.json")):
            os.environ["REEL_PROJECT"] = str(project.root)
            return tools.tell("lineage", [str(project.root / out.path), *arguments.rest])
    print(tree(project, arguments.what))
    return 0


def run_demo(project: DvcProject, arguments: argparse.Namespace) -> int:
    """`reel demo`: check, then the whole graph."""
    from dagster_dvc.runner import Options

    failed = check(project, arguments)
    return failed or _run(project, project.select(["*"]), Options(arguments.jobs))


def open_ui(project: DvcProject, arguments: argparse.Namespace) -> int:
    """`reel ui`: `dagster dev` on loopback for its own page only, with the project's history; replaces this one."""
    address = f"http://127.0.0.1:{arguments.port}"
    home.open_gpu_pool()
    entry = home.entry(address, arguments.token)
    if line := home.lacking(home.dagster_home(project.root)):
        print(f"warn  {line}", file=sys.stderr)
    print(f"Dagster at {entry} (history in {os.environ['DAGSTER_HOME']}; stop with ctrl-C)", flush=True)
    os.chdir(project.root)
    os.environ["DAGSTER_DVC_WEBSERVER"] = address
    workspace = Path(home.ROOT) / "workspace.yaml"
    words = ["--host", "127.0.0.1", "--port", str(arguments.port), "--workspace", str(workspace)]
    os.execv(sys.executable, [sys.executable, "-m", "dagster_project.web", "dev", *words])


def _goals(project: DvcProject, arguments: argparse.Namespace) -> list[str]:
    """The named stages with everything upstream; the whole graph for --all, or when nothing is named for a plan."""
    words = arguments.stage
    if arguments.all or not words:
        if not words and not arguments.all and arguments.command is run:
            raise ProjectError(f"reel run: name a stage or say --all; stages: {', '.join(project.stages)}")
        return project.select(["*"])
    return project.needed(words)


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
