"""Sources as people hold them: tables with cuts, LeRobot data sets, VPT recordings, end to end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data.catalog import read_catalog, read_decisions
from pipelines.data.contract import ACTIONS, action_facts
from pipelines.data.video import read_clip, write_mp4
from pipelines.footage.captions import NotHere
from pipelines.footage.forecast import forecast
from pipelines.footage.params import Folder, RawVideoParams
from pipelines.footage.sources import folder_files
from pipelines.stage import StageError
from tests.footage.footage import QUALITY, folder, footage, frames, refused, run, video


def levels(root: Path, file: str) -> np.ndarray:
    """Mean grey level of each frame of a stored clip."""
    return read_clip(root / "clips" / file)[..., 0].mean((1, 2))


def steps(num_frames: int, step: float = 2.0, seed: int = 0) -> np.ndarray:
    """Frames whose level tells their number: 20 + step * number, over a pattern; uint8 [T, 48, 64, 3]."""
    pattern = np.random.default_rng(seed).integers(0, 12, (6, 8, 1))
    over_time = 20 + step * np.arange(num_frames)[:, None, None, None]
    return (np.kron(pattern, np.ones((8, 8, 3)))[None] + over_time).astype(np.uint8)


def test_a_table_gives_captions_metadata_rows_of_its_mistakes_and_a_count_of_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        video(tmp_path / f"in/part{number}/v{number}.mp4", seed=number, caption=None)
    text = "video,caption,aesthetic score,licence\nv0.mp4,a $\\alpha$ cat,5.5,CC0\nv1.mp4,two,4.5,\nv2.mp4,,1,\n"
    text += "a,b,c\n" + "".join(f"w{n}.mp4,gone,1,\n" for n in range(7))
    (tmp_path / "in/t.csv").write_text(text)
    params = folder(tmp_path / "in", captions="t.csv", max_rejected_share=0.5)
    catalog, metrics = run(params, tmp_path)
    assert dict(zip(catalog["source"], catalog["caption"], strict=True)) == {
        "part0/v0.mp4": "a $\\alpha$ cat",
        "part1/v1.mp4": "two",
    }
    held = {source: json.loads(one) for source, one in zip(catalog["source"], catalog["metadata"], strict=True)}
    assert held["part0/v0.mp4"] == {"aesthetic score": "5.5", "licence": "CC0"}
    assert refused(tmp_path) == {"part2/v2.mp4": "no_caption", "t.csv:5": "bad_row", "t.csv": "not_here"}
    assert metrics["num_rejected"] == 2 and metrics["rejected"] == {"bad_row": 1, "no_caption": 1}
    assert metrics["not_used"] == {"not_here": 7}
    assert (
        "t.csv: 7 of 11 captions are of videos that are not here (the first: w0.mp4, t.csv:6)."
        in capsys.readouterr().out
    )
    assert read_decisions(tmp_path / "clips")["metadata"].notna().all()
    told = forecast(params, tmp_path / "clips")
    assert told is not None and told.startswith("0 of 5 files are new by their names, 0 are gone")


def test_control_videos_that_a_table_names_beside_others_are_counted_and_no_clips(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b", "control/a")):
        video(tmp_path / f"in/{name}.mp4", num_frames=20, seed=number, caption=None)
    (tmp_path / "in/m.csv").write_text(
        "video_path,control_path,caption\na.mp4,control/a.mp4,words\nb.mp4,a.mp4,others\n"
    )
    source = folder(tmp_path / "in", captions="m.csv").source.folder
    assert isinstance(source, Folder)
    names = {found.name: found for found in folder_files(source, 8.0)}
    assert [names[name].told().caption for name in ("a.mp4", "b.mp4")] == ["words", "others"]
    with pytest.raises(NotHere, match="column control_path") as error:
        names["control/a.mp4"].told()
    assert error.value.reason == "companion"


def test_several_tables_by_a_pattern_name_the_files_beside_them(tmp_path: Path) -> None:
    """As Hugging Face's video folders with a metadata file per split."""
    for number, part in enumerate(("train", "test")):
        video(tmp_path / f"in/{part}/a.mp4", seed=number, caption=None)
        (tmp_path / f"in/{part}/metadata.jsonl").write_text(f'{{"file_name": "a.mp4", "text": "{part}"}}\n')
    catalog, _ = run(folder(tmp_path / "in", captions="*/metadata.jsonl"), tmp_path)
    assert dict(zip(catalog["source"], catalog["caption"], strict=True)) == {
        "train/a.mp4": "train",
        "test/a.mp4": "test",
    }
    with pytest.raises(StageError, match=r"captions: \*\.csv: no file in .* fits this pattern"):
        run(folder(tmp_path / "in", captions="*.csv"), tmp_path)


