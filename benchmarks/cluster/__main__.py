"""`make cluster-test`: sets up, breaks, and prints a table of what was lost. Everything is stopped and gone at the end.

``python -m benchmarks.cluster [--only NAME …] [--keep] [--markdown docs/cluster.md]``. Slurm comes from the
distribution's packages and the rest from PyPI, all into a temporary folder; as root, the two nodes are hosts on a
network of their own.
"""

import argparse
import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cluster import asked, database, jobs, kubernetes, objects, watched
from benchmarks.cluster.network import network
from benchmarks.cluster.slurm import running
from benchmarks.cluster.training import Failed, Row, local

BEGIN, END = "<!-- cluster: by `make cluster-test` -->", "<!-- /cluster -->"


def slurm_rows(folder: Path, only: list[str]) -> Iterator[Row]:
    """What goes wrong under Slurm."""
    faults = [fault for fault in (*watched.ROWS, *asked.ROWS, *jobs.FAULTS) if not only or fault.__name__ in only]
    if not faults:
        return
    with network() as hosts, running(folder / "slurm", hosts) as cluster:
        reference = local(cluster.folder.parent, cluster.environment, Path(sys.executable))
        for fault in faults:
            if fault is jobs.cut_off and hosts is None:
                yield Row("one of two hosts cut off", "not tried: only root can make a network", "not known", True)
                continue
            try:
                yield fault(cluster, reference)
            except (Failed, RuntimeError, AssertionError) as error:
                yield Row(fault.__name__, str(error), "not known", False)


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = ["| fault | what happened | what was lost |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {row.fault} | {row.happened} | {row.lost} |" for row in rows)])


def main() -> int:
    """Run it; the exit status is 0 when nothing was lost."""
    parser = argparse.ArgumentParser(prog="make cluster-test", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="these faults only")
    parser.add_argument("--keep", action="store_true", help="leave the temporary folder")
    parser.add_argument("--markdown", type=Path, help="write the table into this page")
    given = parser.parse_args()
    folder, rows, began = Path(tempfile.mkdtemp(prefix="reel-cluster-")), [], time.monotonic()
    folder.chmod(0o755)
    try:
        parts = (objects.rows, database.rows, kubernetes.rows, slurm_rows)
        for row in itertools.chain.from_iterable(part(folder, given.only) for part in parts):
            print(f"{'ok  ' if row.is_well else 'LOST'}  {row.fault}: {row.happened}; lost: {row.lost}", flush=True)
            rows.append(row)
    finally:
        if given.keep:
            print(f"left in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"\n{table(rows)}\n\n{time.monotonic() - began:.0f} s")
    if given.markdown:
        text = given.markdown.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN, 1)
        given.markdown.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")
    return 0 if all(row.is_well for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
