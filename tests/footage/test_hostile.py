"""Tars that claim more than they hold, and names that would lead elsewhere; every input here is harmless."""

import errno
import gzip
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipelines.data.address import refusal
from pipelines.footage import archive
from pipelines.footage.ahead import in_order
from pipelines.footage.tar_kinds import pictures_in
from pipelines.stage import StageError
from tests.footage.footage import footage, refused, run, video


def block(name: str, content: bytes, kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    """One member as it stands in a tar; ``size`` is what its header claims."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


def sparse(name: str, claimed: int) -> bytes:
    """A member of the old GNU format that is one hole of so many bytes."""
    header = bytearray(block(name, b"", tarfile.GNUTYPE_SPARSE))
    header[386:410] = b"%011o\0%011o\0" % (claimed, 0)
    header[483:495] = b"%011o\0" % claimed
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def pax(record: str) -> bytes:
    """A header of further facts for the member behind it."""
    return block("x", record.encode(), tarfile.XHDTYPE)


@pytest.fixture
def three(tmp_path: Path) -> bytes:
    """Samples that can be used."""
    made = b""
    for number in range(3):
        video(tmp_path / f"made/{number}.mp4", seed=number)
        made += block(f"{number}.mp4", (tmp_path / f"made/{number}.mp4").read_bytes()) + block(
            f"{number}.txt", b"a thing"
        )
    return made


def told(tmp_path: Path, content: bytes, packed: bool) -> tuple[set[str], dict[str, str]]:
    """Names of the used samples, and reasons of the refused ones."""
    path = tmp_path / ("a.tar.gz" if packed else "a.tar")
    path.write_bytes(gzip.compress(content) if packed else content)
    catalog, _ = run(footage("tars", urls=[str(path)], max_samples=None, max_rejected_share=0.5), tmp_path)
    return {name.partition("/")[2] for name in catalog["source"]}, refused(tmp_path)


USED = {"0.mp4", "1.mp4", "2.mp4"}


@pytest.mark.parametrize("packed", [False, True])
def test_a_member_of_holes_is_refused_and_nothing_of_it_is_written(tmp_path: Path, three: bytes, packed: bool) -> None:
    content = sparse("h.mp4", 1 << 32) + block("h.txt", b"a hole") + three + bytes(1024)
    used, gone = told(tmp_path, content, packed)
    assert used == USED and list(gone.values()) == ["sparse_member"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "odd",
    [
        block("x", b"18 comment=harmless\n", tarfile.XHDTYPE, size=1 << 33),
        block("x", b"harmless", tarfile.GNUTYPE_LONGNAME, size=1 << 33),
        block("n.mp4", b"x", size=1 << 60),
        pax("28 size=1152921504606846976\n") + block("n.mp4", b"x"),
        block("n.mp4", b"x", size=1 << 42),
        pax("14 size=-4096\n") + block("n.mp4", b"x"),
        pax("12 comment=a\n") * 3000,
    ],
    ids=[
        "giant facts",
        "giant name",
        "giant member",
        "giant by its facts",
        "behind the end",
        "leads back",
        "facts without end",
    ],
)
def test_headers_that_claim_too_much_end_the_tar_after_what_came_before(
    tmp_path: Path, three: bytes, odd: bytes, packed: bool
) -> None:
    used, gone = told(tmp_path, three + block("last.txt", b"x") + odd + bytes(1024), packed)
    assert USED - {"2.mp4"} <= used <= USED and "damaged_tar" in gone.values()


@pytest.mark.parametrize(
    ("odd", "reason", "packed"),
    [
        (block("x", b"18 comment=harmless\n", tarfile.XHDTYPE, size=1 << 33), "damaged_tar", False),
        (block("n.mp4", b"x", size=1 << 60), "damaged_tar", True),
        (block("n.mp4", b"x", size=1 << 42), "damaged_tar", True),
        (sparse("n.mp4", 1 << 32) + block("n.txt", b"a hole") + bytes(1024), "sparse_member", False),
    ],
    ids=["giant facts", "giant member", "behind the end", "holes"],
)
def test_the_reader_of_webdatasets_keeps_the_same_bounds(
    tmp_path: Path, three: bytes, odd: bytes, reason: str, packed: bool
) -> None:
    path = tmp_path / ("a.tar.gz" if packed else "a.tar")
    path.write_bytes(gzip.compress(three + odd) if packed else three + odd)
    params = {"urls": [str(path)], "media": "mp4", "captions": "txt", "caption": None, "max_samples": None}
    catalog, _ = run(footage("webdataset", **params, max_rejected_share=0.5), tmp_path)
    assert {"0.mp4", "1.mp4"} <= {name.partition("/")[2] for name in catalog["source"]} <= USED
    assert reason in refused(tmp_path).values()
    assert pictures_in(str(path)) is None


def test_no_further_sample_is_opened_while_those_open_hold_too_much() -> None:
    opened: list[int] = []

    def items():
        for number in range(6):
            opened.append(number)
            yield number

    ahead = []
    for number, _ in in_order(abs, items(), 2, threading.Event(), held=lambda _: 10, most_held=15):
        ahead.append(len(opened) - number)
    assert max(ahead) == 2  # one that is open, and the one more that it took to see


def test_a_full_disk_is_told_as_one_and_not_as_a_tar_that_cannot_be_read(
    tmp_path: Path, three: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(OSError, match=r"No space left on device: \d+ bytes of 0\.mp4") as caught:
        told(tmp_path, three + bytes(1024), packed=False)
    assert caught.value.errno == errno.ENOSPC
    assert refusal("a.tar", caught.value) is None and refusal("a.tar", OSError(5, "Input/output error"))


@pytest.mark.costly
def test_what_stands_behind_the_end_of_a_tar_damages_nothing(tmp_path: Path, three: bytes) -> None:
    assert told(tmp_path, three + bytes(1024) + b"junk" * 500, packed=False) == (USED, {})
    with pytest.raises(StageError, match="damaged_tar"):
        told(tmp_path, three[: len(three) // 4], packed=False)
