"""The sensor on a user's footage and the schedules, evaluated as the daemon does, on a small project."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from assets import stages
from assets.stages import stage_assets
from dagster_dvc.project import DvcProject
from dagster_dvc.resource import DvcResource
from dagster_project.footage import dependency, is_recorded
from dagster_project.incoming import FetchingResource
from dagster_project.jobs import build_jobs
from dagster_project.schedules import PLANS, build_schedules
from dagster_project.sensors import build_clips_sensor
from tests.dagster_dvc import toy
from tests.dagster_dvc.dagster_toy import QUIET

pytestmark = QUIET
CHAIN = ("raw_video", "autoencoder", "latent_shards", "rectified_flow", "report")
MAKE = """
import sys
from pathlib import Path
Path("data").mkdir(exist_ok=True)
Path("data", sys.argv[1]).write_text("1")
"""
EXPECTED = {"nightly_data_refresh": set(CHAIN[:3]), "weekly_retraining": set(CHAIN)}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A chain of stages with this project's names; its clips come from the folder `videos`, which DVC looks at."""
    stages: dict[str, Any] = {
        name: {"cmd": f"python make.py {name}", "deps": ["make.py", *before], "outs": [f"data/{name}"]}
        for name, before in zip(CHAIN, [[], *[[f"data/{name}"] for name in CHAIN]], strict=False)
    }
    stages["raw_video"]["params"] = ["raw_video"]
    stages["raw_video"]["deps"] = ["make.py", "videos"]
    toy.make(tmp_path, yaml.safe_dump({"stages": stages}), make__py=MAKE)
    with (tmp_path / ".dvcignore").open("a") as stream:
        stream.write(".DS_Store\n")
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
        assets=stage_assets(project),
        jobs=list(jobs.values()),
        schedules=build_schedules(jobs),
        sensors=[build_clips_sensor(project, jobs["refresh_data"])],
        resources={"dvc": DvcResource()},
    ).get_repository_def()


def record(root: Path) -> None:
    toy.dvc(root, "repro", "raw_video")


class Ticks:
    """The sensor, evaluated again and again with its own cursor, on an instance that keeps the runs it asked for."""

    def __init__(self, root: Path, cursor: str | None = None) -> None:
        self.loaded, self.cursor = repository(root), cursor
        self.instance = dg.DagsterInstance.ephemeral()

    def look(self) -> Any:
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor, repository_def=self.loaded) as context:
            found = self.loaded.get_sensor_def("new_clips").evaluate_tick(context)
        self.cursor = found.cursor or self.cursor
        return found

    def says(self) -> str:
        found = self.look()
        assert not found.run_requests
        return found.skip_message

    def asks(self) -> Any:
        """Two looks with nothing in between: the first sees the change, the second that it is complete."""
        assert "are changing" in self.says()
        [request] = self.look().run_requests
        return request

    def ran(self, request: Any, status: dg.DagsterRunStatus) -> None:
        self.instance.add_run(dg.DagsterRun("refresh_data", status=status, tags=dict(request.tags)))


def unwatch(root: Path) -> None:
    """As before a user has added the folder to the stage's dependencies."""
    toy.edit(root, "dvc.yaml", "    - videos\n", "")


@pytest.mark.costly
def test_clips_are_handled_when_dvc_has_recorded_them_and_not_before(project: Path) -> None:
    ticks = Ticks(project)
    request = ticks.asks()  # what was there before the first look is not recorded either
    ticks.ran(request, dg.DagsterRunStatus.STARTED)
    assert "is being processed" in ticks.says()
    record(project)
    assert "nothing new in" in ticks.says()
    for change in (
        lambda: (project / "videos/second.mp4").write_bytes(b"2"),
        lambda: (project / "videos/first.mp4").write_bytes(b"1, cut again"),
        lambda: (project / "videos/first.mp4").rename(project / "first.mp4"),
        lambda: (project / "first.mp4").rename(project / "videos/first.mp4"),
    ):
        change()
        request = ticks.asks()
        assert request.run_key is None  # Dagster never runs one key twice, and files may come back
        record(project)
        assert "nothing new in" in ticks.says()
    os.utime(project / "videos/first.mp4", (1, 1))
    (project / "videos/.DS_Store").write_bytes(b"litter")
    assert "nothing new in" in ticks.says()


@pytest.mark.costly
def test_a_run_that_failed_is_followed_by_another_and_three_by_a_person(project: Path) -> None:
    record(project)
    ticks = Ticks(project)
    (project / "videos/second.mp4").write_bytes(b"2")
    request = ticks.asks()
    for _ in range(2):
        ticks.ran(request, dg.DagsterRunStatus.FAILURE)
        [request] = ticks.look().run_requests
    ticks.ran(request, dg.DagsterRunStatus.FAILURE)
    assert "3 runs did not record what is new" in ticks.says()
    (project / "videos/third.mp4").write_bytes(b"3")
    assert ticks.asks()
    record(project)
    assert "nothing new in" in ticks.says()


@pytest.mark.costly
def test_what_arrives_while_a_run_runs_is_asked_for_after_it(project: Path) -> None:
    record(project)
    ticks = Ticks(project)
    (project / "videos/second.mp4").write_bytes(b"2")
    ticks.ran(ticks.asks(), dg.DagsterRunStatus.STARTED)
    record(project)
    (project / "videos/third.mp4").write_bytes(b"3")
    assert ticks.asks()


