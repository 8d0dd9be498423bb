"""Whether a file ends where its own structure says: sizes of boxes and chunks, marks at the end, packets of one length.

Only a few bytes are read. Duration fields are no evidence: undamaged files state wrong ones, and files without an index
have their duration measured on what is left of them.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from pipelines.data.checksums import enter_segment

BOXES = b"ftyp styp moov mdat moof free skip wide pnot uuid meta mfra sidx emsg prft udta ssix pdin PICT junk".split()
"""Top-level boxes of ISO media; what else stands behind them is somebody's appendix."""
PICTURES = b"heic heix heim heis mif1 avif".split()
"""Brands of pictures, whose index is a box `meta`."""
MOST_BOXES = 1_000_000
TAIL = 65536
ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
RM_SLACK = 18
"""Bytes by which undamaged RealMedia files state their last chunk too long: FFmpeg counts its head twice."""
WTV = bytes.fromhex("b7d800203749da11a64e0007e95ead8d")
MXF = bytes.fromhex("060e2b34020501010d0102010102")

Check = Callable[[BinaryIO, int], str | None]
"""What is missing; "" nothing; None: the file does not say."""


def missing_end(path: Path) -> str | None:
    """What the end of a video or animation lacks, in words.

    Returns:
        The words; "" where the file is as long as it says; None where it does not say, or is of no kind known here.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        check = _check_for(file.read(600))
        try:
            return None if check is None else check(file, size)
        except (struct.error, IndexError, ValueError):
            return "ends inside its header"


def is_known(path: Path) -> bool:
    """Whether the file begins as a video or animation does."""
    with path.open("rb") as file:
        return _check_for(file.read(600)) is not None


def _check_for(head: bytes) -> Check | None:
    if head[4:8] in BOXES:
        return _boxes
    for mark, check in (
        (b"\x1aE\xdf\xa3", _matroska),
        (ASF, _asf),
        (b"GIF8", _gif),
        (b"\x89PNG\r\n", _png),
        (b"OggS", _ogg),
        (b"FLV\x01", _flv),
        (b"\x00\x00\x01\xba", _program),
        (MXF, _mxf),
        (b".RMF", _real),
        (WTV, _recorded_tv),
        (b"YUV4MPEG2 ", _planes),
        (b"\x1f\x07\x00", _tape),
    ):
        if head.startswith(mark):
            return check
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WEBP"):
        return _riff
    return _transport if packet_size(head) else None


def packet_size(head: bytes) -> int:
    """Length of a transport stream's packets (188, 192 with time codes, 204 with check bytes); 0: it is none."""
    for size, at in ((188, 0), (192, 4), (204, 0)):
        places = range(at, len(head), size)
        if len(places) >= 2 and all(head[place] == 0x47 for place in places):
            return size
    return 0


def _beyond(end: int, size: int, what: str) -> str:
    return f"{what} ends at byte {end}, the file at {size}" if end > size else ""


def _boxes(file: BinaryIO, size: int) -> str:
    at, seen = 0, set()
    for _ in range(MOST_BOXES):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8 or head[4:8] not in BOXES:
            break
        length, kind = struct.unpack(">I", head[:4])[0], head[4:8]
        seen.add(b"meta" if kind == b"ftyp" and head[8:12] in PICTURES else kind)
        if length == 1:
            length = struct.unpack(">Q", head[8:16])[0]
        if length == 0:
            break
        if at + length > size:
            return _beyond(at + length, size, f"its box {kind.decode()}")
        at += max(8, length)
    if seen & {b"mdat", b"ftyp"} and not seen & {b"moov", b"moof", b"meta"}:
        return "its index (moov) was never written or is cut off"
    return "" if at <= size - 8 or at == size else "ends inside the head of a box"


def _matroska(file: BinaryIO, size: int) -> str | None:
    length = enter_segment(file)
    return None if length is None else _beyond(file.tell() + length, size, "its segment")


def _riff(file: BinaryIO, size: int) -> str | None:
    at = 0
    while at + 12 <= size:
        file.seek(at)
        mark, length = struct.unpack("<4sI", file.read(8))
        if mark != b"RIFF" or length == 0:
            return None if at == 0 else ""
        if at + 8 + length > size:
            return _beyond(at + 8 + length, size, "its RIFF chunk")
        at += 8 + length + length % 2
    return ""


def _asf(file: BinaryIO, size: int) -> str | None:
    file.seek(0)
    head = file.read(TAIL)
    at, length = head.find(ASF_FILE), struct.unpack_from("<Q", head, 16)[0]
    if length > size:
        return _beyond(length, size, "its head")
    if at < 0:
        return None
    stated, flags = struct.unpack_from("<Q", head, at + 40)[0], struct.unpack_from("<I", head, at + 88)[0]
    return None if flags & 1 or stated == 0 else _beyond(stated, size, "it")


