"""The stage: rendered clips, a folder of videos, refusals, and mistakes told before long work."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipelines.data.catalog import read_catalog, read_rejected
from pipelines.data.video import read_clip
from pipelines.footage import overview
from pipelines.footage.factors import FACTORS, STEERED
from pipelines.footage.params import RawVideoParams
from pipelines.footage.raw_video import warn_unwatched
from pipelines.footage.rendered import drawn
from pipelines.params import parse_section
from pipelines.stage import StageError
from tests.footage.footage import CLIP, SPLITS, folder, run, video

RENDERED = {"seed": 0, "test_seed": 1, "num_clips": 8, "steered_share": 0.0, "composition": None}


def combined(*combinations: dict[str, str], num_clips: int = 4) -> dict[str, Any]:
    """The block ``composition``."""
    return {"num_clips": num_clips, "combinations": list(combinations)}


def rendered(num_clips: int = 16, seed: int = 0) -> RawVideoParams:
    source = {
        "rendered": {
            "seed": seed,
            "test_seed": seed + 100,
            "num_clips": num_clips,
            "steered_share": 0.0,
            "composition": None,
        }
    }
    return RawVideoParams.model_validate({"clip": CLIP, "splits": SPLITS, "source": source})


@pytest.mark.costly
def test_rendered_clips_are_what_the_catalog_says(tmp_path: Path) -> None:
    catalog, metrics = run(rendered(), tmp_path)
    counts = {"train": 8, "validation": 4, "test": 4}
    assert len(catalog) == 16 and catalog["split"].value_counts().to_dict() == counts
    for _, clip in catalog.iterrows():
        assert read_clip(tmp_path / "clips" / str(clip["file"])).shape == (5, 32, 32, 3)
        assert np.stack(list(clip["actions"])).shape == (5, 6)
        assert str(clip["factor_color"]) in str(clip["caption"])
    assert metrics["num_clips"] == 16 and metrics["splits"] == counts and metrics["num_rejected"] == 0
    assert metrics["footage_seconds"] == pytest.approx(16 * 5 / 8)
    assert metrics["mp4_psnr"]["lowest"] > 25
    assert read_rejected(tmp_path / "clips").empty


def test_the_default_split_has_every_factor_value_on_both_sides() -> None:
    params = parse_section(RawVideoParams, "raw_video", Path(__file__).parents[2] / "params.yaml")
    assert isinstance(params, RawVideoParams)
    assert params.source.rendered is not None and params.source.rendered.composition is not None
    clips = list(drawn(params.source.rendered, params.splits))
    for split in ("train", "validation", "test"):
        part = [factors for name, factors, *_ in clips if name == split]
        for name, values in FACTORS.items():
            assert {getattr(one, name) for one in part} - {STEERED} == set(values)


@pytest.mark.costly
def test_equal_parameters_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(rendered(), tmp_path / name)
    one, two = (sorted((tmp_path / name / "clips").rglob("*.*")) for name in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


@pytest.mark.costly
def test_a_longer_series_keeps_the_clips_and_splits_of_a_shorter_one(tmp_path: Path) -> None:
    short, _ = run(rendered(8), tmp_path / "short")
    long, _ = run(rendered(16), tmp_path / "long")
    known = [set(one[["key", "split", "caption"]].itertuples(index=False, name=None)) for one in (short, long)]
    assert known[0] < known[1] and len(known[1]) == 16
    other, _ = run(rendered(8, seed=1), tmp_path / "other")
    assert set(other["key"]).isdisjoint(short["key"])


@pytest.mark.costly
def test_pictures_are_drawn_for_both_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "DPI", 120)  # as users get them
    for number in range(2):
        video(tmp_path / "videos" / f"{number}.mp4", seed=number)
    run(rendered(), tmp_path / "rendered")
    run(folder(tmp_path / "videos"), tmp_path / "folder")
    for name, third in (("rendered", "factors"), ("folder", "sources")):
        plots = tmp_path / name / "plots"
        assert {path.stem for path in plots.iterdir()} == {"contact_sheet", "filmstrips", third}
        for path in plots.iterdir():
            with Image.open(path) as picture:
                assert 900 <= picture.width <= 1400
                assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 16


def test_videos_are_cut_by_time_into_clips_that_tell_where_they_are_from(tmp_path: Path) -> None:
    video(tmp_path / "videos/a.mp4", num_frames=45, frame_rate=30.0)
    video(tmp_path / "videos/sub dir/Ünïcode.mp4", num_frames=16, seed=1, caption="another\nthing")
    video(tmp_path / "videos/z.mp4", num_frames=12, seed=2)
    catalog, metrics = run(folder(tmp_path / "videos"), tmp_path)
    assert catalog["source"].tolist() == ["a.mp4"] * 2 + ["sub dir/Ünïcode.mp4"] * 3 + ["z.mp4"] * 2
    assert catalog["start_seconds"].tolist() == [0.0, 0.625, 0.0, 0.625, 1.25, 0.0, 0.625]
    assert catalog["caption"].tolist() == ["a thing"] * 2 + ["another thing"] * 3 + ["a thing"] * 2
    assert catalog["actions"].isna().all()
    assert metrics["num_sources"] == 3 and metrics["rejected_share"] == 0
    assert catalog.groupby("source")["split"].nunique().tolist() == [1, 1, 1]
    assert set(catalog["split"]) == {"train", "validation", "test"}
    levels = [read_clip(tmp_path / "clips" / file)[:, :, :, 0].mean((1, 2)) for file in catalog["file"][:2]]
    expected = 20 + 15 + 200 * np.round(np.arange(10) * 30 / 8) / 45
    assert np.concatenate(levels) == pytest.approx(expected, abs=4.5)  # 4.4 levels are one frame of the source


@pytest.mark.costly
def test_a_rename_keeps_keys_and_splits_and_a_new_video_keeps_the_keys(tmp_path: Path) -> None:
    for number in range(3):
        video(tmp_path / "videos" / f"{number}.mp4", seed=number)
    before, _ = run(folder(tmp_path / "videos"), tmp_path / "before")
    for suffix in ("mp4", "txt"):
        (tmp_path / f"videos/0.{suffix}").rename(tmp_path / f"videos/z.{suffix}")
    after, _ = run(folder(tmp_path / "videos"), tmp_path / "after")
    assert dict(zip(after["key"], after["split"], strict=True)) == dict(
        zip(before["key"], before["split"], strict=True)
    )
    video(tmp_path / "videos/new.mp4", seed=9)
    more, _ = run(folder(tmp_path / "videos"), tmp_path / "more")
    assert set(before["key"]) < set(more["key"]) and len(more) == len(before) + 2


@pytest.mark.costly
def test_the_number_of_clips_per_video_can_be_capped(tmp_path: Path) -> None:
    for number in range(3):
        video(tmp_path / "videos" / f"{number}.mp4", num_frames=20, seed=number)
    catalog, _ = run(folder(tmp_path / "videos", max_clips_per_video=1), tmp_path)
    assert catalog["start_seconds"].tolist() == [0.0, 0.0, 0.0]


def test_unusable_files_are_listed_with_a_reason_and_leave_no_clip(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    video(videos / "good.mp4", num_frames=16)
    video(videos / "twin.mp4", num_frames=16)
    video(videos / "mute.mp4", seed=2, caption=None)
    video(videos / "blank.mp4", seed=2, caption=" \n")
    video(videos / "short.mp4", num_frames=3, seed=3)
    video(videos / "slow.mp4", frame_rate=3.0, seed=4)
    video(videos / "cut.mp4", num_frames=60, seed=5)
    (videos / "cut.mp4").write_bytes((videos / "cut.mp4").read_bytes()[:-2000])
    (videos / "text.mp4").write_text("hello")
    (videos / "text.txt").write_text("no video")
    (videos / "notes.md").write_text("passed over")
    catalog, metrics = run(folder(videos, max_rejected_share=0.9), tmp_path)
    refused = {row["file"]: row["reason"] for row in read_rejected(tmp_path / "clips").to_dict("records")}
    assert refused == {
        "twin.mp4": "duplicate",
        "mute.mp4": "no_caption",
        "blank.mp4": "no_caption",
        "short.mp4": "too_short",
        "slow.mp4": "frame_rate_too_low",
        "cut.mp4": "truncated",
        "text.mp4": "not_video",
    }
    assert metrics["rejected"]["no_caption"] == 2 and metrics["rejected_share"] == pytest.approx(7 / 8)
    assert sorted(path.name for path in (tmp_path / "clips/clips").iterdir()) == sorted(
        Path(file).name for file in catalog["file"]
    )


def test_too_many_refusals_stop_the_stage_with_a_table_and_leave_earlier_results(tmp_path: Path) -> None:
    video(tmp_path / "videos/good.mp4", num_frames=16)
    before, _ = run(folder(tmp_path / "videos"), tmp_path)
    (tmp_path / "videos/bad.mp4").write_text("hello")
    (tmp_path / "videos/bad.txt").write_text("hello")
    with pytest.raises(StageError, match=r"1 of 2 files were refused.*(?s:.*)not_video +1 +bad.mp4"):
        run(folder(tmp_path / "videos", max_rejected_share=0.4), tmp_path)
    assert read_catalog(tmp_path / "clips")["key"].tolist() == before["key"].tolist()
    assert {path.name for path in tmp_path.iterdir()} == {"videos", "clips", "plots", "metrics.json", ".work"}


def test_mistakes_about_the_folder_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(StageError, match=r"path: .*vidoes: no such folder; did you mean .*videos\?"):
        run(folder(tmp_path / "vidoes"), tmp_path)
    with pytest.raises(StageError, match="is empty; put files with these endings"):
        run(folder(tmp_path / "videos"), tmp_path)
    (tmp_path / "videos/notes.md").write_text("x")
    with pytest.raises(StageError, match="holds 1 files, none of them a video"):
        run(folder(tmp_path / "videos"), tmp_path)
    video(tmp_path / "videos/cat.mp4")
    (tmp_path / "videos/c.csv").write_text("cats.mp4,a cat\n")
    with pytest.raises(StageError, match=r"did you mean cat\.mp4\?"):
        run(folder(tmp_path / "videos", captions="c.csv"), tmp_path)
    assert not (tmp_path / "clips").exists()


def test_captions_from_a_file_replace_sidecars(tmp_path: Path) -> None:
    video(tmp_path / "videos/a.mp4", num_frames=16, caption="old")
    (tmp_path / "videos/c.tsv").write_text("a.mp4\tnew words\n")
    catalog, _ = run(folder(tmp_path / "videos", captions="c.tsv"), tmp_path)
    assert set(catalog["caption"]) == {"new words"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({}, "exactly one"),
        ({"rendered": RENDERED, "folder": {"path": "x"}}, "max_clips_per_video"),
        ({"rendered": {**RENDERED, "num_clips": 0}}, "greater than or equal to 1"),
        ({"rendered": {**RENDERED, "test_seed": 0}}, "splits would share their clips"),
        ({"rendered": {**RENDERED, "composition": combined({"color": "red"})}}, "combination is of several"),
        ({"rendered": {**RENDERED, "composition": combined({"color": "red", "hue": "x"})}}, "no factor hue"),
        ({"rendered": {**RENDERED, "composition": combined({"color": "red", "size": "tiny"})}}, "size is never tiny"),
        (
            {
                "rendered": {
                    **RENDERED,
                    "composition": combined(*[{"color": "red", "size": s} for s in FACTORS["size"]]),
                }
            },
            "leave no balanced series",
        ),
    ],
)
def test_a_source_is_exactly_one_complete_block(source: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RawVideoParams.model_validate({"clip": CLIP, "splits": SPLITS, "source": source})


def test_a_source_folder_that_dvc_does_not_watch_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tmp_path / "dvc.yaml"
    graph.write_text("stages: {stage: {deps: [videos, pipelines/footage]}}")
    monkeypatch.chdir(tmp_path)
    for name in ("videos/sub", "films"):
        Path(name).mkdir(parents=True)
    for watched in ("videos", "videos/sub", "absent", None):
        warn_unwatched(watched, graph)
    assert capsys.readouterr().out == ""
    warn_unwatched("films", graph)
    assert "films is not in deps" in capsys.readouterr().out


def test_a_frame_count_that_no_autoencoder_folds_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="write 17"):
        RawVideoParams.model_validate({**rendered().model_dump(), "clip": {**CLIP, "num_frames": 16}})


def test_the_block_in_comments_in_the_params_file_is_valid() -> None:
    lines = (Path(__file__).parents[2] / "params.yaml").read_text().splitlines()
    begin = lines.index("    # folder:")
    end = next(number for number in range(begin, len(lines)) if not lines[number].startswith("    # "))
    block = yaml.safe_load("\n".join(line.replace("    # ", "    ", 1) for line in lines[begin:end]))
    written = {"clip": CLIP, "splits": SPLITS, "source": block}
    assert RawVideoParams.model_validate(written).source.folder is not None


@pytest.mark.parametrize("name", ["validation", "test"])
@pytest.mark.parametrize(("share", "words"), [(0.0, "should be greater than"), (1.0, "should be less"), (0.8, "leave")])
def test_no_split_may_be_empty(name: str, share: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        RawVideoParams.model_validate({**rendered().model_dump(), "splits": {**SPLITS, name: share}})


def test_the_block_in_the_readme_is_valid() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    block = yaml.safe_load(text[text.index("raw_video:\n  source:") :].partition("```")[0])["raw_video"]
    written = {"clip": CLIP, "splits": SPLITS, **block}
    assert RawVideoParams.model_validate(written).source.folder is not None
