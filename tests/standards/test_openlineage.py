"""OpenLineage: the reference client takes every event, and who ran a stage does not change what is told of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from openlineage.client import event_v2, facet_v2
from openlineage.client.serde import Serde

from dagster_dvc.project import DvcProject
from dagster_dvc.runner import Runner
from pipelines.chain import carry
from pipelines.provenance import main
from pipelines.stage import StageError, write_json
from pipelines.standards.openlineage import events, run_id
from tests.dagster_dvc import toy
from tests.standards.sample_release import NODE

FACETS = {
    "jobType": facet_v2.job_type_job.JobTypeJobFacet,
    "documentation": facet_v2.documentation_job.DocumentationJobFacet,
    "tags": facet_v2.tags_run.TagsRunFacet,
    "executionParameters": facet_v2.execution_parameters_run.ExecutionParametersRunFacet,
    "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet,
    "schema": facet_v2.schema_dataset.SchemaDatasetFacet,
    "outputStatistics": facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
}


def facets(told: dict[str, Any] | None) -> dict[str, Any]:
    """Each as the client's own class, which takes no key it does not know; its schema must be the one it names."""
    made = {}
    for name, facet in (told or {}).items():
        values = {key: value for key, value in facet.items() if not key.startswith("_")}
        made[name] = FACETS[name](**values, producer=facet["_producer"])
        assert made[name]._schemaURL == facet["_schemaURL"], name
    return made


def read(event: dict[str, Any]) -> event_v2.RunEvent:
    """An event as the reference client holds it."""

    def dataset(kind: Any, one: dict[str, Any]) -> Any:
        more = {"outputFacets": facets(one.get("outputFacets"))} if kind is event_v2.OutputDataset else {}
        return kind(one["namespace"], one["name"], facets=facets(one["facets"]), **more)

    assert event["schemaURL"] == event_v2.RunEvent._get_schema()
    return event_v2.RunEvent(
        eventType=event_v2.RunState[event["eventType"]],
        eventTime=event["eventTime"],
        run=event_v2.Run(event["run"]["runId"], facets=facets(event["run"]["facets"])),
        job=event_v2.Job(event["job"]["namespace"], event["job"]["name"], facets=facets(event["job"]["facets"])),
        inputs=[dataset(event_v2.InputDataset, one) for one in event["inputs"]],
        outputs=[dataset(event_v2.OutputDataset, one) for one in event["outputs"]],
        producer=event["producer"],
    )


def plain(value: Any) -> Any:
    """Without what the client adds where nothing was given: nulls and empty collections."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items() if part not in (None, {}, [])}
    return [plain(part) for part in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The toy project, run by a plain `dvc repro`; and the same, run by what Dagster and `reel run` run stages with."""
    one = toy.make(tmp_path_factory.mktemp("openlineage") / "one")
    other = Path(shutil.copytree(one, one.with_name("other"), symlinks=True))
    toy.dvc(one, "repro")
    project = DvcProject(other)
    assert not Runner(project, project.stages).run().failed
    return one, other


def told(root: Path) -> list[dict[str, Any]]:
    return list(events(root))


def test_the_reference_client_reads_every_event_as_it_was_written(projects: tuple[Path, Path]) -> None:
    for event in told(projects[0]):
        assert plain(json.loads(Serde.to_json(read(event)))) == plain(event)


def test_a_plain_repro_and_dagster_tell_the_same(projects: tuple[Path, Path]) -> None:
    for root in projects:
        os.utime(root / "dvc.lock", (1_700_000_000, 1_700_000_000))  # no stage of the toy has a record with its times
    one, other = (told(root) for root in projects)
    key = lambda event: (event["job"]["name"], event["eventType"])  # noqa: E731
    assert sorted(one, key=key) == sorted(other, key=key) and len(one) == 10


def test_every_stage_starts_and_completes_once_with_what_it_read_and_made(projects: tuple[Path, Path]) -> None:
    found = told(projects[0])
    assert [event["eventType"] for event in found] == ["START", "COMPLETE"] * 5
    [train] = [event for event in found if event["job"]["name"] == "train" and event["eventType"] == "COMPLETE"]
    assert {one["name"] for one in train["inputs"]} == {"train.py", "work/left", "work/right"}
    assert {one["name"] for one in train["outputs"]} == {"work/model", "metrics/train.json", "plots/train"}
    made = {one["name"]: one["facets"]["version"]["datasetVersion"] for event in found for one in event["outputs"]}
    read_by = {one["name"]: one["facets"]["version"]["datasetVersion"] for one in train["inputs"]}
    assert read_by["work/left"] == made["work/left"]
    assert train["job"]["facets"]["documentation"]["description"] == "Sums both sides."


def test_another_result_or_parameter_is_another_run() -> None:
    entry = {"params": {"params.yaml": {"left": 1}}, "outs": [{"path": "a", "md5": "0" * 32}]}
    other = {**entry, "params": {"params.yaml": {"left": 2}}}
    assert run_id("n", "s", entry) == run_id("n", "s", json.loads(json.dumps(entry))) != run_id("n", "s", other)


def test_times_commit_and_samples_come_from_the_record_and_the_manifest(tmp_path: Path) -> None:
    out = tmp_path / "data/latents"
    write_json(
        out / "manifest.json", {"num_samples": 7, "fields": {"latents": {"dtype": "float16", "shape": [4, None]}}}
    )
    node = {**NODE, "stage": "latent_shards", "path": "data/latents"}
    carry(out, node, {}, {})
    lock = {"latent_shards": {"outs": [{"path": "data/latents", "md5": "1" * 32, "size": 5, "nfiles": 2}]}}
    lock["latent_shards"]["params"] = {"params.yaml": {"latent_shards": {"key": "hf_" + "Abc1" * 10}}}  # type: ignore[assignment]
    (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": lock}))
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    code = {"identity": node["code"], "commit": "c0ffee", "dirty": True}
    header = {"stage": "latent_shards", "code": code, "began_at": "2026-11-01T10:00:00+01:00"}
    header["ended_at"] = "2026-11-01T10:00:30+01:00"
    record = {"status": "finished", "header": header, "data": {}, "params": {}, "runtime": {}}
    write_json(tmp_path / ".work/latent_shards/1/record.json", record)
    start, complete = told(tmp_path)
    assert (start["eventTime"], complete["eventTime"]) == ("2026-11-01T09:00:00+00:00", "2026-11-01T09:00:30+00:00")
    tags = {one["key"]: one["value"] for one in start["run"]["facets"]["tags"]["tags"]}
    assert tags == {"commit": "c0ffee", "dirty": "True"}
    [output] = start["outputs"]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 7
    assert output["facets"]["schema"]["fields"] == [{"name": "latents", "type": "float16 [4, None]"}]
    assert "hf_Abc1" not in json.dumps([start, complete])
    read(start)


def test_the_command_says_where_events_are_made_from(tmp_path: Path, capsys: Any) -> None:
    assert main([str(tmp_path), "--format", "openlineage"]) == 3
    assert "dvc.lock" in capsys.readouterr().err
    for text in ("stages: [", "stages: 3", "a: 1", "stages: {a: 3}"):
        (tmp_path / "dvc.lock").write_text(text)
        with pytest.raises(StageError, match=r"dvc\.lock"):
            told(tmp_path)
