"""WebDataset tars by a mapping of their fields: pictures and videos, from disk and by URL, and what cannot be used."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from pipelines import fluxflow
from pipelines.data.catalog import read_catalog, read_rejected
from pipelines.data.video import read_clip, write_mp4
from pipelines.footage.params import RawVideoParams
from pipelines.footage.raw_video import make
from pipelines.footage.source_block import SHARED
from pipelines.profile import changes
from tests.footage.footage import frames

ROOT = Path(__file__).parents[2]


def pattern(number: int) -> np.ndarray:
    """Squares of random greys that tell the number, uint8 [32, 48, 3]."""
    levels = np.random.default_rng(number).integers(0, 255, (4, 6, 1))
    return np.kron(levels, np.ones((8, 8, 3))).astype(np.uint8)


def png(number: int) -> bytes:
    """That picture's file."""
    buffer = io.BytesIO()
    Image.fromarray(pattern(number)).save(buffer, "png")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def pictures(numbers: range) -> dict[str, bytes]:
    """As the guide's data sets are: a png, a JSON text with the prompt in it, and fields of no use here."""
    found = {}
    for number in numbers:
        found[f"a/{number:04d}.png"] = png(number)
        found[f"a/{number:04d}.json"] = json.dumps({"prompt": f"picture {number}", "score": number}).encode()
        found[f"a/{number:04d}.cls"] = b"7"
    return found


def params(urls: list[str], **changes_: Any) -> RawVideoParams:
    block = {"urls": urls, "max_samples": None, "media": "png", "captions": "json", "caption": "prompt"}
    clip = {"num_frames": 1, "height": 32, "width": 32, "frame_rate": 8.0, "crf": 10}
    return RawVideoParams.model_validate(
        {
            "clip": clip | changes_.pop("clip", {}),
            "splits": {"validation": 0.2, "test": 0.2},
            "source": {"webdataset": {**block, **SHARED, "max_rejected_share": 0.5, **changes_}},
        }
    )


def run(section: RawVideoParams, place: Path) -> Path:
    make(section, place / "clips", place / "m.json", place / "plots")
    return place / "clips"


@pytest.mark.costly
def test_pictures_and_their_prompts_are_found_by_the_names_that_are_stated(tmp_path: Path, server: str) -> None:
    for number in range(2):
        write_tar(tmp_path / f"t-{number}.tar", pictures(range(6 * number, 6 * number + 6)))
    local = read_catalog(run(params([f"{tmp_path}/t-{{0..1}}.tar"]), tmp_path / "local"))
    remote = read_catalog(run(params([f"{server}/t-{{0..1}}.tar"]), tmp_path / "remote"))
    assert sorted(local["caption"]) == sorted(f"picture {number}" for number in range(12))
    assert set(local["num_frames"]) == {1} and set(local["source"]) == set(remote["source"])
    assert local["content_hash"].tolist() == remote["content_hash"].tolist()
    row = local[local["caption"] == "picture 9"].iloc[0]
    assert row["source"] == "t-1.tar/a/0009.png"
    shown = read_clip(tmp_path / "local/clips" / row["file"])[0].astype(int)
    assert np.abs(shown - pattern(9)[:, 8:40]).mean() < 12  # cropped to a square, and once through x264


def test_most_samples_counts_over_all_tars(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", pictures(range(6)))
    found = read_catalog(run(params([str(tmp_path / "t.tar")], max_samples=3), tmp_path))
    assert len(found) == 3


def test_videos_have_a_field_too_and_captions_are_plain_text(tmp_path: Path) -> None:
    members = {}
    for number in range(4):
        write_mp4(tmp_path / "v.mp4", frames(9, number), 8.0)
        members |= {f"{number}.clip.mp4": (tmp_path / "v.mp4").read_bytes(), f"{number}.txt": f"v {number}".encode()}
    write_tar(tmp_path / "t.tar", members)
    section = params([str(tmp_path / "t.tar")], media="clip.mp4", captions="txt", caption=None, clip={"num_frames": 5})
    found = read_catalog(run(section, tmp_path))
    assert set(found["caption"]) == {f"v {number}" for number in range(4)} and set(found["num_frames"]) == {5}


def test_what_cannot_be_used_is_told_by_sample(tmp_path: Path) -> None:
    members = pictures(range(8))
    members["b.json"] = b'{"prompt": "no picture"}'
    members |= {"c.png": png(90), "c.json": b'{"text": "elsewhere"}'}
    members |= {"d.png": b"no picture", "d.json": b'{"prompt": "d"}'}
    members |= {"e.png": png(95), "e.json": b"[1]"}
    write_tar(tmp_path / "t.tar", members)
    (tmp_path / "u.tar").write_bytes((tmp_path / "t.tar").read_bytes()[:3000])
    clips = run(params([str(tmp_path / "t.tar"), str(tmp_path / "u.tar")]), tmp_path)
    refused = {row["file"]: (row["reason"], row["detail"]) for row in read_rejected(clips).to_dict("records")}
    assert refused["t.tar/b.png"] == ("not_video", "the sample has no field png; it has json")
    assert refused["t.tar/c.png"] == ("bad_caption", "c.json: has no text under prompt; it has text")
    assert refused["t.tar/d.png"][0] == "not_image"
    assert refused["t.tar/e.png"][0] == "bad_caption"
    assert refused["u.tar"][0] == "damaged_tar"


@pytest.mark.parametrize(
    ("changes_", "said"),
    [
        ({"media": "cls"}, "media cls: is no picture's or video's field; those end in png jpg"),
        ({"captions": "txt"}, "caption prompt is a name in a JSON text, but captions is txt"),
        ({"clip": {"num_frames": 5}}, r"source.webdataset.media png needs a form of one frame"),
    ],
)
def test_a_mapping_that_cannot_work_is_refused_before_a_tar_is_opened(changes_: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        params(["t.tar"], **changes_)


def test_the_guides_options_of_tars_become_this_block(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = "--use_webdataset --webdataset_url tars/{000..003}.tar --webdataset_image_key jpg --train_vae --n_epochs 1"
    assert fluxflow.main(["--images", "10", "--params", "params.yaml", "--", "fluxflow-train", *words.split()]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    source = changes(tmp_path / "printed.yaml")["raw_video"]["source"]
    assert set(source) == {"webdataset"} and source["webdataset"]["urls"] == ["tars/{000..003}.tar"]
    named = {name: source["webdataset"][name] for name in ("media", "captions", "caption")}
    assert named == {"media": "jpg", "captions": "json", "caption": "prompt"}
