"""Content credentials: C2PA's own reader takes them, the chain stays whole, and nothing of them can break a clip."""

from __future__ import annotations

import importlib.util
import json
import stat
import struct
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import c2pa
import numpy as np
import pytest
from cryptography import x509

from pipelines.chain import NoChain, boxes, carried, embed
from pipelines.data.video import read_clip, write_mp4
from pipelines.generation import finished
from pipelines.stage import StageError, digest
from pipelines.standards import content_credentials
from pipelines.standards.content_credentials import LABEL, TRAINED, stamp
from tests.standards.sample_release import NODE

FRAMES = np.random.default_rng(0).integers(0, 255, (9, 32, 48, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("identity") / "new/identity.pem"
    content_credentials.make_identity(path)
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_mp4(tmp_path / "clip.mp4", FRAMES, 8.0, metadata={"title": "a <b> caption"})
    return tmp_path / "clip.mp4"


def read(clip: Path) -> tuple[dict[str, Any], set[str]]:
    """The manifest as C2PA's library reads it, and the codes of what it found wrong."""
    with c2pa.Reader(str(clip)) as reader:
        content = json.loads(reader.json())
    found = content["validation_results"]["activeManifest"]
    assert any(one["code"] == "claimSignature.validated" for one in found["success"])
    return content["manifests"][content["active_manifest"]], {one["code"] for one in found["failure"]}


def claims(manifest: dict[str, Any]) -> dict[str, Any]:
    return {one["label"]: one["data"] for one in manifest["assertions"]}


def test_the_reader_of_c2pa_finds_a_created_clip_with_our_lineage_id(clip: Path, identity: Path) -> None:
    made = embed(clip, NODE, {}, {})
    assert stamp(clip, made, "marks:it", identity) is None
    manifest, wrong = read(clip)
    assert wrong <= {"signingCredential.untrusted"}  # nobody's list of trust knows a key that was made here
    created, marked = claims(manifest)["c2pa.actions.v2"]["actions"]
    assert (created["action"], created["digitalSourceType"]) == ("c2pa.created", TRAINED)
    assert marked["action"] == "c2pa.watermarked.unbound"
    assert claims(manifest)[LABEL] == {"artifact": made}


def test_the_chain_is_read_and_the_clip_is_known_to_be_as_it_was_made(clip: Path, identity: Path) -> None:
    before = digest(clip)
    made = embed(clip, NODE, {}, {})
    pictures = read_clip(clip)
    assert stamp(clip, made, identity=identity) is None
    content, now = carried(clip)
    assert content["artifact"] == now == made == before
    np.testing.assert_array_equal(read_clip(clip), pictures)


def test_what_is_turned_after_it_is_found_by_the_chain_or_by_c2pa(clip: Path, identity: Path) -> None:
    made = embed(clip, NODE, {}, {})
    assert stamp(clip, made, identity=identity) is None
    whole = clip.read_bytes()
    at = {kind: (start, size) for kind, start, size in boxes(clip)}
    for kind in (b"moov", b"mdat"):
        damaged = bytearray(whole)
        damaged[at[kind][0] + at[kind][1] * 2 // 3] ^= 4
        clip.write_bytes(bytes(damaged))
        assert carried(clip)[1] != made
        with c2pa.Reader(str(clip)) as reader:
            assert "assertion.bmffHash.mismatch" in reader.json()
    clip.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])  # in the chain itself
    with pytest.raises(NoChain):
        carried(clip)


def test_tables_behind_the_pictures_and_of_64_bits_are_moved_back_too(tmp_path: Path, identity: Path) -> None:
    """As files of other programs have them: moov at the end, and places of chunks as co64."""
    path = tmp_path / "end.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for frame in FRAMES:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    order = [kind for kind, _, _ in boxes(path)]
    assert order.index(b"mdat") < order.index(b"moov")
    made = embed(path, NODE, {}, {})
    assert stamp(path, made, identity=identity) is None
    assert carried(path)[1] == made


def table(code: str, chunks: list[int]) -> bytes:
    """A moov of one track whose only table is that of its chunks."""
    kind, form = (b"co64", ">Q") if code == "wide" else (b"stco", ">I")
    inner = struct.pack(">II", 0, len(chunks)) + b"".join(struct.pack(form, one) for one in chunks)
    box = struct.pack(">I4s", 8 + len(inner), kind) + inner
    for holder in (b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        box = struct.pack(">I4s", 8 + len(box), holder) + box
    return box


@pytest.mark.parametrize("code", ["wide", "narrow"])
def test_places_before_what_was_put_in_stay(code: str) -> None:
    from pipelines.chain import _moved_back

    moved = _moved_back(bytearray(table(code, [10, 32 + 100, 5000])), 32, 100)
    assert bytes(moved) == table(code, [10, 32, 4900])
    for cut in range(len(moved)):  # cut anywhere: no error, and nothing written behind it
        _moved_back(bytearray(table(code, [10, 132, 5000])[:cut]), 32, 100)


def test_without_the_extra_nothing_is_written_and_nothing_said(clip: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    whole = clip.read_bytes()
    assert stamp(clip, "a" * 64) is None and clip.read_bytes() == whole and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("content", ["", "no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_an_identity_that_cannot_sign_costs_a_line_and_never_the_clip(clip: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "identity.pem").write_text(content)
    whole = clip.read_bytes()
    told = stamp(clip, "a" * 64, identity=tmp_path / "identity.pem")
    assert told is not None and "the clip itself is whole" in told and "\n" not in told
    assert clip.read_bytes() == whole and len(list(tmp_path.glob("*clip*"))) == 1


def test_an_identity_is_its_users_own_and_says_nothing_of_them(identity: Path) -> None:
    assert stat.S_IMODE(identity.stat().st_mode) == 0o600
    names = {name.value for one in x509.load_pem_x509_certificates(identity.read_bytes()) for name in one.subject}
    assert names == {"Reelgraph user", "Reelgraph user, own authority"}


def test_every_clip_that_is_finished_carries_chain_and_credentials(
    clip: Path, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    finished.finish(clip, "reel generate", {"prompt": "a cat"}, {})
    content, now = carried(clip)
    assert content["nodes"][now]["params"] == {"prompt": "a cat"}
    assert claims(read(clip)[0])[LABEL] == {"artifact": now}
    assert (tmp_path / "settings/reelgraph/content-credentials.pem").is_file()


def test_a_watermark_is_the_function_that_the_user_names(monkeypatch: Any, tmp_path: Path) -> None:
    (tmp_path / "marks_of_mine.py").write_text(
        "def invert(frames):\n    return 255 - frames\n\n\ndef half(frames):\n    return frames[::2]\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    np.testing.assert_array_equal(finished.watermark()(FRAMES), FRAMES)
    monkeypatch.setenv(finished.WATERMARK, "marks_of_mine:invert")
    np.testing.assert_array_equal(finished.watermark()(FRAMES), 255 - FRAMES)
    monkeypatch.setenv(finished.WATERMARK, "marks_of_mine:half")
    with pytest.raises(StageError, match="must return frames"):
        finished.watermark()(FRAMES)
    for name in ("marks_of_mine:absent", "no_such_module:f", ":", "json"):
        monkeypatch.setenv(finished.WATERMARK, name)
        with pytest.raises(StageError, match="no such function"):
            finished.watermark()
