"""Dagster's picture follows DVC: staleness after edits, runs made elsewhere, an empty database, sources, outputs."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_dvc import previous
from dagster_dvc.events import observe_sources, reconcile, report_sync
from dagster_dvc.project import DvcProject
from dagster_dvc.repro import Repro
from dagster_dvc.translator import Assets
from tests.dagster_dvc import toy
from tests.dagster_dvc.dagster_toy import QUIET, materialize, stale_keys
from tests.dagster_dvc.edits import EDITS, Edited
from tests.dagster_dvc.test_repro import wait_for

pytestmark = QUIET

NOT_SEEN_BY_DAGSTER = {
    *("an output edited", "an output deleted", "an output added", "a stage added", "a metric edited"),
    *("a cache object lost", "an object of a folder lost", "the cache lost", "an output and the cache lost"),
    *("a .dvcignore in a dependency", "a link to nowhere", "a linked file", "a file in place of a folder"),
    *("a file of a dependency ignored", "a project inside a dependency"),  # it is an output, too
    "what file managers leave, not ignored",
    "a stage that reads and makes nothing",  # always stale
}
"""Changed outputs are the in-sync check's; what has no event yet is missing and not stale."""


def follow(root: Path, instance: dg.DagsterInstance) -> list[str]:
    assets = Assets(DvcProject(root))
    observe_sources(instance, assets)
    return [key.to_user_string() for key in reconcile(instance, assets)]


def assets_of(stages: set[str]) -> set[str]:
    return {
        key
        for stage in stages
        for key in (["evaluate/scores", "evaluate/pictures"] if stage == "evaluate" else [stage])
    }


@pytest.mark.parametrize("edit", sorted(EDITS.keys() - NOT_SEEN_BY_DAGSTER))
def test_dagster_and_dvc_call_the_same_stages_stale(reproduced: Path, edited: dict[str, Edited], edit: str) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        follow(reproduced, instance)
        root = edited[edit].root
        follow(root, instance)
        assert stale_keys(root, instance) == assets_of(edited[edit].stale)


