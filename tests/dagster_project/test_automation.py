"""The sensor on a user's footage and the schedules, evaluated as the daemon does, on a small project."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from assets.lineage import lineage
from dagster_dvc.project import DvcProject
from dagster_dvc.resource import DvcResource
from dagster_project.jobs import build_jobs
from dagster_project.schedules import PLANS, build_schedules
from dagster_project.sensors import build_clips_sensor
from tests.dagster_dvc import toy
from tests.dagster_dvc.dagster_toy import QUIET

pytestmark = QUIET
CHAIN = ("raw_video", "autoencoder", "latent_shards", "rectified_flow", "report")
EXPECTED = {"nightly_data_refresh": set(CHAIN[:3]), "weekly_retraining": set(CHAIN)}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A chain of stages with this project's names; its clips come from the folder `videos`."""
    stages: dict[str, Any] = {
        name: {"cmd": f"python make.py {name}", "deps": ["make.py", *before], "outs": [f"data/{name}"]}
        for name, before in zip(CHAIN, [[], *[[f"data/{name}"] for name in CHAIN]], strict=False)
    }
    stages["raw_video"]["params"] = ["raw_video"]
    toy.make(tmp_path, yaml.safe_dump({"stages": stages}), make__py="pass\n")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/first.mp4").write_bytes(b"1")
    write_source(tmp_path, folder={"path": "videos"})
    return tmp_path


def write_source(root: Path, **source: Any) -> None:
    (root / "params.yaml").write_text(yaml.safe_dump({"raw_video": {"source": source}}))


def repository(root: Path) -> dg.RepositoryDefinition:
    project = DvcProject(root)
    jobs = build_jobs(project)
    return dg.Definitions(
        assets=lineage(project),
        jobs=list(jobs.values()),
        schedules=build_schedules(jobs),
        sensors=[build_clips_sensor(project, jobs["refresh_data"])],
        resources={"dvc": DvcResource()},
    ).get_repository_def()


def tick(loaded: dg.RepositoryDefinition, cursor: str | None) -> Any:
    """One evaluation of the sensor."""
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=loaded) as context,
    ):
        return loaded.get_sensor_def("new_clips").evaluate_tick(context)


def tick_until_quiet(loaded: dg.RepositoryDefinition, cursor: str | None) -> Any:
    """Two looks with nothing in between: the first sees the change, the second that it is complete."""
    seen = tick(loaded, cursor)
    assert not seen.run_requests
    return tick(loaded, seen.cursor)


def test_new_clips_asks_for_a_run_after_every_change_and_only_then(project: Path) -> None:
    loaded = repository(project)
    first = tick(loaded, None)
    assert not first.run_requests and first.skip_message == "remembered what is there now"
    cursor = first.cursor

    def add() -> None:
        (project / "videos/more").mkdir()
        (project / "videos/more/second.mp4").write_bytes(b"2")

    def edit() -> None:
        (project / "videos/first.mp4").write_bytes(b"1, cut again")

    def touch() -> None:
        os.utime(project / "videos/first.mp4", (1, 1))

    def move(source: str, target: str) -> None:
        (project / source).rename(project / target)

    changes = (
        add,
        edit,
        touch,
        lambda: move("videos/first.mp4", "first.mp4"),
        lambda: move("first.mp4", "videos/first.mp4"),
    )
    for change in changes:
        quiet = tick(loaded, cursor)
        assert not quiet.run_requests and "nothing new in" in quiet.skip_message
        change()
        found = tick_until_quiet(loaded, cursor)
        [request] = found.run_requests
        assert request.run_key is None  # Dagster never runs one key twice, and files may come back
        cursor = found.cursor


def test_a_file_that_is_still_being_copied_starts_nothing(project: Path) -> None:
    loaded = repository(project)
    cursor = tick(loaded, None).cursor
    for size in (1, 2, 3):
        (project / "videos/second.mp4").write_bytes(b"2" * size)
        growing = tick(loaded, cursor)
        assert not growing.run_requests and "are changing" in growing.skip_message
        cursor = growing.cursor
    whole = tick(loaded, cursor)
    assert len(whole.run_requests) == 1
    assert not tick(loaded, whole.cursor).run_requests


def test_a_file_that_came_and_went_is_no_news(project: Path) -> None:
    loaded = repository(project)
    cursor = tick(loaded, None).cursor
    (project / "videos/.partial").write_bytes(b"2")
    cursor = tick(loaded, cursor).cursor
    (project / "videos/.partial").unlink()
    for _ in range(3):
        found = tick(loaded, cursor)
        assert not found.run_requests
        cursor = found.cursor
    assert "nothing new in" in found.skip_message


def test_a_cursor_of_an_earlier_version_is_a_first_look(project: Path) -> None:
    found = tick(repository(project), "8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92")
    assert not found.run_requests and found.skip_message == "remembered what is there now"


def test_what_the_sensor_asks_for_is_a_valid_run_that_dvc_cannot_skip(project: Path) -> None:
    loaded = repository(project)
    cursor = tick(loaded, None).cursor
    (project / "videos/second.mp4").write_bytes(b"2")
    [request] = tick_until_quiet(loaded, cursor).run_requests
    sensor = loaded.get_sensor_def("new_clips")
    assert sensor.job_name == "refresh_data"
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
    job = loaded.get_job("refresh_data")
    config = dg.validate_run_config(job, request.run_config)
    assert config["ops"]["repro_raw_video"]["config"] == {"force": True}
    assert config["ops"]["repro_latent_shards"]["config"] == {"force": False}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"rendered": {"seed": 0}}, "nothing to watch"),
        ({"folder": None, "tars": {"urls": ["a.tar"]}}, "nothing to watch"),
        ({"folder": {"path": "vidoes"}}, "vidoes is no folder"),
    ],
)
def test_new_clips_says_why_it_does_nothing(project: Path, source: dict[str, Any], words: str) -> None:
    write_source(project, **source)
    found = tick(repository(project), None)
    assert not found.run_requests and words in found.skip_message


def test_new_clips_names_a_stage_that_dvc_yaml_lost(project: Path) -> None:
    loaded = repository(project)
    toy.edit(project, "dvc.yaml", "  raw_video:", "  raw_videos:")
    found = tick(loaded, None)
    assert not found.run_requests and "dvc.yaml: no stage 'raw_video'; did you mean" in found.skip_message


def test_recordings_are_watched_as_well(project: Path) -> None:
    loaded = repository(project)
    write_source(project, folder=None, recordings={"path": "videos"})
    cursor = tick(loaded, None).cursor
    (project / "videos/frame_0001.png").write_bytes(b"p")
    assert len(tick_until_quiet(loaded, cursor).run_requests) == 1


@pytest.mark.parametrize("name", [plan[0] for plan in PLANS])
def test_a_schedule_ships_stopped_and_asks_for_its_selection(project: Path, name: str) -> None:
    loaded = repository(project)
    schedule = loaded.get_schedule_def(name)
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_schedule_context(instance, scheduled_execution_time=datetime(2030, 1, 6, 4, tzinfo=UTC)) as context,
    ):
        [request] = schedule.evaluate_tick(context).run_requests or []
    job = loaded.get_job(schedule.job_name)
    assert {key.to_user_string() for key in job.asset_layer.selected_asset_keys} == EXPECTED[name]
    assert dg.validate_run_config(job, request.run_config)
