"""The code location of this project: light, complete, and alive on any DVC project."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dagster_dvc.project import DvcProject
from dagster_project import home
from tests.dagster_dvc import toy

REPO = Path(__file__).parents[2]
HEAVY = ("torch", "dvc", "diffusers", "transformers", "wandb", "pandas", "matplotlib", "pipelines")
LOAD = (
    "import json, sys; import dagster_project.definitions as d; repository = d.defs.get_repository_def();"
    "keys = sorted(key.to_user_string() for key in repository.asset_graph.get_all_asset_keys());"
    f"print(json.dumps([[name for name in {HEAVY!r} if name in sys.modules], keys,"
    "sorted(job.name for job in repository.get_all_jobs()), [s.name for s in repository.schedule_defs],"
    "[s.name for s in repository.sensor_defs], [s.default_status.value for s in repository.schedule_defs]]))"
)


def load(root: Path) -> list:
    env = {**os.environ, "REEL_PROJECT": str(root)}
    done = subprocess.run([sys.executable, "-c", LOAD], cwd=REPO, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.costly
def test_the_code_location_of_this_project_is_light_and_complete() -> None:
    DvcProject(REPO).manifest  # noqa: B018 (a first load may spend its time in dvc)
    heavy, keys, jobs, schedules, sensors, statuses = load(REPO)
    assert heavy == []
    assert keys == sorted(yaml.safe_load((REPO / "dvc.yaml").read_text())["stages"])
    situations = {"refresh_data", "representation", "anchored_flow", "rectified_flow", "evaluation", "everything"}
    assert situations <= set(jobs)
    assert schedules == ["nightly_data_refresh", "weekly_retraining"]
    assert set(statuses) == {"STOPPED"}
    followers = ["follow_dvc_lock", "follow_dvc_yaml", "forget_observations"]
    assert sensors == ["automation", *followers, "new_clips", "promote_after_retraining"]


def test_every_stage_has_a_group_and_a_description() -> None:
    for stage in DvcProject(REPO).stages.values():
        assert stage.desc and stage.dagster.get("group"), stage.name


@pytest.mark.costly
def test_a_project_without_our_stages_loads_with_the_jobs_it_can_have(tmp_path: Path) -> None:
    _, keys, jobs, *_ = load(toy.make(tmp_path))
    assert "train" in keys
    assert "everything" in jobs and "rectified_flow" not in jobs


def test_the_instance_is_made_on_demand_and_then_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    file = home.dagster_home(tmp_path) / "dagster.yaml"
    settings = yaml.safe_load(file.read_text())
    assert settings["telemetry"] == {"enabled": False}
    assert settings["concurrency"]["pools"]["default_limit"] == 1
    file.write_text("telemetry: {enabled: false}\n")
    home.dagster_home(tmp_path)
    assert file.read_text() == "telemetry: {enabled: false}\n"


def test_the_instance_settings_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster import DagsterInstance

    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with DagsterInstance.from_config(str(home.dagster_home(tmp_path))) as instance:
        assert instance.run_monitoring_enabled
        assert not instance.telemetry_enabled


def test_the_gpu_pool_is_opened_after_a_first_run_and_a_choice_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster import DagsterInstance

    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster_home(tmp_path)))
    with DagsterInstance.get() as instance:
        instance.event_log_storage.initialize_concurrency_limit_to_default(home.POOL)
    assert home.open_gpu_pool() == (home._counted("gpus") or 2)
    with DagsterInstance.get() as instance:
        instance.event_log_storage.set_concurrency_slots(home.POOL, 5)
    assert home.open_gpu_pool() == 5
