"""WebDataset tars with deterministic bytes: equal samples give equal files, whole on disk or absent.

Members have fixed owners, modes and times. A shard is written beside its place, flushed and renamed, and never changed
afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.contract import MEMBERS, ContractError, ShardFacts

BLOCK = 512
KEY = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}")
"""A key: no dot (WebDataset ends it there), no slash, and short enough for a plain tar header."""


def npy_bytes(array: np.ndarray) -> bytes:
    """The array in numpy's file format 1.0, C order, little endian; object arrays are refused."""
    stream = io.BytesIO()
    plain = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    np.lib.format.write_array(stream, plain, version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def member_bytes(sample: Mapping[str, Any], sidecar: Mapping[str, Any]) -> dict[str, bytes]:
    """Member name (behind the key) to content, in the order of the tar."""
    found = {}
    for field, name in MEMBERS.items():
        if field in sample:
            value = sample[field]
            found[name] = value.encode() if isinstance(value, str) else npy_bytes(value)
    found["json"] = json.dumps(dict(sidecar), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    return found


@dataclass(frozen=True)
class TarPlace:
    """Where a sample lies in its shard, and the CRC-32 of each member's content."""

    offset: int
    size: int
    checksums: dict[str, int]


@contextlib.contextmanager
def whole_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar that grows beside its place by :func:`add`, is flushed and renamed at the end: whole or absent."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as stream:
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                yield tar
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member that tells of nothing but its name and content."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(content), 0o644, 0
    tar.addfile(info, io.BytesIO(content))


def write_shard(
    path: Path, samples: Iterable[tuple[str, Mapping[str, Any], Mapping[str, Any]]]
) -> tuple[ShardFacts, list[TarPlace]]:
    """Write one shard whole or not at all.

    Args:
        path: the ``.tar`` file; its folder exists.
        samples: (key, fields, sidecar) in the order of the shard; arrays and strings per field, plain values in the
            sidecar.

    Raises:
        ContractError: a key is not allowed.
    """
    places = []
    with whole_tar(path) as tar:
        for key, sample, sidecar in samples:
            if not KEY.fullmatch(key):
                raise ContractError(f"{path}: key {key!r} must be at most 80 lower-case letters, digits, '-', '_'.")
            begin = tar.offset
            contents = member_bytes(sample, sidecar)
            for name, content in contents.items():
                add(tar, f"{key}.{name}", content)
            checksums = {name: zlib.crc32(content) for name, content in contents.items()}
            places.append(TarPlace(begin, tar.offset - begin, checksums))
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    facts = ShardFacts(sha256=sha256, size=path.stat().st_size, num_samples=len(places))
    return facts, places


# ---- reading ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _array_header(header: bytes) -> tuple[np.dtype, tuple[int, ...]]:
    """Dtype and shape that a numpy 1.0 header states (the same few headers come again and again)."""
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(header))
    if fortran or dtype.hasobject:
        raise ValueError("neither Fortran order nor objects are allowed")
    return dtype, shape


def array(view: memoryview) -> np.ndarray:
    """The array in the bytes of an ``.npy`` member, without copying them.

    Raises:
        ValueError: it is none, or not of a plain kind.
    """
    if bytes(view[:8]) != b"\x93NUMPY\x01\x00":
        raise ValueError("not a numpy 1.0 array")
    begin = 10 + int.from_bytes(view[8:10], "little")
    dtype, shape = _array_header(bytes(view[8:begin]))
    return np.frombuffer(view, dtype, offset=begin).reshape(shape)


def members(shard: mmap.mmap | bytes | bytearray, offset: int, size: int) -> Iterator[tuple[str, int, int]]:
    """(name, offset of the content, size of the content) of every member in a sample's part of a shard.

    Raises:
        ValueError: a header's own checksum does not hold.
    """
    end = offset + size
    while offset < end:
        header = shard[offset : offset + BLOCK]
        stated = int(header[148:156].rstrip(b"\0 ") or b"0", 8)
        # A header states the sum of its bytes, its own eight counted as spaces. Adler-32 from 0 holds the sum of bytes
        # modulo a prime above any change of a few bytes, ten times faster than a sum in Python.
        if zlib.adler32(header, 0) & 0xFFFF != (stated - 8 * 32 + sum(header[148:156])) % 65521:
            raise ValueError(f"tar header at offset {offset} is damaged")
        length = int(header[124:135], 8)
        yield header[:100].rstrip(b"\0").decode(), offset + BLOCK, length
        offset += BLOCK + -(-length // BLOCK) * BLOCK
