"""Stages as assets: keys, edges, runs, outcomes, gates, failures."""

import re
import threading
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor

from dagster_dvc.assets import (
    build_dvc_asset_selection,
    build_schedule_from_dvc_selection,
    dvc_assets,
    dvc_sources,
    get_asset_key_for_stage,
)
from dagster_dvc.events import reconcile
from dagster_dvc.project import DvcProject, Stage
from dagster_dvc.repro import Repro
from dagster_dvc.resource import DvcResource
from dagster_dvc.translator import Assets, DvcTranslator
from tests.dagster_dvc import toy
from tests.dagster_dvc.dagster_toy import QUIET, definitions, materialize, metadata
from tests.dagster_dvc.test_repro import wait_for

pytestmark = QUIET

ALL = {"prepare", "left", "right", "train", "evaluate/scores", "evaluate/pictures"}


def test_every_stage_has_one_operation_and_every_data_output_one_asset(root: Path) -> None:
    made = dvc_assets(DvcProject(root))
    assert {key.to_user_string() for assets in made for key in assets.keys} == ALL
    assert {assets.op.name for assets in made} == {f"repro_{name}" for name in DvcProject(root).stages}
    assert {source.key.to_user_string() for source in dvc_sources(DvcProject(root))} == {"source/numbers.txt"}


def test_the_assets_carry_what_dvc_yaml_says(root: Path) -> None:
    graph = definitions(root).resolve_asset_graph()
    train = graph.get(dg.AssetKey("train"))
    assert train.group_name == "training"
    assert train.kinds == {"dvc", "python"}
    assert train.pools == {"gpu"}
    assert train.parent_keys == {dg.AssetKey("left"), dg.AssetKey("right")}
    assert "Sums both sides." in (train.description or "")
    prepare = graph.get(dg.AssetKey("prepare"))
    assert prepare.owners == ["team:data"]
    assert prepare.tags["tier"] == "raw"
    assert prepare.pools == {"stage__prepare"}
    assert prepare.parent_keys == {dg.AssetKey(["source", "numbers.txt"])}
    [reference] = train.metadata["dagster/code_references"].code_references
    assert (root / "dvc.yaml").read_text().splitlines()[reference.line_number - 1] == "  train:"


def test_string_selections_work(root: Path) -> None:
    graph = definitions(root).resolve_asset_graph()
    keys = dg.AssetSelection.from_string('key:"left"+').resolve(graph)
    assert {key.to_user_string() for key in keys} == {"left", "train", "evaluate/scores", "evaluate/pictures"}


def test_selections_by_stage_words(root: Path) -> None:
    project = DvcProject(root)
    graph = definitions(root).resolve_asset_graph()
    keys = build_dvc_asset_selection(project, ["group:sides"]).resolve(graph)
    assert {key.to_user_string() for key in keys} == {"left", "right"}
    assert get_asset_key_for_stage(project, "train") == dg.AssetKey("train")
    schedule = build_schedule_from_dvc_selection(project, ["+train"], name="weekly", cron_schedule="0 4 * * 0")
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
    assert len(dvc_assets(project, select=["*"], exclude=["group:training"])) == 3