@pytest.mark.costly
def test_a_folder_that_dvc_does_not_look_at_is_handled_by_runs_that_went_well(project: Path) -> None:
    unwatch(project)
    ticks = Ticks(project)
    assert ticks.says() == "remembered what is there now"
    (project / "videos/second.mp4").write_bytes(b"2")
    request = ticks.asks()
    ticks.ran(request, dg.DagsterRunStatus.FAILURE)
    [request] = ticks.look().run_requests
    ticks.ran(request, dg.DagsterRunStatus.SUCCESS)
    assert "nothing new in" in ticks.says()
    for _ in range(4):  # files that go and come back are news each time
        (project / "videos/second.mp4").rename(project / "second.mp4")
        ticks.ran(ticks.asks(), dg.DagsterRunStatus.SUCCESS)
        assert "nothing new in" in ticks.says()
        (project / "second.mp4").rename(project / "videos/second.mp4")
        ticks.ran(ticks.asks(), dg.DagsterRunStatus.SUCCESS)
        assert "nothing new in" in ticks.says()


@pytest.mark.costly
def test_a_file_that_is_still_being_copied_starts_nothing(project: Path) -> None:
    record(project)
    ticks = Ticks(project)
    for size in (1, 2, 3):
        (project / "videos/second.mp4").write_bytes(b"2" * size)
        assert "are changing" in ticks.says()
    assert len(ticks.look().run_requests) == 1


@pytest.mark.costly
def test_a_file_that_came_and_went_is_no_news(project: Path) -> None:
    record(project)
    ticks = Ticks(project)
    assert "nothing new in" in ticks.says()
    (project / "videos/.partial").write_bytes(b"2")
    assert "are changing" in ticks.says()
    (project / "videos/.partial").unlink()
    for _ in range(3):
        assert "nothing new in" in ticks.says()


@pytest.mark.costly
def test_a_cursor_of_an_earlier_version_is_a_first_look(project: Path) -> None:
    unwatch(project)
    for cursor in ("8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92", '["a", "b"]', '{"other": 1}'):
        assert Ticks(project, cursor).says() == "remembered what is there now"


@pytest.mark.costly
@pytest.mark.parametrize("watched", [True, False])
def test_what_the_sensor_asks_for_is_a_valid_run_that_dvc_cannot_skip(project: Path, watched: bool) -> None:
    if not watched:
        unwatch(project)
    ticks = Ticks(project)
    if not watched:
        ticks.look()
        (project / "videos/second.mp4").write_bytes(b"2")
    request = ticks.asks()
    sensor = ticks.loaded.get_sensor_def("new_clips")
    assert sensor.job_name == "refresh_data"
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
    config = dg.validate_run_config(ticks.loaded.get_job("refresh_data"), request.run_config)
    assert config["ops"]["repro_raw_video"]["config"] == {"force": not watched}
    assert config["ops"]["repro_latent_shards"]["config"] == {"force": False}


@pytest.mark.costly
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
    assert words in Ticks(project).says()


@pytest.mark.costly
def test_new_clips_names_a_stage_that_dvc_yaml_lost(project: Path) -> None:
    ticks = Ticks(project)
    toy.edit(project, "dvc.yaml", "  raw_video:", "  raw_videos:")
    assert "dvc.yaml: no stage 'raw_video'; did you mean" in ticks.says()


@pytest.mark.costly
def test_recordings_are_watched_as_well(project: Path) -> None:
    write_source(project, folder=None, recordings={"path": "videos"})
    record(project)
    ticks = Ticks(project)
    (project / "videos/frame_0001.png").write_bytes(b"p")
    assert ticks.asks()


@pytest.mark.costly
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


def run_raw_video(root: Path) -> dg.ExecuteInProcessResult:
    """The stage alone, by a run of Dagster in this process."""
    project = DvcProject(root)
    job = dg.define_asset_job("alone", selection=["raw_video"])
    made = dg.Definitions(
        assets=stage_assets(project),
        jobs=[job],
        resources={"dvc": FetchingResource(grace_seconds=3, observe_every_seconds=0.2)},
    ).resolve_job_def("alone")
    with dg.DagsterInstance.ephemeral() as instance:
        return made.execute_in_process(instance=instance, raise_on_error=False)


def test_what_has_arrived_is_brought_before_its_stage_looks(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(project)
    bucket = tmp_path_factory.mktemp("bucket")
    (bucket / "second.mp4").write_bytes(b"2")
    monkeypatch.setenv("REEL_INCOMING_URL", f"file://{bucket}")
    monkeypatch.setattr(stages, "RETRIES", dg.RetryPolicy(max_retries=1))
    found = run_raw_video(project)
    assert found.success and (project / "videos/second.mp4").read_bytes() == b"2"
    dep = dependency(DvcProject(project), project / "videos")
    assert dep is not None and is_recorded(DvcProject(project), dep)
    monkeypatch.setenv("REEL_INCOMING_URL", "ss3://lab/in?token=secret")
    failed = run_raw_video(project)
    said = str([event.event_specific_data for event in failed.get_step_failure_events()])
    assert not failed.success and "reel fetch: ss3://lab/in:" in said and "secret" not in said
