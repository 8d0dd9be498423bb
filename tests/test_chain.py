"""Lineage that an artifact carries: wherever it is copied, whatever it is called, back to the clips, and honest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import clip_chains, run_facts
from pipelines.chain import NoChain, boxes, carried, carry, embed
from pipelines.data.video import write_mp4
from pipelines.document import read_document
from pipelines.provenance import flat, lineage, set_values, text
from pipelines.provenance_diff import compared
from pipelines.provenance_diff import text as diff_text
from pipelines.stage import CHAIN, RUNS, digest

ROOT = Path(__file__).parents[1]


def node(stage: str, **more: Any) -> dict[str, Any]:
    plain = {"path": f"data/{stage}", "params": {}, "seed": {}, "code": "c" * 32, "environment": {"python": "3.11"}}
    return {**plain, "stage": stage, "command": [], "step": None, "segments": None, "facts": {}, "gates": [], **more}


def clips(folder: Path, hashes: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    rows = {"key": list(hashes), "content_hash": list(hashes.values()), "caption": ["a"] * len(hashes)}
    pq.write_table(pa.table(rows), folder / "catalog.parquet")
    carry(folder, node("raw_video", params={"seed": 3}), {}, {})
    return folder


def made(root: Path, hashes: dict[str, str], steps: int = 4, code: str = "a" * 32) -> Path:
    """Clips, a checkpoint that read them, and a folder that read the folder of checkpoints."""
    source = clips(root / "clips", hashes)
    checkpoint = root / "checkpoints/flow"
    checkpoint.mkdir(parents=True)
    record = {"weights": {"a.safetensors": str(steps)}, "results": {"loss": 1 / steps}}
    (checkpoint / "checkpoint.json").write_text(json.dumps(record))
    told = node("flow", params={"training": {"steps": steps, "seed": 0}}, code=code, step=steps)
    carry(checkpoint, told, {"clips": source}, {"clips": "data/clips"})
    out = root / "evaluation"
    out.mkdir()
    (out / "scores.json").write_text(f"{steps}")
    carry(out, node("evaluation"), {"checkpoints": root / "checkpoints"}, {"checkpoints": "checkpoints"})
    return root


def test_a_copy_under_another_name_tells_the_whole_chain_and_that_it_is_what_was_made(tmp_path: Path) -> None:
    made(tmp_path / "one", {"k": "1"})
    for name in ("checkpoints/flow", "evaluation"):
        shutil.copytree(tmp_path / "one" / name, tmp_path / "elsewhere" / Path(name).name)
    found = lineage(tmp_path / "elsewhere/evaluation")
    assert {one["stage"] for one in found.nodes.values()} == {"raw_video", "flow", "evaluation"}
    said = text(found)
    assert "as it was made" in said and "flow: checkpoints/flow" in said and "clips: data/clips" in said
    assert "run: unknown here" in said, "nobody recorded a run"
    (tmp_path / "elsewhere/evaluation/scores.json").write_text("5")
    assert "CHANGED since it was made" in text(lineage(tmp_path / "elsewhere/evaluation"))


def test_what_an_artifact_came_from_is_no_part_of_what_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "x").write_text("x")
    before = digest(folder)
    carry(folder, node("a"), {}, {})
    assert digest(folder) == before == carried(folder)[1] and (folder / CHAIN).is_file()


RECORD = {
    "status": "finished",
    "header": {"began_at": "2026-01-02T03:04:05+00:00", "ended_at": "2026-01-02T03:05:05+00:00", "resumed_at": ["x"],
               "code": {"commit": "f" * 40, "dirty": True, "branch": "main"}},
    "runtime": {"seconds": 60.0, "hardware": {"device": "cuda", "cuda": "13.0", "driver": "580.65"}},
    "decision": {"verdict": "keep", "because": "it is good", "by": "person"},
}  # fmt: skip


def test_a_copy_tells_commit_machine_driver_times_and_decision_of_all_it_was_made_from(tmp_path: Path) -> None:
    made(tmp_path / "one", {"k": "1"})
    run_facts.finish(tmp_path / "one/checkpoints/flow", RECORD)
    later = tmp_path / "one/later"
    later.mkdir()
    (later / "x").write_text("x")
    carry(later, node("later"), {"flow": tmp_path / "one/checkpoints/flow"}, {"flow": "checkpoints/flow"})
    copy = shutil.copytree(later, tmp_path / "elsewhere/of another name")
    said = text(lineage(copy))
    assert f"commit {'f' * 12} with local changes; 2026-01-02T03:04:05+00:00, 1 min 00 s, resumed 1 times" in said
    assert "cuda 13.0, device cuda, driver 580.65" in said and "decision: keep, it is good (by person)" in said
    assert said.count("run: unknown here") == 2, "of the clips and of the folder itself nothing is known"
    assert "Of 2 of 3 the run (commit, machine, times) is unknown here: these were made" in said
    (copy / RUNS).write_text((copy / RUNS).read_text().replace("1 min", "2 min").replace("f" * 40, "e" * 40))
    assert "e" * 12 not in text(lineage(copy)) and run_facts.damage(copy) is not None
    assert f"unknown here: {RUNS} beside it is damaged" in text(lineage(copy))
    (copy / RUNS).unlink()
    assert f"unknown here: there is no {RUNS} beside it" in text(lineage(copy))


def test_runs_are_not_left_where_dvc_would_hash_them(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()
    made(tmp_path, {"k": "1"})
    run_facts.finish(tmp_path / "checkpoints/flow", RECORD)
    assert not (tmp_path / "checkpoints/flow" / RUNS).exists()
    (tmp_path / ".dvcignore").write_text((ROOT / ".dvcignore").read_text())
    before = digest(tmp_path / "checkpoints/flow")
    run_facts.finish(tmp_path / "checkpoints/flow", RECORD)
    assert (tmp_path / "checkpoints/flow" / RUNS).is_file() and digest(tmp_path / "checkpoints/flow") == before


@pytest.mark.parametrize("run", [1, {}, {"resumed_at": 3}, {"resumed_at": [], "accepted": [1]}, {"hardware": "x"}])
def test_runs_of_anybody_s_making_are_passed_over(tmp_path: Path, run: Any) -> None:
    made(tmp_path, {"k": "1"})
    run_facts.leave(tmp_path / "evaluation", {lineage(tmp_path / "evaluation").artifact: run})
    assert "run: unknown here" in text(lineage(tmp_path / "evaluation"))


def test_every_flipped_bit_of_a_chain_is_found(tmp_path: Path) -> None:
    made(tmp_path, {"k": "1"})
    path = tmp_path / "checkpoints/flow" / CHAIN
    whole, sound = path.read_bytes(), lineage(path.parent).nodes
    generator = np.random.default_rng(1)
    for at in generator.integers(0, len(whole), 100).tolist():
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(generator.integers(8))
        path.write_bytes(bytes(damaged))
        try:
            assert lineage(path.parent).nodes == sound, f"byte {at}: only white space may differ"
        except NoChain:
            continue


def test_equal_runs_leave_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        made(tmp_path / name, {"k": "1"})
    for part in ("clips", "checkpoints/flow", "evaluation"):
        assert (tmp_path / "one" / part / CHAIN).read_bytes() == (tmp_path / "two" / part / CHAIN).read_bytes()


def test_a_copy_that_another_command_wrote_keeps_the_chain(tmp_path: Path) -> None:
    made(tmp_path, {"k": "1"})
    flow = tmp_path / "checkpoints/flow"
    copy = shutil.copytree(flow, tmp_path / "exported")
    carry(copy, node("reel export"), {"checkpoint": flow}, {"checkpoint": "checkpoints/flow"})
    assert {one["stage"] for one in lineage(copy).nodes.values()} == {"flow", "raw_video"}


def test_a_file_tells_of_the_artifact_in_whose_folder_it_lies(tmp_path: Path) -> None:
    made(tmp_path, {"k": "1"})
    (tmp_path / "checkpoints/flow/ema").mkdir()
    (tmp_path / "checkpoints/flow/ema/x.safetensors").write_bytes(b"x")
    assert (
        lineage(tmp_path / "checkpoints/flow/ema/x.safetensors").nodes == lineage(tmp_path / "checkpoints/flow").nodes
    )


# ---- clips --------------------------------------------------------------------------------------------------------


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    made(tmp_path, {"k": "1"})
    path = tmp_path / "clip.mp4"
    write_mp4(path, np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8), 8.0)
    told = {**node("reel generate"), "params": {"prompt": 'a "<b>" $x$ \x1b[31m\n'}}
    embed(path, told, {"checkpoint": tmp_path / "checkpoints/flow"}, {"checkpoint": "checkpoints/flow"})
    return path.rename(tmp_path / "sent to a friend.MP4")


def test_a_clip_alone_tells_its_chain_and_still_plays(clip: Path) -> None:
    import av

    found = lineage(clip)
    assert {one["stage"] for one in found.nodes.values()} == {"reel generate", "flow", "raw_video"}
    assert found.now == found.artifact and "\x1b" not in text(found) and "\\x1b" in text(found)
    with av.open(str(clip)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
    assert [kind for kind, _, _ in boxes(clip)][-1] == b"uuid"


def test_every_flipped_bit_of_a_clip_is_found(clip: Path) -> None:
    whole = clip.read_bytes()
    generator = np.random.default_rng(1)
    for at in generator.integers(0, len(whole), 60).tolist():
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(generator.integers(8))
        clip.write_bytes(bytes(damaged))
        try:
            found = lineage(clip)
        except NoChain:
            continue
        assert found.now != found.artifact or found.nodes != lineage_of(clip, whole).nodes, f"byte {at}"


def test_the_clips_of_a_stage_tell_their_own_system_prompt_and_seed(tmp_path: Path) -> None:
    made(tmp_path, {"k": "1"})
    other = tmp_path / "checkpoints/other"
    other.mkdir()
    (other / "checkpoint.json").write_text('{"weights": {"a": "7"}}')
    carry(other, node("other"), {}, {})
    out, frames = tmp_path / "samples", np.zeros((2, 32, 32, 3), np.uint8)
    for name in ("clips", "validation"):
        (out / name).mkdir(parents=True)
    write_mp4(out / "clips/0-flow.mp4", frames, 8.0)
    write_mp4(out / "validation/step-1.mp4", frames, 8.0)
    row = {"file": ["clips/0-flow.mp4", None], "system": "flow", "prompt": ["a\x1b <b>", "c"], "seed": [4, 5]}
    pd.DataFrame(row).to_parquet(out / "samples.parquet")
    told = (node("evaluation"), {"checkpoints": tmp_path / "checkpoints"}, {"checkpoints": "checkpoints"})
    clip_chains.tell(out, *told)
    clip, before = tmp_path / "alone.mp4", (out / "clips/0-flow.mp4").read_bytes()
    clip.write_bytes(before)
    found = lineage(clip)
    assert {one["stage"] for one in found.nodes.values()} == {"evaluation", "flow", "raw_video"}, "not that of other"
    assert "a clip that a stage made holds none of them, so that equal runs leave equal bytes" in text(found)
    assert "asked: prompt a\\x1b <b>, seed 4, system flow" in text(found) and found.now == found.artifact
    assert {one["stage"] for one in lineage(out / "validation/step-1.mp4").nodes.values()} >= {"flow", "other"}
    clip_chains.tell(out, *told)
    assert (out / "clips/0-flow.mp4").read_bytes() == before, "told once"


def lineage_of(clip: Path, content: bytes) -> Any:
    other = clip.with_name("whole.mp4")
    other.write_bytes(content)
    return lineage(other)


@pytest.mark.parametrize("length", [0, 5, 30, -1, -40])
def test_a_clip_that_is_cut_is_told(clip: Path, length: int) -> None:
    clip.write_bytes(clip.read_bytes()[:length])
    alone = shutil.copy(clip, clip.parent / "checkpoints")
    with pytest.raises(NoChain, match=r"damaged or no mp4|nothing in it says|no lineage of version"):
        lineage(Path(alone))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 1}', '{"version": 1, "artifact": "x", "nodes": {"x": 1}}']
)
def test_a_damaged_chain_is_told_in_a_line(tmp_path: Path, content: str) -> None:
    made(tmp_path, {"k": "1"})
    (tmp_path / "evaluation" / CHAIN).write_text(content)
    with pytest.raises(NoChain) as caught:
        lineage(tmp_path / "evaluation")
    assert CHAIN in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_is_made_up(tmp_path: Path) -> None:
    (tmp_path / "a/b/c/d").mkdir(parents=True)
    for path in (tmp_path / "a/b/c/d", tmp_path / "no such"):
        with pytest.raises(NoChain, match=r"says where it came from|no such file"):
            lineage(path)


# ---- shown --------------------------------------------------------------------------------------------------------


def test_only_what_differs_from_the_shipped_values_is_shown() -> None:
    shipped = json.loads((ROOT / "pipelines/shipped.json").read_text())["rectified_flow"]
    mine = json.loads(json.dumps(shipped))
    mine["training"]["steps"] = 7
    assert set_values({"stage": "rectified_flow", "params": shipped}, False) == []
    assert set_values({"stage": "rectified_flow", "params": shipped | {"new": None}}, False) == [], "no such block"
    steps = shipped["training"]["steps"]
    assert set_values({"stage": "rectified_flow", "params": mine}, False) == [f"training.steps 7 (shipped: {steps})"]
    assert len(set_values({"stage": "rectified_flow", "params": mine}, True)) == len(flat(mine))


def test_the_shipped_values_are_those_of_params_yaml() -> None:
    """After a change there: ``python -m pipelines.provenance --ship``."""
    assert json.loads((ROOT / "pipelines/shipped.json").read_text()) == read_document(ROOT / "params.yaml")[0]


def test_a_difference_names_params_code_clips_and_results(tmp_path: Path) -> None:
    made(tmp_path / "one", {"a": "1", "b": "2", "c": "3"})
    made(tmp_path / "two", {"b": "2", "c": "9", "d": "4"}, steps=8, code="b" * 32)
    sides = [lineage(tmp_path / name / "checkpoints/flow") for name in ("one", "two")]
    first, second = sides
    said = diff_text(first, second, compared(first, second))
    assert "params: training.steps 4 → 8" in said and "result: loss 0.25 → 0.125" in said
    assert "code: aaaaaaaaaaaa → bbbbbbbbbbbb" in said and "steps: 4 → 8" in said
    sides = [lineage(tmp_path / name / "clips") for name in ("one", "two")]
    assert compared(*sides)["clips"] == {"added": ["d"], "removed": ["a"], "changed": ["c"]}
    one = lineage(tmp_path / "one/clips")
    assert compared(one, one)["same"] and not compared(one, one)["stages"]


def reel(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "REEL_PROJECT"}
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-P", "-m", "dagster_project.cli", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)


@pytest.mark.costly
def test_the_commands_need_no_project_around_them(tmp_path: Path) -> None:
    made(tmp_path, {"k": "1"})
    told = reel(tmp_path, "lineage", "checkpoints/flow")
    assert told.returncode == 0 and "clips: data/clips" in told.stdout
    found = json.loads(reel(tmp_path, "lineage", "checkpoints/flow", "--json").stdout)
    assert found["nodes"][found["artifact"]]["run"] is None
    same = reel(tmp_path, "diff", "checkpoints/flow", "checkpoints/flow")
    assert same.returncode == 0 and "the same artifact: equal content hash" in same.stdout
    other = reel(tmp_path, "diff", "checkpoints/flow", "evaluation")
    assert other.returncode == 1 and "evaluation: only in the chain of the second" in other.stdout
    missing = reel(tmp_path, "diff", "checkpoints/flow", "checkpoints")
    assert missing.returncode == 3 and "Traceback" not in missing.stderr
    svg = reel(tmp_path, "lineage", "evaluation", "--svg", "x.svg")
    assert svg.returncode == 0 and (tmp_path / "x.svg").read_text().startswith("<svg")


def test_lineage_imports_neither_torch_nor_dvc_nor_git(tmp_path: Path) -> None:
    made(tmp_path, {"k": "1"})
    code = "import sys; from pipelines.provenance import main; main(sys.argv[1:]); "
    code += "print(sorted({'torch', 'dvc', 'git', 'dagster', 'numpy', 'subprocess.run'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "evaluation")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