def test_a_cut_has_its_own_caption_and_no_frame_from_outside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_mp4(tmp_path / "in/long.mp4", steps(60), 8.0)
    rows = [("1.0", "2.5", "first"), ("2.5", "3.2", "second"), ("3.2", "3.3", "too short"), ("9", "10", "outside")]
    text = "path,text,start,end\n" + "".join(f"long.mp4,{caption},{a},{b}\n" for a, b, caption in rows)
    (tmp_path / "in/t.csv").write_text(text)
    catalog, metrics = run(folder(tmp_path / "in", captions="t.csv", max_rejected_share=0.5), tmp_path)
    assert set(catalog["source"]) == {"long.mp4"}
    assert catalog["caption"].tolist() == ["first", "first", "second"]
    assert catalog["start_seconds"].tolist() == [1.0, 1.625, 2.5]
    for row in catalog.itertuples():
        begin = round(row.start_seconds * 8)
        assert levels(tmp_path, str(row.file)) == pytest.approx(25.5 + 2 * np.arange(begin, begin + 5), abs=2)
    assert refused(tmp_path) == {"long.mp4#3.2-3.3": "too_short", "long.mp4#9-10": "cut_outside"}
    assert metrics["files_decoded"] == 4
    again, metrics = run(folder(tmp_path / "in", captions="t.csv", max_rejected_share=0.5), tmp_path)
    assert metrics["files_decoded"] == 0 and again["key"].tolist() == catalog["key"].tolist()


# ---- LeRobot ------------------------------------------------------------------------------------------------------

CAMERA = "observation.images.front"


