"""The command `reel ablate`: its words, and the order of checking, running and comparing."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dagster_dvc.command import count
from dagster_project import home

if TYPE_CHECKING:
    from dagster_dvc.project import DvcProject
    from dagster_project import variants


def add_words(sub: argparse.ArgumentParser) -> None:
    """The words of the command."""
    sub.add_argument("what", nargs="+", help="SECTION.KEY=A,B (the first is the baseline), or stages to repeat")
    sub.add_argument("--seeds", type=count, default=1, metavar="N", help="trainings of each variant (default 1)")
    sub.add_argument("--until", nargs="+", default=[], metavar="STAGE", help="compare the numbers of these stages")
    sub.add_argument("--compare", nargs="+", default=[], metavar="PREFIX", help="compare numbers below two prefixes")
    sub.add_argument("--metric", nargs="+", default=[], metavar="PATTERN", help="numbers to compare (the headline)")
    sub.add_argument("--higher", nargs="+", default=[], metavar="PATTERN", help="numbers of which more is better")
    sub.add_argument("--lower", nargs="+", default=[], metavar="PATTERN", help="numbers of which less is better")
    sub.add_argument("--jobs", type=count, metavar="N", help="stages at once (REEL_JOBS, else 2)")


def ablate(project: DvcProject, arguments: argparse.Namespace) -> int:
    """Every variant with every seed, one after the other; then the table."""
    from dagster_project import ablation, checking, variants  # here: no other command waits for them

    plan = variants.planned(project, arguments.what, arguments.seeds, arguments.until)
    folders = [ablation.prepare(project, run) for run in plan.runs]
    if any(checking.params_are_wrong(folder) for folder in folders):
        return 1
    seeds = f"{arguments.seeds} seeds of {', '.join(plan.seeded)}" if arguments.seeds > 1 else "one seed"
    print(f"{len(folders)} runs: {', '.join(plan.variants)}; {seeds}; compared after {', '.join(plan.goals)}")
    jobs = arguments.jobs or home.jobs()
    os.environ["REEL_JOBS"] = str(jobs)  # the cores are shared among so many
    done = [run for run, folder in zip(plan.runs, folders, strict=True) if _ran(run, folder, plan.goals, jobs)]
    values = ablation.collect(project, plan, done, arguments.compare)
    if not values:
        print("reel ablate: no run left a number to compare", file=sys.stderr)
        return 1
    names = ablation.shown(project, plan, values, arguments.metric, bool(arguments.compare))
    better = ablation.directions(project, names, arguments.higher, arguments.lower)
    judged = ablation.verdicts(values, names, better)
    print("\n" + ablation.table(values, names, judged) + f"\n\n{ablation.record(project, plan, values, names, better)}")
    for run in plan.runs:
        if run not in done:
            print(f"failed, and not in the table: {run.name}", file=sys.stderr)
    return 0 if len(done) == len(plan.runs) else 1


def _ran(run: variants.Run, folder: DvcProject, goals: Sequence[str], jobs: int) -> bool:
    """Run what a variant's folder needs; whether all went well."""
    from dagster_dvc.runner import Options, Runner
    from dagster_project import tables
    from dagster_project.printing import Printer

    print(f"\n{run.name}", flush=True)
    printer, outer = Printer(folder), os.environ["REEL_PROJECT"]
    os.environ["REEL_PROJECT"] = str(folder.root)
    try:
        done = Runner(folder, folder.needed(goals), Options(jobs), printer.line, printer.ended).run()
    finally:
        os.environ["REEL_PROJECT"] = outer
    for result in done.failed:
        print(tables.failure(result, result.stage in done.restored))
    return not done.failed