def test_an_empty_instance_is_filled_from_the_lock_with_provenance(root: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert follow(root, instance) == ["prepare", "left", "right", "train", "evaluate/pictures", "evaluate/scores"]
        assert stale_keys(root, instance) == set()
        event = instance.get_latest_materialization_event(dg.AssetKey("train"))
        assert event and event.asset_materialization
        tags = event.asset_materialization.tags or {}
        left = instance.fetch_materializations(dg.AssetKey("left"), limit=1).records[0]
        assert tags["dagster/input_event_pointer/left"] == str(left.storage_id)
        assert event.asset_materialization.metadata["total"].value == pytest.approx(30.0003)
        assert follow(root, instance) == []


def test_a_repro_in_a_terminal_turns_the_graph_green(root: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        follow(root, instance)
        toy.edit(root, "params.yaml", "amount: 2", "amount: 3")
        assert stale_keys(root, instance) == {"right"}
        toy.dvc(root, "repro")
        assert follow(root, instance) == ["right", "train", "evaluate/pictures", "evaluate/scores"]
        assert stale_keys(root, instance) == set()


def test_a_run_of_dagsters_own_needs_no_second_report(root: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        observe_sources(instance, Assets(DvcProject(root)))
        assert materialize(root, instance).success
        assert follow(root, instance) == []
        assert stale_keys(root, instance) == set()


def test_a_changed_source_is_noticed_once(root: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        follow(root, instance)
        toy.edit(root, "source/numbers.txt", "3", "30")
        assert observe_sources(instance, Assets(DvcProject(root))) == [dg.AssetKey(["source", "numbers.txt"])]
        assert observe_sources(instance, Assets(DvcProject(root))) == []
        assert stale_keys(root, instance) == {"prepare"}


def test_an_output_deleted_by_hand_fails_the_in_sync_check_until_it_is_back(root: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        follow(root, instance)
        (root / "work/model").unlink()
        assert report_sync(instance, Assets(DvcProject(root))) == [dg.AssetKey("train")]
        assert report_sync(instance, Assets(DvcProject(root))) == []
        toy.dvc(root, "checkout")
        assert report_sync(instance, Assets(DvcProject(root))) == [dg.AssetKey("train")]


def test_a_stage_that_reads_metrics_is_stale_when_they_change(tmp_path: Path) -> None:
    text = (
        toy.DVC_YAML + "  summary: {cmd: cp metrics/train.json summary, deps: [metrics/train.json], outs: [summary]}\n"
    )
    root = toy.make(tmp_path, text)
    with dg.DagsterInstance.ephemeral() as instance:
        observe_sources(instance, Assets(DvcProject(root)))
        assert materialize(root, instance).success
        assert follow(root, instance) == []
        assert stale_keys(root, instance) == set()
        toy.edit(root, "params.yaml", "gate: 1", "gate: 2")
        assert materialize(root, instance, "train").success
        assert stale_keys(root, instance) == {"summary"}


def test_a_running_stage_does_not_fail_the_in_sync_check(root: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        follow(root, instance)
        toy.edit(root, "params.yaml", "steps: 0", "steps: 300")
        process = Repro(DvcProject(root), "train", grace=2)
        thread = threading.Thread(target=process.result)
        thread.start()
        wait_for(lambda: (root / ".work/step").exists())
        assert not (root / "work/model").exists()
        assert report_sync(instance, Assets(DvcProject(root))) == []
        process.stop()
        thread.join(60)
        assert report_sync(instance, Assets(DvcProject(root))) == [dg.AssetKey("train")]


def test_gates_of_a_run_in_a_terminal_are_checks_too(root: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        follow(root, instance)
        report_sync(instance, Assets(DvcProject(root)), {})
        keys = [dg.AssetCheckKey(dg.AssetKey("train"), name) for name in ("total_is_large", "in_sync_with_dvc")]
        found = instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
        assert {key.name: found[key].status.value for key in keys} == {
            "total_is_large": "SUCCEEDED",
            "in_sync_with_dvc": "SUCCEEDED",
        }


def metadata_of(instance: dg.DagsterInstance, name: str) -> dict[str, Any]:
    event = instance.get_latest_materialization_event(dg.AssetKey(name))
    assert event and event.asset_materialization
    return dict(event.asset_materialization.metadata)


def changed_rows(instance: dg.DagsterInstance, name: str) -> dict[tuple[str, str], tuple[str, str]]:
    table = metadata_of(instance, name)[previous.CHANGED]
    assert isinstance(table, dg.TableMetadataValue)
    rows = [record.data for record in table.records]
    return {(str(row["what"]), str(row["name"])): (str(row["before"]), str(row["now"])) for row in rows}


def test_a_materialization_says_what_differs_from_the_one_before(root: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        follow(root, instance)
        assert metadata_of(instance, "left")[previous.CHANGED].value == previous.FIRST
        inputs = metadata_of(instance, "train")["dvc/inputs"]
        assert {record.data["path"] for record in inputs.records} >= {"work/left", "work/right"}
        assert all(len(str(record.data["hash"])) >= 32 for record in inputs.records), "upstream digests"
        values = (root / "params.yaml").read_text()
        (root / "params.yaml").write_text(values.replace("amount: 1.0e-4", "amount: 5"))
        for stage in ("left", "train"):
            Repro(DvcProject(root), stage).result()
        assert {"left", "train"} <= set(follow(root, instance))
        left, train = changed_rows(instance, "left"), changed_rows(instance, "train")
        assert left["params", "left.amount"] == ("0.0001", "5") and ("output", "work/left") in left
        assert ("input", "work/left") in train and ("params", "left.amount") not in train
        said = metadata_of(instance, "train")[previous.CHANGED]
        materialize(root, instance, "train")
        assert metadata_of(instance, "train")[previous.CHANGED] == said, "the same again: what is new stays said"


def test_of_many_numbers_the_headline_is_compared_and_no_spreads(root: Path) -> None:
    stage = DvcProject(root).stage("train")
    marked = replace(stage, meta={"dagster": {**stage.meta.get("dagster", {}), "headline": ["last/score"]}})
    metrics = {f"n{number}": float(number) for number in range(90)} | {"last": {"score": 0.5, "score_std": 0.1}}
    told = previous._telling(marked, metrics)
    assert list(told)[:2] == ["last/score", "n0"] and "last/score_std" not in told
