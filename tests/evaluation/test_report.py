"""The page holds everything, asks nobody for anything, escapes what it shows and survives what is missing."""

import base64
import csv
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipelines import run_facts
from pipelines.chain import carry
from pipelines.data import validation_clips
from pipelines.data.video import write_mp4
from pipelines.document import read_document
from pipelines.evaluation import score_figures
from pipelines.evaluation.params import ReportParams
from pipelines.evaluation.report import write
from pipelines.evaluation.sections import picture
from pipelines.generation import contact_sheet
from pipelines.generation import pictures as pipelines_pictures
from pipelines.stage import StageError

ROOT = Path(__file__).parents[2]
PARAMS = ReportParams(title="A <title> & more", picture_kilobytes=20, clip_pixels=128)
STAGES = len(read_document(ROOT / "dvc.yaml")[0]["stages"]) - 1
"""On the page: all but the one that says of the others what code they are."""
HOSTILE = "<script>alert(1)</script>\"'&"
VOID = {"meta", "img", "br", "hr", "col"}


class Page(HTMLParser):
    """Checks that elements close in order, and collects tags, ids and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handle_attributes(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handle_attributes(attrs)

    def handle_attributes(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "data-src", "poster"):
                self.addresses.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def project(folder: Path) -> Path:
    """A project of which three stages have run: a training with curves, a gated one, and the evaluation."""
    (folder / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    (folder / "params.yaml").write_text("autoencoder: {network: {width: 8}, pretrained: null}\n")
    for name in ("metrics", "plots/autoencoder", "checkpoints/autoencoder", "data/evaluation/clips"):
        (folder / name).mkdir(parents=True)
    gate = {"name": "rank", "value": 0.2, "threshold": 0.5, "comparison": ">=", "verdict": "fail", "reason": HOSTILE}
    metrics = {
        "autoencoder": {"psnr": 29.5, "psnr_patch_pca": 25.0, "seconds": 61.0, HOSTILE: 1.0, "zero": 0},
        "diagnostics": {"nmi": {"identity": 0.4, "identity_chance": 0.1}, "gates": [gate]},
        "evaluation": {
            "systems": {"rectified_flow": {"frechet": 3.0, "frechet_spread": 0.2, "agreement": {"color": 0.75}}},
            "references": {"chance": {"agreement": {"color": 0.2}}},
            "unavailable": {"agreement": "no factors"},
        },
    }
    for name, content in metrics.items():
        (folder / "metrics" / f"{name}.json").write_text(json.dumps(content))
    with (folder / "plots/autoencoder/training.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["step", "loss/a", "lr/a"], [1, 0.9, 1e-3], [2, "", 1e-3], [3, 0.4, 5e-4]])
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "plots/autoencoder/large_picture.png")
    (folder / "plots/autoencoder/broken.png").write_bytes(b"no picture")
    record = {"step": 3, "seed": 0, "params": {"network": {"width": 16}}, "seconds": 61.0, "code": "abc",
              "inputs": {"clips": {"path": "data/clips", "digest": "feed" * 8}}}  # fmt: skip
    (folder / "checkpoints/autoencoder/checkpoint.json").write_text(json.dumps(record))
    write_mp4(folder / "data/evaluation/clips/0.mp4", np.zeros((5, 16, 16, 3), np.uint8), 8.0)
    samples = {
        "system": ["rectified_flow", "held_out", "rectified_flow"],
        "prompt": [HOSTILE, HOSTILE, "not shown"],
        "file": ["clips/0.mp4", "clips/missing.mp4", None],
        "factor_color": ["red", "red", "blue"],
        "probe_color": ["red", "blue", None],
    }
    pd.DataFrame(samples).to_parquet(folder / "data/evaluation/samples.parquet")
    return folder


def written(folder: Path) -> str:
    write(
        PARAMS, folder / "dvc.yaml", folder / "metrics", folder / "plots", folder / "data/evaluation", folder / "report"
    )
    assert [path.name for path in (folder / "report").iterdir()] == ["report.html"]
    return (folder / "report/report.html").read_text()


def test_the_page_is_well_formed_and_has_a_section_and_a_link_for_every_stage(tmp_path: Path) -> None:
    page = Page(written(project(tmp_path)))
    assert len(set(page.ids)) == len(page.ids)
    sections = [name for name in page.ids if name.startswith("stage-")]
    assert len(sections) == STAGES
    links = {address[1:] for address in page.addresses if address.startswith("#")}
    assert links <= set(page.ids) and set(sections) <= links


def test_the_page_asks_nobody_for_anything(tmp_path: Path) -> None:
    text = written(project(tmp_path))
    page = Page(text)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "default-src &#x27;none&#x27;" in text and not re.search(r"url\((?!#)", text) and "@import" not in text
    assert page.tags.count("script") == 1 and "link" not in page.tags


def test_what_stages_wrote_is_text_and_never_markup(tmp_path: Path) -> None:
    text = written(project(tmp_path))
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;" in text
    assert "<title>A &lt;title&gt; &amp; more</title>" in text


def test_the_script_and_style_are_those_that_the_policy_allows(tmp_path: Path) -> None:
    text = written(project(tmp_path))
    for tag in ("script", "style"):
        inside = text.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        assert base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode() in text


def test_numbers_gates_curves_values_and_origin_are_shown(tmp_path: Path) -> None:
    text = written(project(tmp_path))
    assert "29.5" in text and "patch pca 25" in text and "✗ fail" in text and "1 min 01 s" in text
    assert "data-series" in text and "network.width" in text and ">16<" in text and "feedfeedfeed" in text
    assert "3.00" in text and "0.75" in text and "not defined: no factors" in text
    assert "✓ red" in text and "✗ blue" in text and "data:video/mp4;base64," in text


def test_what_a_source_holds_and_is_not_used_is_shown_with_its_meaning(tmp_path: Path) -> None:
    folder = project(tmp_path)
    counts = {"rejected": {"truncated": 2}, "not_used": {"passed_over.heic": 3, "not_here": 90}, "files_tone_mapped": 1}
    (folder / "metrics/raw_video.json").write_text(json.dumps({"num_clips": 5, **counts}))
    text = written(folder)
    for name, words in (
        ("rejected/truncated", "a row of rejected.parquet"),
        ("not_used/passed_over.heic", "of this ending"),
        ("not_used/not_here", "only names"),
        ("files_tone_mapped", "tone-mapped"),
    ):
        row = text[text.index(f"<code>{name}</code>") :].partition("</tr>")[0]
        assert words in row, name


def test_a_large_picture_becomes_webp_and_a_broken_one_is_named(tmp_path: Path) -> None:
    text = written(project(tmp_path))
    assert "data:image/webp;base64," in text and "broken.png cannot be shown" in text
    assert "clips/missing.mp4 is missing" in text


def test_a_moving_picture_still_moves_when_it_becomes_webp(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 120, 160, 3), dtype=np.uint8)
    first, *rest = map(Image.fromarray, noise)
    first.save(tmp_path / "playing.gif", save_all=True, append_images=rest, duration=100, loop=0)
    shown = str(picture(tmp_path / "playing.gif", 1))
    data = re.search(r"data:image/webp;base64,([^\"]+)", shown)
    assert data is not None
    with Image.open(io.BytesIO(base64.b64decode(data[1]))) as again:
        assert getattr(again, "n_frames", 1) == 3


def test_stages_that_have_not_run_are_shown_as_such(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    for name in ("metrics", "plots", "data/evaluation"):
        (tmp_path / name).mkdir(parents=True)
    text = written(tmp_path)
    Page(text)
    assert text.count("This stage has not run") == STAGES - 1
    optional = (ROOT / "dvc.yaml").read_text().count("optional: true")
    assert f"1 of {STAGES - optional} stages have run ({optional} optional ones have not)" in text
    assert text.count("optional, not run") == optional and "No samples yet" in text


def test_the_same_project_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = project(tmp_path)
    assert written(folder) == written(folder)


def run_of(folder: Path, run: str, ended: str, steps: int, psnr: float, latents: str) -> None:
    """A record of a finished run of the autoencoder."""
    place = folder / ".work/autoencoder" / run
    place.mkdir(parents=True)
    header = {"stage": "autoencoder", "ended_at": ended, "code": {"identity": f"{run}{'0' * 30}"}}
    content = {"status": "finished", "header": header, "params": {"training": {"steps": steps}, HOSTILE: None},
               "data": {"clips": {"digest": latents}}, "results": {"psnr": psnr, "seconds": 3.0}}  # fmt: skip
    (place / "record.json").write_text(json.dumps(content))


def test_the_last_two_runs_of_a_stage_are_compared_with_their_causes(tmp_path: Path) -> None:
    folder = project(tmp_path)
    assert "No stage has run twice here" in written(folder)
    run_of(folder, "a", "2026-01-03T00:00:00+00:00", 300, 30.0, "f" * 64)
    run_of(folder, "b", "2026-01-01T00:00:00+00:00", 100, 10.0, "d" * 64)
    run_of(folder, "c", "2026-01-02T00:00:00+00:00", 200, 20.0, "e" * 64)
    text = written(folder)
    assert "training.steps 200 → 300" in text and "input clips eeeeeeee → ffffffff" in text
    assert "code c0000000 → a0000000" in text and "2026-01-02 00:00 → 2026-01-03 00:00" in text
    assert ">20 → 30<" in text and "reading right" in text and "100 →" not in text
    Page(text)


def test_a_stage_tells_where_it_came_from_by_the_chain_that_it_carries(tmp_path: Path) -> None:
    folder = project(tmp_path)
    node = {"stage": "autoencoder", "path": "checkpoints/autoencoder", "params": {"network": {"width": 16}},
            "code": "c" * 32, "seed": {"training.seed": 7}, "environment": {"torch": HOSTILE}}  # fmt: skip
    carry(folder / "checkpoints/autoencoder", node, {}, {})
    hardware = {"device": "cuda", "driver": "580.65"}
    made = {"verdict": "keep", "because": HOSTILE, "by": "person"}
    record = {"status": "finished", "header": {"code": {"commit": "d" * 40, "dirty": True}},
              "runtime": {"hardware": hardware}, "decision": made}  # fmt: skip
    (folder / "dvc.yaml").rename(folder / "aside")
    run_facts.finish(folder / "checkpoints/autoencoder", record)
    (folder / "aside").rename(folder / "dvc.yaml")
    text = written(folder)
    assert (
        "dddddddddddd" in text and "with local changes" in text and "driver 580.65" in text and "training.seed" in text
    )
    assert "as it was made" in text and "reel lineage" in text and HOSTILE not in text
    (folder / "checkpoints/autoencoder/lineage.json").write_text("{")
    assert "digest" in written(folder), "a damaged chain: its own record tells, and the page is written"


@pytest.mark.costly
def test_the_page_stays_small_and_says_what_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = project(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    for number in range(30):
        Image.fromarray(noise).save(folder / f"plots/autoencoder/{number:02d}.png")
    monkeypatch.setattr("pipelines.evaluation.report.MOST_BYTES", 1_000_000)
    text = written(folder)
    assert len(text.encode()) <= 1_000_000 and "more pictures are in plots/autoencoder" in text
    monkeypatch.setattr("pipelines.evaluation.report.MOST_BYTES", 60_000)
    assert "1 more prompts are in" in written(folder), "then not even a clip"


CAPTIONS = ("# **bold** [a](javascript:alert(1)) <img src=x onerror=alert(1)> `code` | table |", "costs $5 and \\$x^{$",
            "\x00\x07\x1b[31m red \u202e reversed \r\n new line", "a very long word" + "x" * 1_000_000)  # fmt: skip


@pytest.mark.parametrize("caption", CAPTIONS, ids=["markup", "formula", "control", "megabyte"])
def test_no_caption_does_harm_to_the_page_or_to_pictures(tmp_path: Path, caption: str) -> None:
    folder = project(tmp_path)
    table = pd.read_parquet(folder / "data/evaluation/samples.parquet").assign(prompt=caption)
    table.to_parquet(folder / "data/evaluation/samples.parquet")
    text = written(folder)
    Page(text)
    assert len(text) < 300_000 and "<img src=x" not in text and not {"\x00", "\x07", "\x1b", "\u202e"} & set(text)
    clips = np.zeros((1, 5, 16, 16, 3), np.uint8)
    score_figures.contact_sheet({"a": torch.zeros(1, 3, 5, 16, 16)}, [caption], tmp_path / "sheet.png")
    validation_clips.write(tmp_path / "validation", 1, clips, [caption], 8.0)
    contact_sheet.draw([contact_sheet.strip(clips[0])], [caption], tmp_path / "page.png")
    for path in ("sheet.png", "page.png", "validation/step-000001.png"):
        with Image.open(tmp_path / path) as picture:
            assert picture.width < 3000, path
    pipelines_pictures.draw_samples(torch.zeros(1, 4, 2, 8, 8), torch.zeros(1, 4, 2, 8, 8), [caption], "x",
                                    tmp_path / "samples.png")  # fmt: skip


def test_a_broken_metrics_file_and_a_graph_without_stages_are_named(tmp_path: Path) -> None:
    folder = project(tmp_path)
    (folder / "metrics/autoencoder.json").write_text("{")
    with pytest.raises(StageError, match=r"autoencoder\.json: not JSON"):
        written(folder)
    (folder / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(StageError, match="no stages"):
        written(folder)