@pytest.mark.costly
def test_a_first_run_executes_a_second_reuses_and_going_back_restores(tmp_path: Path) -> None:
    root = toy.make(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:
        first = materialize(root, instance)
        assert first.success
        assert metadata(first, "train")["dvc/outcome"] == "executed"
        versions = {event.asset_key: tag(event) for event in first.get_asset_materialization_events()}
        second = materialize(root, instance)
        assert {metadata(second, key)["dvc/outcome"] for key in ALL} == {"reused"}
        assert versions == {event.asset_key: tag(event) for event in second.get_asset_materialization_events()}
        toy.edit(root, "params.yaml", "total: 3", "total: 4")
        assert metadata(materialize(root, instance, "train"), "train")["dvc/outcome"] == "executed"
        toy.edit(root, "params.yaml", "total: 4", "total: 3")
        back = metadata(materialize(root, instance, "train"), "train")
        assert back["dvc/outcome"] == "restored from run cache"
    assert toy.dvc(root, "status", "--json").stdout.strip() == "{}"


def tag(event: dg.DagsterEvent) -> str:
    tags = event.step_materialization_data.materialization.tags
    assert tags
    return tags["dagster/data_version"]


@pytest.mark.costly
def test_a_run_tells_its_numbers_params_hashes_and_progress(root: Path) -> None:
    toy.edit(root, "params.yaml", "steps: 0", "steps: 8")
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize(root, instance, "train")
        found = metadata(result, "train")
        assert (found["total"], found["psnr/held_out"]) == (pytest.approx(30.0003), 29.5)
        names = [record.data["name"] for record in found["params"].records]
        assert names == ["train.total", "train.gate", "train.steps"]
        assert found["dvc/hash"] in (root / "dvc.lock").read_text()
        records = instance.fetch_observations(dg.AssetKey("train"), limit=50).records
        seen = [record.asset_observation.metadata for record in records if record.asset_observation]
        assert len(seen) >= 3
        assert seen[0]["progress/percent"].value == 100.0
        assert "loss/denoiser" in seen[0]
        lines = [entry.user_message for entry in instance.all_logs(result.run_id) if entry.dagster_event is None]
        assert any(line.startswith("step 8/8 (100 %), loss/denoiser 0.125") for line in lines)
        assert not any("did not receive any messages" in line for line in lines)


@pytest.mark.costly
def test_one_of_two_outputs_can_be_selected(root: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize(root, instance, "evaluate/scores")
        assert result.success
        assert instance.get_latest_materialization_event(dg.AssetKey(["evaluate", "pictures"])) is not None


@pytest.mark.costly
def test_a_failed_gate_is_recorded_and_stops_what_follows(root: Path) -> None:
    toy.edit(root, "params.yaml", "gate: 1", "gate: 1000")
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize(root, instance)
        assert not result.success
        gate = {check.check_name: check for check in result.get_asset_check_evaluations()}["total_is_large"]
        assert not gate.passed and gate.severity == dg.AssetCheckSeverity.ERROR
        assert gate.metadata["threshold"].value == 1000
        made = {
            event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key
        }
        assert made == {"prepare", "left", "right", "train"}


@pytest.mark.costly
def test_a_bound_in_dvc_yaml_is_a_gate_that_retrains_nothing(root: Path) -> None:
    toy.edit(root, "dvc.yaml", "metric: total, min: 1,", "metric: total, max: 1,")
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize(root, instance, "train")
        assert not result.success
        assert metadata(result, "train")["dvc/outcome"] == "reused"


@pytest.mark.costly
def test_a_failing_stage_says_its_own_last_words_and_keeps_the_earlier_result(root: Path) -> None:
    before = (root / "work/model").read_text()
    toy.edit(root, "params.yaml", "amount: 2", "amount: -2000")
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize(root, instance)
        [failure] = [event for event in result.all_events if event.is_step_failure and event.step_key == "repro_train"]
        details = failure.step_failure_data.user_failure_data
        assert details and "train: the total is negative" in str(details.description)
        assert details.metadata["exit code"].value == "7"
    assert (root / "work/model").read_text() == before


@pytest.mark.costly
def test_force_runs_an_unchanged_stage(root: Path) -> None:
    config = {"ops": {"repro_train": {"config": {"force": True}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize(root, instance, "train", run_config=config)
        assert metadata(result, "train")["dvc/outcome"] == "executed"


@pytest.mark.costly
def test_a_stage_that_runs_elsewhere_is_tried_again(root: Path) -> None:
    toy.edit(root, "params.yaml", "steps: 0", "steps: 80")
    elsewhere = Repro(DvcProject(root), "train")
    thread = threading.Thread(target=elsewhere.result)
    thread.start()
    wait_for(lambda: (root / ".work/step").exists())
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize(root, instance, "train")
        assert result.success
        assert any(event.is_step_up_for_retry for event in result.all_events)
        assert metadata(result, "train")["dvc/outcome"] == "reused"
    thread.join()


def test_a_translator_renames_regroups_and_adds(root: Path) -> None:
    class Renamed(DvcTranslator):
        def get_asset_key(self, stage: Stage, out: object) -> dg.AssetKey:
            return super().get_asset_key(stage, out).with_prefix("video")  # type: ignore[arg-type]

        def get_group_name(self, stage: Stage) -> str:
            return "mine"

    graph = definitions(root, Renamed()).resolve_asset_graph()
    train = graph.get(dg.AssetKey(["video", "train"]))
    assert train.group_name == "mine"
    assert train.parent_keys == {dg.AssetKey(["video", "left"]), dg.AssetKey(["video", "right"])}


def test_two_outputs_with_one_key_get_two_and_both_places_are_said(root: Path) -> None:
    class Colliding(DvcTranslator):
        def get_asset_key(self, stage: Stage, out: object) -> dg.AssetKey:
            return dg.AssetKey("same")

    assert len(definitions(root, Colliding()).resolve_asset_graph().materializable_asset_keys) == 6
    said = Assets(DvcProject(root), Colliding()).problems[0]
    assert re.match(r"dvc\.yaml:9 \(stage 'left'.*dvc\.yaml:3 \(stage 'prepare'", said) and "rename one" in said


@pytest.mark.costly
def test_a_broken_stage_is_shown_and_the_rest_works(root: Path) -> None:
    toy.edit(root, "dvc.yaml", "cmd: python evaluate.py", "command: python evaluate.py")
    graph = definitions(root).resolve_asset_graph()
    broken = graph.get(dg.AssetKey("evaluate"))
    assert broken.group_name == "broken"
    assert "dvc.yaml:" in (broken.description or "")
    with dg.DagsterInstance.ephemeral() as instance:
        assert not materialize(root, instance, "train").success
    assert DvcProject(root).problems


def test_an_eager_stage_is_asked_for_when_what_it_reads_was_made_anew_and_only_then(root: Path) -> None:
    toy.edit(root, "dvc.yaml", "meta: {dagster: {group: training}}", "meta: {dagster: {automation: eager}}")
    loaded = definitions(root)
    with dg.DagsterInstance.ephemeral() as instance:

        def asked(cursor: AssetDaemonCursor | None) -> tuple[set[str], AssetDaemonCursor]:
            selection = dg.AssetSelection.assets("evaluate/scores", "evaluate/pictures")
            found = dg.evaluate_automation_conditions(loaded, instance, selection, cursor=cursor)
            keys = {result.key.to_user_string() for result in found.results if found.get_num_requested(result.key)}
            return keys, found.cursor

        reconcile(instance, Assets(DvcProject(root)))
        first, cursor = asked(None)
        assert first == set()
        instance.report_runless_asset_event(dg.AssetMaterialization("train"))
        second, cursor = asked(cursor)
        assert second == {"evaluate/scores", "evaluate/pictures"}
        assert asked(cursor)[0] == set()


@pytest.mark.costly
def test_eager_stages_are_asked_for_once_whatever_is_loaded_anew_between(root: Path, tmp_path: Path) -> None:
    """A real instance on disk, and the cursor as the daemon keeps it: as text."""
    toy.edit(root, "dvc.yaml", "meta: {dagster: {group: training}}", "meta: {dagster: {automation: eager}}")
    both, cursor = {"evaluate/scores", "evaluate/pictures"}, None
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:

        def asked() -> set[str]:
            """What a tick of a location that has just been loaded asks for."""
            nonlocal cursor
            known = dg.deserialize_value(cursor, AssetDaemonCursor) if cursor else None
            selection = dg.AssetSelection.assets(*both)
            found = dg.evaluate_automation_conditions(definitions(root), instance, selection, cursor=known)
            cursor = dg.serialize_value(found.cursor)
            return {result.key.to_user_string() for result in found.results if found.get_num_requested(result.key)}

        def made() -> None:
            toy.dvc(root, "repro", "train")
            reconcile(instance, Assets(DvcProject(root)))

        reconcile(instance, Assets(DvcProject(root)))
        assert [asked(), asked()] == [set(), set()]
        toy.edit(root, "params.yaml", "amount: 2", "amount: 5")
        assert asked() == set()  # loaded anew; nothing was made
        made()
        assert [asked(), asked()] == [both, set()]
        toy.edit(root, "dvc.yaml", "desc: Reads the model.", "desc: Reads it.")
        toy.edit(root, "dvc.yaml", "deps: [evaluate.py, work/model]", "deps: [evaluate.py, work/model, work/left]")
        assert [asked(), asked()] == [set(), set()]
        toy.edit(root, "params.yaml", "amount: 5", "amount: 6")
        made()
        assert [asked(), asked()] == [both, set()]  # made and loaded anew in one interval


@pytest.mark.costly
def test_nothing_that_dagster_keeps_or_takes_is_the_environment(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "planted-0123456789")
    toy.dvc(root, "remote", "add", "-d", "--local", "far", "https://someone:planted-0123456789@host.example/dvc")
    place = tmp_path_factory.mktemp("dagster")
    with dg.instance_for_test(temp_dir=str(place)) as instance:
        assert materialize(root, instance, "prepare", "left").success
    kept = [path for path in place.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in kept)
    assert [path for path in kept if b"planted" in path.read_bytes()] == []
    assert "env" not in DvcResource.model_fields
