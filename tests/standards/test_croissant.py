"""Croissant: MLCommons' own library takes what we write, reads our rows by it, and finds where each came from."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdflib import Graph, Namespace, URIRef

from pipelines.chain import NoChain, carry
from pipelines.data.contract import INDEX
from pipelines.provenance import lineage, main
from pipelines.stage import file_digest, write_json
from pipelines.standards import croissant
from tests.data.sample_shards import write_latents
from tests.standards.sample_release import NODE

PROV = Namespace("http://www.w3.org/ns/prov#")
MLCROISSANT = [sys.executable, "-c", "from mlcroissant.scripts.cli import main; main()"]


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    """Latents of clips, both with their chains."""
    clips = tmp_path / "data/clips"
    clips.mkdir(parents=True)
    columns = {
        "key": ["a", "b"],
        "content_hash": ["1", "2"],
        "caption": ["<b>", "\x00| # $"],
        "actions": [[[0.5]], None],
    }
    table = pa.table(columns)
    pq.write_table(table, clips / "catalog.parquet")
    carry(clips, {**NODE, "stage": "raw_video", "path": "data/clips"}, {}, {})
    folder = write_latents(tmp_path / "data/latents")
    rows = pd.read_parquet(folder / INDEX)
    rows.assign(source="films/a.mp4", start_seconds=0.5, content_hash="1").to_parquet(folder / INDEX)
    manifest = json.loads((folder / "manifest.json").read_text())
    write_json(folder / "manifest.json", manifest | {"files": {INDEX: file_digest(folder / INDEX)}})
    facts = {"samples": 5, "splits": {"train": 4, "test": 1}}
    carry(
        folder,
        {**NODE, "stage": "latent_shards", "path": "data/latents", "facts": facts},
        {"clips": clips},
        {"clips": "c"},
    )
    return folder


def tool(folder: Path, *words: str) -> str:
    """What MLCommons' command says of a folder's description."""
    (folder / "croissant.json").write_text(json.dumps(croissant.describe(lineage(folder))))
    command = [*MLCROISSANT, words[0], "--jsonld", str(folder / "croissant.json"), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.costly
def test_mlcroissant_finds_no_error_and_reads_every_row_of_shards(latents: Path) -> None:
    assert "error" not in tool(latents, "validate").lower()
    told = tool(latents, "load", "--record_set", croissant.ROWS, "--num_records", "-1")
    keys = pd.read_parquet(latents / INDEX)["key"]
    assert all(f"'samples/key': b'{key}'" in told for key in keys)


@pytest.mark.costly
def test_mlcroissant_takes_the_clips_too_with_lists_and_captions_of_anybody(latents: Path) -> None:
    told = tool(latents.parent / "clips", "load", "--record_set", croissant.ROWS, "--num_records", "-1")
    assert "'samples/caption': b'<b>'" in told and "'samples/actions': [[0.5]]" in told


def test_every_shard_is_a_file_by_its_sha256_and_the_fields_say_axes_and_shape(latents: Path) -> None:
    parts = {one["@id"]: one for one in croissant.describe(lineage(latents))["distribution"]}
    shards = sorted(path.name for path in latents.glob("*.tar"))
    assert shards and all(
        parts[name]["sha256"] == hashlib.sha256((latents / name).read_bytes()).hexdigest() for name in shards
    )
    assert "axes C T H W" in parts["field-latents"]["description"]
    assert [one["@id"] for one in parts["field-latents"]["containedIn"]] == shards


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph:DeprecationWarning")  # rdflib of itself
def test_prov_leads_from_the_shards_to_the_clips_and_from_each_row_to_its_clip(latents: Path) -> None:
    content = croissant.describe(lineage(latents))
    graph = Graph().parse(data=json.dumps(content), format="json-ld")
    clips = URIRef(croissant.identity(lineage(latents.parent / "clips").artifact))
    [shards] = graph.subjects(PROV.wasDerivedFrom, clips)
    labels = {str(graph.value(graph.value(one, PROV.wasGeneratedBy), PROV.label)) for one in (shards, clips)}
    assert labels == {"latent_shards", "raw_video"}
    annotation = content["recordSet"][0]["annotation"]
    assert annotation["equivalentProperty"] == "prov:wasDerivedFrom"
    assert {one["name"] for one in annotation["subField"]} == {"source", "start_seconds", "content_hash"}


def test_the_length_of_a_description_does_not_grow_with_the_rows(latents: Path) -> None:
    short = len(json.dumps(croissant.describe(lineage(latents))))
    table = pd.read_parquet(latents / INDEX)
    pd.concat([table] * 1000, ignore_index=True).to_parquet(latents / INDEX)
    assert abs(len(json.dumps(croissant.describe(lineage(latents)))) - short) < 50


def test_sums_of_dvc_stand_beside_ours_where_its_cache_lists_them(latents: Path) -> None:
    root = latents.parents[1]
    listed = [{"md5": "0" * 32, "relpath": INDEX}]
    total = "ab" + "1" * 30 + ".dir"
    (root / "dvc.lock").write_text(f"stages: {{latents: {{outs: [{{path: data/latents, md5: {total}}}]}}}}\n")
    (root / ".dvc/cache/files/md5/ab").mkdir(parents=True)
    (root / ".dvc/cache/files/md5/ab" / total[2:]).write_text(json.dumps(listed))
    parts = {one["@id"]: one for one in croissant.describe(lineage(latents))["distribution"]}
    assert parts[INDEX]["md5"] == "0" * 32 and "md5" not in parts["manifest.json"]


def test_the_command_tells_it_and_says_what_it_cannot_describe(latents: Path, tmp_path: Path, capsys: Any) -> None:
    assert main([str(latents), "--format", "croissant"]) == 0
    assert json.loads(capsys.readouterr().out)["conformsTo"] == croissant.VERSION
    (tmp_path / "report").mkdir()
    (tmp_path / "report/report.html").write_text("")
    carry(tmp_path / "report", NODE, {}, {})
    assert main([str(tmp_path / "report"), "--format", "croissant"]) == 3
    assert "no data set" in capsys.readouterr().err
    with pytest.raises(NoChain):
        croissant.describe(lineage(tmp_path / "report"))
