"""WebDataset tars with deterministic bytes: equal samples give equal files, whole on disk or absent.

Members have fixed owners, modes and times. A shard is written beside its place, flushed and renamed, and never changed
afterwards.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    np.lib.format.write_array(stream, plain, version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def member_bytes(sample: Mapping[str, Any], sidecar: Mapping[str, Any]) -> dict[str, bytes]:
    """Member name (behind the key) to content, in the order of the tar."""
    members = {}
    for field, name in MEMBERS.items():
        if field in sample:
            value = sample[field]
            members[name] = value.encode() if isinstance(value, str) else npy_bytes(value)
    members["json"] = json.dumps(dict(sidecar), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    return members


@dataclass(frozen=True)
class Place:
    """Where a sample lies in its shard, and the CRC-32 of each member's content."""

    offset: int
    size: int
    checksums: dict[str, int]


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(content), 0o644, 0
    tar.addfile(info, io.BytesIO(content))


def write_shard(
    path: Path, samples: Iterable[tuple[str, Mapping[str, Any], Mapping[str, Any]]]
) -> tuple[ShardFacts, list[Place]]:
    """Write one shard whole or not at all.

    Args:
        path: the ``.tar`` file; its folder exists.
        samples: (key, fields, sidecar) in the order of the shard; arrays and strings per field, plain values in the
            sidecar.

    Raises:
        ContractError: a key is not allowed.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    places = []
    try:
        with partial.open("wb") as stream:
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for key, sample, sidecar in samples:
                    if not KEY.fullmatch(key):
                        raise ContractError(
                            f"{path}: key {key!r} must be at most 80 lower-case letters, digits, '-', '_'."
                        )
                    begin = tar.offset
                    members = member_bytes(sample, sidecar)
                    for name, content in members.items():
                        _add(tar, f"{key}.{name}", content)
                    checksums = {name: zlib.crc32(content) for name, content in members.items()}
                    places.append(Place(begin, tar.offset - begin, checksums))
            stream.flush()
            os.fsync(stream.fileno())
        with partial.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        facts = ShardFacts(sha256=sha256, size=partial.stat().st_size, num_samples=len(places))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return facts, places
