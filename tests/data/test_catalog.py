"""The catalog keeps its schema."""

from pathlib import Path
from typing import Any

import pytest

from pipelines.data.catalog import factor_names, read_catalog, read_rejected, write_catalog
from pipelines.stage import StageError


def row(key: str = "clip-1", **changes: Any) -> dict[str, Any]:
    return {
        "key": key,
        "file": f"clips/{key}.mp4",
        "caption": "a red square",
        "split": "train",
        "num_frames": 17,
        "height": 64,
        "width": 64,
        "frame_rate": 8.0,
        "source": "rendered",
        "start_seconds": 0.0,
        "end_seconds": 2.125,
        "content_hash": "00",
        "actions": [[1.0, 0.0, 0.0, 0.0, 0.5, -1.0]] * 17,
        **changes,
    }


def test_a_catalog_is_read_back_as_written(tmp_path: Path) -> None:
    rows = [row("b", factor_shape="circle"), row("a", factor_shape="cross", actions=None, split="validation")]
    refused = [{"file": "x.mp4", "reason": "too_short", "detail": "3 frames"}]
    written = write_catalog(tmp_path, rows, refused)
    catalog = read_catalog(tmp_path)
    assert catalog["key"].tolist() == written["key"].tolist() == ["b", "a"]
    assert factor_names(catalog) == ["shape"]
    assert [list(step) for step in catalog["actions"][0]] == rows[0]["actions"]
    assert catalog["actions"][1] is None
    assert read_rejected(tmp_path).to_dict("records") == refused


def test_measures_of_quality_stand_in_the_catalog_or_all_are_absent(tmp_path: Path) -> None:
    measures = {"quality_motion": None, "quality_sharpness": 3.5, "quality_hash": "00ff"}
    catalog = write_catalog(tmp_path, [row(**measures)])
    assert catalog["quality_sharpness"].tolist() == [3.5] and factor_names(catalog) == []
    with pytest.raises(StageError, match="quality_sharpness"):
        write_catalog(tmp_path, [row(quality_hash="00ff", quality_motion=1.0)])


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_catalog(tmp_path / name, [row()])
    one, two = ((tmp_path / name / "catalog.parquet").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("A/b")], "lower-case"),
        ([row(), row()], "twice"),
        ([row(split="dev")], "split 'dev'"),
        ([row(file="../x.mp4")], "leaves the folder"),
        ([row(num_frames=16)], "1 mod 4"),
        ([row(actions=[[0.0] * 6] * 3)], "a row for each of the"),
        (
            [row(actions=[[0.0] * 4] * 17), row("clip-2", actions=[[0.0] * 6] * 17)],
            "4 numbers like the clips before it",
        ),
        ([row(height="tall")], "does not fit"),
        ([row(colour="red")], "colour"),
        ([{name: value for name, value in row().items() if name != "caption"}], "caption"),
    ],
)
def test_a_row_that_breaks_the_schema_is_refused_by_name(
    tmp_path: Path, rows: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(StageError, match=words):
        write_catalog(tmp_path, rows)


def test_a_folder_without_catalog_says_which_stage_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="raw_video makes it"):
        read_catalog(tmp_path)
    (tmp_path / "catalog.parquet").write_text("nonsense")
    with pytest.raises(StageError, match="not readable as parquet"):
        read_catalog(tmp_path)
