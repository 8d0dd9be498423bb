"""Old observations go, and old runs that made nothing; what lineage points at and every materialization stay."""

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from dagster_dvc.events import DATA_VERSION, INPUT_POINTER
from dagster_dvc.history import DAYS, RUN_DAYS, build_history_sensor, purge_observations, purge_runs
from tests.dagster_dvc.dagster_toy import QUIET

pytestmark = QUIET
SOURCE, MADE = dg.AssetKey("source"), dg.AssetKey("made")


def observe(instance: dg.DagsterInstance, version: str) -> int:
    instance.report_runless_asset_event(dg.AssetObservation(SOURCE, tags={DATA_VERSION: version}))
    return instance.fetch_observations(SOURCE, limit=1).records[0].storage_id


def materialize(instance: dg.DagsterInstance, pointer: int) -> None:
    tags = {INPUT_POINTER + "source": str(pointer)}
    instance.report_runless_asset_event(dg.AssetMaterialization(MADE, tags=tags))


def versions(instance: dg.DagsterInstance) -> list[str]:
    """Of what is left, oldest first."""
    records = instance.fetch_observations(SOURCE, limit=100, ascending=True).records
    return [str((record.asset_observation.tags or {})[DATA_VERSION]) for record in records if record.asset_observation]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """On disk, as a user's: five observations, of which a materialization read the second."""
    with dg.instance_for_test(temp_dir=str(tmp_path)) as made:
        numbers = [observe(made, str(number)) for number in range(5)]
        materialize(made, numbers[1])
        yield made


def months_later(monkeypatch: pytest.MonkeyPatch, days: float = DAYS + 1) -> None:
    now = time.time()
    monkeypatch.setattr("dagster_dvc.history.time.time", lambda: now + days * 86400)


def test_young_observations_stay(instance: dg.DagsterInstance) -> None:
    assert purge_observations(instance).gone == 0
    assert versions(instance) == ["0", "1", "2", "3", "4"]


def test_of_old_ones_the_newest_stays_and_what_lineage_points_at(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    months_later(monkeypatch)
    told = purge_observations(instance, remove=False)
    assert (told.gone, told.kept) == (3, 2) and versions(instance) == ["0", "1", "2", "3", "4"]
    assert purge_observations(instance) == told and versions(instance) == ["1", "4"]
    assert purge_observations(instance).gone == 0
    event = instance.get_latest_materialization_event(MADE)
    assert event is not None and event.asset_materialization is not None
    tags, read = {DATA_VERSION: "5"}, event.asset_materialization.tags or {}
    assert instance.fetch_observations(
        dg.AssetRecordsFilter(SOURCE, storage_ids=[int(read[INPUT_POINTER + "source"])]),
        limit=1,
    ).records
    instance.report_runless_asset_event(dg.AssetObservation(SOURCE, tags=tags))
    assert versions(instance) == ["1", "4", "5"]


def test_observations_of_a_run_go_too_and_its_log_stays(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.asset
    def watched(context: dg.AssetExecutionContext) -> None:
        for step in range(3):
            context.log_event(dg.AssetObservation("watched", metadata={"progress/done": step}))

    done = dg.materialize([watched], instance=instance)
    key = dg.AssetKey("watched")
    assert len(instance.fetch_observations(key, limit=9).records) == 3
    months_later(monkeypatch)
    purge_observations(instance)
    assert len(instance.fetch_observations(key, limit=9).records) == 1
    assert instance.get_latest_materialization_event(key) is not None
    assert instance.get_run_by_id(done.run_id) is not None and instance.all_logs(done.run_id)


def test_a_sensor_does_it_once_a_day_and_says_how_many(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    months_later(monkeypatch)
    sensor = build_history_sensor()
    assert sensor.minimum_interval_seconds == 24 * 3600 and sensor.default_status == dg.DefaultSensorStatus.RUNNING
    said = sensor.evaluate_tick(dg.build_sensor_context(instance)).skip_message
    assert said is not None and said.startswith("3 observations older than 30 days removed, 2 kept; 0 runs removed")
    assert versions(instance) == ["1", "4"]


def test_old_runs_go_unless_they_made_something_or_are_under_way(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.asset
    def made() -> None:
        pass

    @dg.op
    def nothing() -> None:
        pass

    @dg.job
    def idle() -> None:
        nothing()

    maker = dg.materialize([made], instance=instance).run_id
    idler = idle.execute_in_process(instance=instance).run_id
    failed, under_way = (
        instance.add_run(dg.DagsterRun("idle", status=status)).run_id
        for status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED)
    )
    months_later(monkeypatch)
    assert purge_runs(instance) == 0
    months_later(monkeypatch, RUN_DAYS + 1)
    assert purge_runs(instance) == 2 and purge_runs(instance) == 0
    assert {run.run_id for run in instance.get_runs()} == {maker, under_way}
    assert not instance.all_logs(idler) and not instance.has_run(failed) and instance.all_logs(maker)
    assert instance.get_latest_materialization_event(dg.AssetKey("made")) is not None
