"""Pictures and provenance on an asset's page."""

import base64
import json
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from PIL import Image

from assets.previews import MOST_BYTES, thumbnail, thumbnails
from assets.provenance import checkpoint_metadata, code_metadata, report_metadata
from assets.translator import ReelTranslator
from dagster_dvc.lock import read_lock
from dagster_dvc.project import DvcProject
from tests.dagster_dvc import toy
from tests.dagster_dvc.dagster_toy import materialize, metadata


@pytest.mark.parametrize("size", [(200, 100), (3000, 2000)])
def test_a_thumbnail_is_small_and_still_a_picture(tmp_path: Path, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    data = thumbnail(tmp_path / "noise.png")
    assert data is not None and len(data) <= MOST_BYTES
    (tmp_path / "small.png").write_bytes(data)
    with Image.open(tmp_path / "small.png") as small:
        assert small.width / small.height == pytest.approx(size[0] / size[1], rel=0.01)


def test_what_is_no_picture_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert thumbnail(tmp_path / "broken.jpg") is None


@pytest.mark.costly
def test_a_page_shows_pictures_gates_checkpoint_inputs_and_the_command(tmp_path: Path) -> None:
    root = toy.make(tmp_path)
    toy.dvc(root, "repro", "train")
    project = DvcProject(root)
    stage = project.stages["train"]
    [picture] = thumbnails(project, stage).values()
    assert base64.b64decode(picture.value.split("base64,")[1][:-1]).startswith(b"\x89PNG")
    found = ReelTranslator().get_result_metadata(project, stage, stage.data_outs[0], read_lock(project)["train"])
    assert {"headline", "picture/curve", "gates", "reproduce", "params", "dvc/hash", "total"} <= found.keys()
    assert "reel run train" in ReelTranslator().get_description(stage, None)


@pytest.mark.costly
@pytest.mark.filterwarnings("ignore:Property `OpDefinition.version` is deprecated:DeprecationWarning")
def test_pictures_are_stored_once_for_each_data_version(tmp_path: Path) -> None:
    root = toy.make(tmp_path)
    with dg.DagsterInstance.ephemeral() as instance:

        def stored() -> set[str]:
            """The pictures that one more run of everything brings to the page of the training."""
            result = materialize(root, instance, "prepare", "left", "right", "train", translator=ReelTranslator())
            assert result.success
            return {name for name in metadata(result, "train") if "picture" in name}

        assert [stored(), stored(), stored()] == [{"picture/curve"}, {"pictures"}, {"pictures"}]
        toy.edit(root, "params.yaml", "total: 3", "total: 4")
        assert [stored(), stored()] == [{"picture/curve"}, {"pictures"}]


def test_a_checkpoint_page_reads_its_record(tmp_path: Path) -> None:
    record = {
        "inputs": {"latents": {"path": "data/latents", "digest": "ab" * 32}},
        "weights": {},
        "step": 300,
        "seed": 0,
    }
    (tmp_path / "checkpoint.json").write_text(json.dumps(record))
    found = checkpoint_metadata(tmp_path)
    assert found["checkpoint/run"] == "step 300, seed 0"
    assert found["checkpoint/inputs"].records[0].data["digest"] == "ab" * 8
    assert checkpoint_metadata(tmp_path / "absent") == {}


def test_a_report_page_gives_paths(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<html>")
    (tmp_path / "a.mp4").write_bytes(b"")
    assert report_metadata(tmp_path)["clips"] == 1
    assert report_metadata(tmp_path)["report"].value == str(tmp_path / "report.html")


def test_without_git_there_is_no_commit(tmp_path: Path) -> None:
    assert code_metadata(tmp_path) == {}
