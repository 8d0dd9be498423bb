"""The sensors, evaluated as the daemon does."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from dagster_dvc.project import DvcProject
from dagster_dvc.sensors import build_lock_sensor, build_reload_sensor
from tests.dagster_dvc import toy
from tests.dagster_dvc.dagster_toy import QUIET, stale_keys

pytestmark = QUIET


def tick(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, cursor: str | None = None
) -> tuple[str, str | None]:
    """What evaluations said until none of them waits for a look, and the new cursor."""
    said: list[str] = []
    for _ in range(600):
        with dg.build_sensor_context(instance=instance, cursor=cursor) as context:
            data = sensor.evaluate_tick(context)
        cursor = data.cursor or cursor
        told = data.skip_message or ""
        if told.startswith("looking"):
            wait_for_a_moment()
        else:
            said.append(told)
        if not told.startswith(("looking", "reported")):
            break
    news = [told for told in said if told.startswith("reported")]
    return "; ".join(news) or said[-1], cursor


def wait_for_a_moment() -> None:
    """Until the process that looks at the disk has come a bit further."""
    subprocess.run([sys.executable, "-S", "-c", "pass"], check=True)


def settle(root: Path) -> None:
    """Make dvc.lock look as if it had been quiet for a while."""
    os.utime(root / "dvc.lock", (1, 1))


def test_the_lock_sensor_fills_an_empty_instance_and_then_has_nothing_to_say(root: Path) -> None:
    sensor = build_lock_sensor(DvcProject(root))
    settle(root)
    with dg.DagsterInstance.ephemeral() as instance:
        said, cursor = tick(sensor, instance)
        assert said == "reported 6 stage outputs; reported 5 checks"
        assert stale_keys(root, instance) == set()
        assert tick(sensor, instance, cursor) == ("nothing new", cursor)


def test_the_lock_sensor_waits_for_a_quiet_lock(root: Path) -> None:
    os.utime(root / "dvc.lock", (time.time() + 60,) * 2)
    with dg.DagsterInstance.ephemeral() as instance:
        said, cursor = tick(build_lock_sensor(DvcProject(root)), instance)
        assert (said, cursor) == ("dvc.lock has just been written", None)


def test_the_lock_sensor_reports_a_deleted_output(root: Path) -> None:
    settle(root)
    sensor = build_lock_sensor(DvcProject(root))
    with dg.DagsterInstance.ephemeral() as instance:
        _, cursor = tick(sensor, instance)
        shutil.rmtree(root / "work/numbers")
        assert tick(sensor, instance, cursor)[0] == "reported 1 check"


def test_a_damaged_lock_is_a_reason_to_skip_with_file_and_line(root: Path) -> None:
    (root / "dvc.lock").write_text("<<<<<<< ours\n")
    settle(root)
    with dg.DagsterInstance.ephemeral() as instance:
        assert "dvc.lock:1: a merge conflict" in tick(build_lock_sensor(DvcProject(root)), instance)[0]


@pytest.mark.parametrize("file", ["params.yaml", "dvc.yaml", "train.py"])
def test_the_reload_sensor_sees_edits(root: Path, file: str) -> None:
    sensor = build_reload_sensor(DvcProject(root))
    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(sensor, instance)[0] == "definitions are up to date"
        with (root / file).open("a") as stream:
            stream.write("# edited\n")
        assert "reload the definitions" in tick(sensor, instance)[0]


def test_the_reload_sensor_ignores_data(root: Path) -> None:
    sensor = build_reload_sensor(DvcProject(root))
    toy.edit(root, "source/numbers.txt", "3", "4")
    with dg.DagsterInstance.ephemeral() as instance:
        assert tick(sensor, instance)[0] == "definitions are up to date"
