"""Stage ``report``: one page with the graph, the numbers, the curves, the pictures and playable clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipelines import stage
from pipelines.evaluation.changes import Change, changes
from pipelines.evaluation.outcomes import read_project
from pipelines.evaluation.page import page
from pipelines.evaluation.params import ReportParams
from pipelines.evaluation.samples import read_samples
from pipelines.evaluation.score_table import Outcomes
from pipelines.evaluation.sections import Size
from pipelines.run_facts import records_of

MOST_BYTES = 20_000_000
"""Of the page: what a mail takes and a telephone opens."""
SIZES = ((10_000, 5, 10_000), (8, 3, 12), (4, 2, 8), (2, 1, 4), (1, 0, 2), (0, 0, 0))
"""Prompts with clips, validations of a training and pictures of a stage, from all of them to none."""


def fitting(params: ReportParams, stages: Outcomes, evaluation: Path, changed: Sequence[Change]) -> str:
    """The page with as much in it as :data:`MOST_BYTES` allow; what is left out is said on it."""
    samples, document = read_samples(evaluation), ""
    for prompts, validations, pictures in SIZES:
        size = Size(params.picture_kilobytes, prompts, validations, pictures)
        document = page(params, stages, samples, evaluation, changed, size)
        if len(document) <= MOST_BYTES:
            break
    return document


def write(
    params: ReportParams, graph: Path, metrics_folder: Path, plots_folder: Path, evaluation: Path, out: Path
) -> None:
    """Write ``report.html`` into ``out``: one file that opens from disk and asks nobody for anything.

    Everything is derived: stages from ``graph`` (a ``dvc.yaml``; checkpoints stand where its ``outs`` say), numbers
    and gates from ``metrics_folder/<stage>.json``, pictures and curves from ``plots_folder/<stage>/``, clips from
    ``evaluation/samples.parquet``, earlier runs from the project's records. A stage that has not run is shown as such.

    Raises:
        StageError: the graph has no stages, or a metrics file is not JSON.
    """
    runs = records_of(graph.absolute().parent)
    stages = read_project(graph, metrics_folder, plots_folder, runs)
    for name, one in stages.items():
        if out.absolute() in [(graph.parent / made).absolute() for made in one.outs]:
            stages[name] = replace(one, metrics={})  # this page, which is being written
    document = fitting(params, stages, evaluation, changes(stages, runs))
    with stage.whole_folder(out) as folder:
        (folder / "report.html").write_text(document, encoding="utf-8")
    done = sum(one.has_run for one in stages.values())
    size = len(document.encode()) / 2**20
    stage.say(f"{out / 'report.html'}: {done} of {len(stages)} stages, {size:.1f} MiB, opens from disk")
