"""Stage ``report``: one page with the graph, the numbers, the curves, the pictures and playable clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipelines import stage
from pipelines.evaluation.page import page
from pipelines.evaluation.params import ReportParams
from pipelines.evaluation.project import read_project
from pipelines.evaluation.samples import read_samples


def write(
    params: ReportParams, graph: Path, metrics_folder: Path, plots_folder: Path, evaluation: Path, out: Path
) -> None:
    """Write ``report.html`` into ``out``: one file that opens from disk and asks nobody for anything.

    Everything is derived: stages from ``graph`` (a ``dvc.yaml``; checkpoints stand where its ``outs`` say), numbers
    and gates from ``metrics_folder/<stage>.json``, pictures and curves from ``plots_folder/<stage>/``, clips from
    ``evaluation/samples.parquet``. A stage that has not run is shown as such.

    Raises:
        StageError: the graph has no stages, or a metrics file is not JSON.
    """
    stages = read_project(graph, metrics_folder, plots_folder)
    for name, one in stages.items():
        if out.absolute() in [(graph.parent / made).absolute() for made in one.outs]:
            stages[name] = replace(one, metrics={})  # this page, which is being written
    document = page(params, stages, read_samples(evaluation), evaluation)
    with stage.whole_folder(out) as folder:
        (folder / "report.html").write_text(document, encoding="utf-8")
    done = sum(one.has_run for one in stages.values())
    size = len(document.encode()) / 2**20
    stage.say(f"{out / 'report.html'}: {done} of {len(stages)} stages, {size:.1f} MiB, opens from disk")