def lerobot(root: Path, lengths: tuple[int, ...] = (19, 14, 25), rate: int = 16, per_file: int = 2) -> None:
    """A data set of version 3: frame i of episode e has the grey level 20 + 60 e + i and the action [e, i]."""
    info = {
        "codebase_version": "v3.0",
        "fps": rate,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {CAMERA: {"dtype": "video"}, "action": {"dtype": "float32", "shape": [2]}},
    }
    rows, index = [], 0
    for file in range(-(-len(lengths) // per_file)):
        pictures, table, begin = [], [], 0.0
        for episode in range(file * per_file, min(len(lengths), (file + 1) * per_file)):
            length = lengths[episode]
            pictures.append(steps(length, 1.0, seed=episode) + np.uint8(60 * episode))
            table += [
                {"action": [float(episode), float(i)], "frame_index": i, "episode_index": episode, "index": index + i}
                for i in range(length)
            ]
            rows.append(
                {
                    "episode_index": episode,
                    "tasks": [f"task {episode}"],
                    "length": length,
                    "data/chunk_index": 0,
                    "data/file_index": file,
                    f"videos/{CAMERA}/chunk_index": 0,
                    f"videos/{CAMERA}/file_index": file,
                    f"videos/{CAMERA}/from_timestamp": begin,
                    f"videos/{CAMERA}/to_timestamp": begin + length / rate,
                }
            )
            begin, index = begin + length / rate, index + length
        for name in (f"videos/{CAMERA}/chunk-000", "data/chunk-000", "meta/episodes/chunk-000"):
            (root / name).mkdir(parents=True, exist_ok=True)
        write_mp4(root / f"videos/{CAMERA}/chunk-000/file-{file:03d}.mp4", np.concatenate(pictures), rate)
        schema = pa.schema([("action", pa.list_(pa.float32(), 2)), *[(n, pa.int64()) for n in list(table[0])[1:]]])
        pq.write_table(pa.Table.from_pylist(table, schema), root / f"data/chunk-000/file-{file:03d}.parquet")
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    (root / "meta/info.json").write_text(json.dumps(info))


def of_lerobot(root: Path, **block: Any) -> RawVideoParams:
    return footage("lerobot", **{"path": str(root), "camera": CAMERA, "action": "action", **block})


def test_clips_of_lerobot_never_cross_episodes_and_have_the_actions_before_each_frame(tmp_path: Path) -> None:
    lerobot(tmp_path / "set")
    catalog, _ = run(of_lerobot(tmp_path / "set"), tmp_path)
    assert set(catalog["source"]) == {"episode_000000", "episode_000001", "episode_000002"}
    for row in catalog.to_dict("records"):
        episode = int(row["source"][-1])
        assert row["caption"] == f"task {episode}"
        number = levels(tmp_path, row["file"]) - steps(1, 1.0, seed=episode)[0, :, 8:56].mean() - 60 * episode
        assert number.min() > -1.5 and number.max() < (19, 14, 25)[episode] + 0.5
        actions = np.stack(list(row["actions"]))
        assert (actions[:, 0] == episode).all()
        assert actions[:, 1] == pytest.approx(np.maximum(number - 1, 0), abs=1.2)
        assert (np.diff(actions[1:, 1]) == 2).all()  # 16 frames per second, of which clips take every other


@pytest.mark.parametrize(
    ("stated", "names"),
    [
        (["pan", "lift"], ["pan", "lift"]),
        ({"motors": ["pan", "lift"]}, ["pan", "lift"]),
        (["pan"], ["action_0", "action_1"]),
        (None, ["action_0", "action_1"]),
    ],
)
def test_actions_of_lerobot_are_called_as_the_data_set_says(tmp_path: Path, stated: Any, names: list[str]) -> None:
    """Six joints of an arm would be taken for a keyboard and a mouse otherwise."""
    lerobot(tmp_path / "set")
    path = tmp_path / "set/meta/info.json"
    info = json.loads(path.read_text())
    info["features"]["action"]["names"] = stated
    path.write_text(json.dumps(info))
    run(of_lerobot(tmp_path / "set"), tmp_path)
    kept = read_catalog(tmp_path / "clips").attrs["action_names"]
    assert kept == names and action_facts(2, kept).kinds == ("number", "number")
    joints = [f"joint {place}" for place in range(6)]
    assert action_facts(6, joints).names == tuple(joints) and action_facts(6) == ACTIONS


def test_what_lacks_in_a_lerobot_data_set_is_told(tmp_path: Path) -> None:
    root = tmp_path / "set"
    lerobot(root)
    for block, words in (
        ({"camera": "top"}, f"no camera top; there are {CAMERA}"),
        ({"action": "x"}, "no feature x; there are"),
        ({"path": str(tmp_path)}, "is no LeRobot data set"),
    ):
        with pytest.raises(StageError, match=words):
            run(of_lerobot(root, **block), tmp_path)
    (root / "data/chunk-000/file-001.parquet").unlink()
    (root / f"videos/{CAMERA}/chunk-000/file-000.mp4").unlink()
    with pytest.raises(StageError, match=r"(?s)missing +2 .*no_action_log +1"):
        run(of_lerobot(root, max_rejected_share=0.9), tmp_path)
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v2.1"}))
    with pytest.raises(StageError, match=r"is of version v2.1; make it v3.0: `python -m lerobot"):
        run(of_lerobot(root), tmp_path)
    shutil.rmtree(root / "meta/episodes")
    (root / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(StageError, match="no parquet file in meta/episodes"):
        run(of_lerobot(root), tmp_path)


@pytest.mark.costly
def test_a_lerobot_data_set_without_actions_gives_clips_without_them(tmp_path: Path) -> None:
    lerobot(tmp_path / "set")
    catalog, _ = run(of_lerobot(tmp_path / "set", action=None), tmp_path)
    assert len(catalog) and catalog["actions"].isna().all()


# ---- VPT ----------------------------------------------------------------------------------------------------------


def step(keys: str = "", dx: float = 0.0, dy: float = 0.0, menu: bool = False) -> str:
    held = [f"key.keyboard.{key}" for key in keys.split()]
    mouse = {"x": 640.0, "y": 360.0, "dx": dx, "dy": dy, "buttons": [0], "newButtons": []}
    return json.dumps({"mouse": mouse, "keyboard": {"keys": held, "chars": ""}, "isGuiOpen": menu, "tick": 1})


def of_vpt(path: Path, **block: Any) -> RawVideoParams:
    return footage("vpt", **{"path": str(path), "captions": None, "quality": {**QUALITY, "caption": None}, **block})


def test_vpt_recordings_have_the_keys_and_the_turn_that_led_to_each_frame(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_mp4(tmp_path / "in/run.mp4", frames(41), 20.0)
    lines = [step() for _ in range(41)]
    lines[0] = step("w left.shift", dx=100 / 1.5)  # 10 degrees to the right
    lines[3] = step("a space", dy=-50 / 1.5)
    lines[6] = step("d", dx=500, menu=True)  # in a menu nobody walks
    lines[20] = step("s")
    (tmp_path / "in/run.jsonl").write_text("\n".join(lines) + "\n")
    write_mp4(tmp_path / "in/bare.mp4", frames(41, seed=1), 20.0)
    catalog, _ = run(of_vpt(tmp_path / "in", max_rejected_share=0.5), tmp_path)
    assert refused(tmp_path) == {"bare.mp4": "no_action_log"} and set(catalog["caption"]) == {""}
    held = np.concatenate([np.stack(list(one)) for one in catalog["actions"]])
    assert held.shape[1] == 6 and len(held) == 15
    # at 8 per second the grid shows frames 0, 2 or 3, 5, 7 or 8, 10 … of 20 per second
    assert held[:5, 0].tolist() == [0, 1, 0, 0, 0] and held[:5, 1].tolist() == [0, 0, 1, 0, 0]
    assert held[:, 3].sum() == 0 and held[:, 2].sum() == 1
    assert 0.3 < held[1, 4] <= 0.5 and held[2, 5] < 0 and held[3, 4] == 0


def test_broken_logs_of_vpt_are_rows_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number, text in enumerate((step() + "\n{oops\n", "", '{"mouse": {}}\n', step(dx=float("nan")))):
        write_mp4(tmp_path / f"in/{number}.mp4", frames(41, seed=number), 20.0)
        (tmp_path / f"in/{number}.jsonl").write_text(text)
    with pytest.raises(StageError, match=r"bad_action_log +4 +0.mp4: 0.jsonl:2: is no action"):
        run(of_vpt(tmp_path / "in"), tmp_path)