def _tail(file: BinaryIO, size: int, most: int) -> bytes:
    file.seek(max(0, size - most))
    return file.read(most)


def _gif(file: BinaryIO, size: int) -> str:
    return "" if b"\x3b" in _tail(file, size, 2) else "has no end mark (trailer)"


def _png(file: BinaryIO, size: int) -> str:
    return "" if b"IEND\xaeB`\x82" in _tail(file, size, TAIL) else "has no end mark (IEND)"


def _ogg(file: BinaryIO, size: int) -> str | None:
    tail = _tail(file, size, 2 * TAIL)
    at = tail.rfind(b"OggS")
    if at < 0:
        return None
    count = tail[at + 26]
    return _beyond(size - len(tail) + at + 27 + count + sum(tail[at + 27 : at + 27 + count]), size, "its last page")


def _flv(file: BinaryIO, size: int) -> str:
    last = struct.unpack(">I", _tail(file, size, 4))[0]
    file.seek(max(0, size - 4 - last))
    tag = file.read(4)
    whole = size - 4 - last >= 9 and tag[0] & 0x1F in (8, 9, 18) and int.from_bytes(tag[1:4], "big") == last - 11
    return "" if whole else "ends inside a tag"


def _program(file: BinaryIO, size: int) -> str | None:
    tail = _tail(file, size, 2 * TAIL)
    at = len(tail)
    while (at := tail.rfind(b"\x00\x00\x01", 0, at)) >= 0:
        kind = tail[at + 3] if at + 3 < len(tail) else 0
        if kind in (0xB9, 0xBA):
            return ""
        if kind >= 0xBB:
            length = struct.unpack_from(">H", tail, at + 4)[0]
            return _beyond(size - len(tail) + at + 6 + length, size, "its last packet") if length else None
    return None


def _mxf(file: BinaryIO, size: int) -> str | None:
    file.seek(16)
    first = file.read(1)[0]
    file.read(first & 0x7F if first & 0x80 else 0)
    footer = struct.unpack(">QQQ", file.read(32)[8:32])[2]
    return _beyond(footer + 1, size, "its footer") if footer else None


def _real(file: BinaryIO, size: int) -> str | None:
    at = 0
    while at + 8 <= size:
        file.seek(at)
        kind, length = struct.unpack(">4sI", file.read(8))
        if not kind.strip(b". ").isalnum() or length < 8:
            return None
        if at + length - RM_SLACK > size:
            return _beyond(at + length, size, f"its chunk {kind.decode('latin-1')}")
        at += length
    return ""


def _recorded_tv(file: BinaryIO, size: int) -> str:
    file.seek(0x38)
    return _beyond((struct.unpack("<I", file.read(4))[0] << 12) + 1, size, "its directory")


def _transport(file: BinaryIO, size: int) -> str:
    file.seek(0)
    length = packet_size(file.read(600))
    return f"ends {size % length} bytes into a packet of {length}" if size % length else ""


def _planes(file: BinaryIO, size: int) -> str | None:
    """YUV4MPEG2: every frame has the length that the head tells."""
    file.seek(0)
    head = file.read(600).split(b"\n")[0]
    told = {field[:1]: field[1:].decode("latin-1") for field in head.split()[1:]}
    length, at = _plane_bytes(told), len(head) + 1
    while length and at < size:
        file.seek(at)
        mark = file.read(80)
        if not b"FRAME".startswith(mark[:5]):
            return ""
        at += (mark.find(b"\n") + 1 or len(mark) + 1) + length
    return _beyond(at, size, "its last frame") if length else None


def _plane_bytes(told: dict[bytes, str]) -> int:
    """Bytes of one YUV4MPEG2 frame; 0: of a form not known here."""
    form = re.fullmatch(r"(mono|444alpha|420|422|444|411)(?:jpeg|mpeg2|paldv|p?(\d+))?", told.get(b"C", "420"))
    if form is None:
        return 0
    width, height = int(told.get(b"W", "0")), int(told.get(b"H", "0"))
    across, down = {"420": (2, 2), "422": (2, 1), "411": (4, 1)}.get(form[1], (1, 1))
    colors = {"mono": 0, "444alpha": 3}.get(form[1], 2)
    return (width * height + colors * -(-width // across) * -(-height // down)) * (2 if int(form[2] or 8) > 8 else 1)


def _tape(file: BinaryIO, size: int) -> str:
    """DV: frames of 12 or 10 sequences of 150 blocks of 80 bytes, by the bit that tells 625 lines from 525."""
    file.seek(3)
    length = 80 * 150 * (12 if file.read(1)[0] & 0x80 else 10)
    return f"ends {size % length} bytes into a frame of {length}" if size % length else ""
