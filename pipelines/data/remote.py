"""Shards that lie elsewhere: the samples that are read come by byte range, and stay in a cache of bounded size.

Training reads in random order over all shards, so fetching whole shards would move a shard per sample as soon as the
cache is smaller than the data. Here each sample moves at most once while there is room, and without room once per read.
A cached shard is a sparse file of its own length, named by the shard's SHA-256: a sample is in it when its checksums
hold there. So nothing needs to be recorded, a process killed while writing leaves no trap, and several processes (or
data sets that share shards) share one cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from pipelines.data.address import GIVE_UP, PAUSE, TRIES, refusal, shown
from pipelines.data.contract import ContractError, ShardFacts
from pipelines.data.ranges import Ranges, ranges
from pipelines.stage import say

URL, CACHE, LIMIT = "REEL_SHARDS_URL", "REEL_CACHE", "REEL_CACHE_GIB"
DEFAULT_CACHE, DEFAULT_GIB = Path(".work/shards"), 20.0
BLOCK = 4096
AT_ONCE = 8
"""Ranges that are on their way at the same time, at most."""


@dataclass(frozen=True)
class Piece:
    """A sample's part of a shard: its row in the index, the shard's name, offset and size in bytes."""

    row: int
    shard: str
    offset: int
    size: int


Damage = Callable[[int, bytes | bytearray], str | None]
"""(row, the sample's bytes) to what is wrong with them; None when every checksum holds."""


class Cache:
    """A folder of sparse shards that holds at most ``limit`` bytes, of this data set and of others.

    Shards of other data sets make room, least recently opened first. Those of ``mine`` never make room for one another:
    in a random order each is as likely to be wanted next, so exchanging them would only move bytes.
    """

    def __init__(self, folder: Path, limit: int, mine: Mapping[str, ShardFacts]) -> None:
        self.folder, self.limit = folder, limit
        self.names = {name: facts.sha256 for name, facts in mine.items()}
        self.full = False
        folder.mkdir(parents=True, exist_ok=True)
        with self._locked() as total:
            total[0] = self._measured()
        for sha256 in self.names.values():  # opened now: the least recently used are others'
            with contextlib.suppress(FileNotFoundError):
                os.utime(folder / sha256)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[list[int]]:
        """The bytes held, known to all processes; what the block leaves in the list is stored."""
        descriptor = os.open(self.folder / ".held", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            total = [int(os.pread(descriptor, 32, 0) or b"0")]
            yield total
            os.pwrite(descriptor, f"{total[0]:<31d}".encode(), 0)
        finally:
            os.close(descriptor)

    def _files(self) -> list[tuple[float, Path, int]]:
        """(last opened, path, bytes on disk) of every cached shard."""
        found = []
        for path in self.folder.glob("[0-9a-f]*"):
            with contextlib.suppress(FileNotFoundError):  # another process made room
                facts = path.stat()
                found.append((facts.st_mtime, path, facts.st_blocks * 512))
        return found

    def _measured(self) -> int:
        return sum(size for _, _, size in self._files())

    def _make_room(self, wanted: int) -> int:
        """Bytes held after shards of other data sets were dropped, as far as needed."""
        held, keep = self._measured(), set(self.names.values())
        for _, path, size in sorted(self._files()):
            if held + wanted > self.limit and path.name not in keep:
                path.unlink(missing_ok=True)
                held -= size
        return held

    def get(self, piece: Piece) -> bytes:
        """What stands at the piece's place: its content, or anything else where it was not kept."""
        with contextlib.suppress(FileNotFoundError), (self.folder / self.names[piece.shard]).open("rb") as stream:
            return os.pread(stream.fileno(), piece.size, piece.offset)
        return b""

    def put(self, piece: Piece, content: bytes | bytearray) -> None:
        """Keep the piece if there is room."""
        if self.full:
            return
        wanted = -(-piece.size // BLOCK) * BLOCK + BLOCK
        try:
            with self._locked() as total:
                if total[0] + wanted > self.limit:
                    total[0] = self._make_room(wanted)
                if total[0] + wanted > self.limit:
                    self._stop(f"holds its {self.limit / 2**30:.3g} GiB ({LIMIT})")
                    return
                self._write(piece, content)
                total[0] += wanted
        except OSError as error:
            self._stop(f"cannot be written: {error.strerror}")

    def _write(self, piece: Piece, content: bytes | bytearray) -> None:
        descriptor = os.open(self.folder / self.names[piece.shard], os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.pwrite(descriptor, content, piece.offset)
        finally:
            os.close(descriptor)

    def _stop(self, why: str) -> None:
        self.full = True
        say(f"the cache of shards in {self.folder} {why}; further samples are fetched whenever they are read")


class Remote:
    """Samples of shards below a URL, through fsspec (file, http, s3, gs, memory ...), by way of a cache.

    Raises:
        ContractError: the address cannot be understood, or the package for it is not installed.
    """

    def __init__(self, url: str, cache: Cache) -> None:
        self.url, self.cache = url, cache
        try:
            self.files, self.root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ContractError(f"{URL} {shown(url)}: {error}; see docs/scale.md.") from None
        self._ranges: Ranges | None = None
        self._is_tried = False
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="ranges")

    def read(self, pieces: Sequence[Piece], damage: Damage) -> list[bytes | bytearray]:
        """The bytes of each piece, every checksum compared, from the cache or from elsewhere.

        Raises:
            ContractError: a shard cannot be reached, or a sample arrives damaged, after several tries.
        """
        found: dict[int, bytes | bytearray] = {}
        found |= {piece.row: content for piece in pieces if damage(piece.row, content := self.cache.get(piece)) is None}
        missing = [piece for piece in dict.fromkeys(pieces) if piece.row not in found]
        trouble: dict[Piece, str] = {}
        for number in range(TRIES):
            if number and missing:
                time.sleep(PAUSE * 2 ** (number - 1))
            trouble = {}
            for piece, arrived in zip(missing, self._fetch(missing, damage), strict=True):
                if isinstance(arrived, str):
                    trouble[piece] = arrived
                    continue
                found[piece.row] = arrived
                self.cache.put(piece, arrived)
            missing = list(trouble)
            if not missing:
                return [found[piece.row] for piece in pieces]
        piece, told = next(iter(trouble.items()))
        raise ContractError(
            f"{shown(self.url)}/{piece.shard}: bytes {piece.offset} to {piece.offset + piece.size}: {told}, "
            f"{TRIES} times. Look at the address in {URL} and at that file."
        )

    def _path(self, piece: Piece) -> str:
        return f"{self.root.rstrip('/')}/{piece.shard}"

    def _fetch(self, pieces: Sequence[Piece], damage: Damage) -> list[bytes | bytearray | str]:
        """Content of each piece, whole, or in words why there is none.

        Raises:
            ContractError: an error that another try would not mend.
        """
        if not pieces:
            return []
        came = self._ranged(pieces, damage)
        rest = [piece for piece in pieces if piece not in came]
        paths = [self._path(piece) for piece in rest]
        starts, ends = [piece.offset for piece in rest], [piece.offset + piece.size for piece in rest]
        arrived: list[Any] = self.files.cat_ranges(paths, starts, ends, on_error="return") if rest else []
        told = {piece: self._told(piece, one, damage) for piece, one in zip(rest, arrived, strict=True)}
        return [came.get(piece) or told[piece] for piece in pieces]

    def _ranged(self, pieces: Sequence[Piece], damage: Damage) -> dict[Piece, bytearray | str]:
        """What comes by requests of our own; what does not, fsspec is asked for, which has the words for errors.

        Checksums are compared where a piece arrives: beside the others that are still on their way, and while its
        bytes are in the processor's cache.
        """
        if not self._is_tried:
            self._is_tried, self._ranges = True, ranges(self.files, self._path(pieces[0]))
        reader = self._ranges
        if reader is None:
            return {}

        def one(piece: Piece) -> bytearray | str | None:
            try:
                content = reader.read(self._path(piece), piece.offset, piece.size)
            except OSError:
                return None
            return damage(piece.row, content) or content

        arrived = list(self._pool.map(one, pieces)) if len(pieces) > 1 else [one(pieces[0])]
        if not any(arrived):  # it is not the way here
            self._ranges = None
        return {piece: content for piece, content in zip(pieces, arrived, strict=True) if content}

    def _told(self, piece: Piece, arrived: Any, damage: Damage) -> bytes | str:
        if isinstance(arrived, bytes) and len(arrived) == piece.size:
            return damage(piece.row, arrived) or arrived
        if isinstance(arrived, bytes):
            return f"{len(arrived)} bytes came for {piece.size}; the server must answer byte ranges"
        if isinstance(arrived, Exception):
            reason = refusal(self.url, arrived)
            if reason is None:
                raise arrived
            if not isinstance(arrived, GIVE_UP):
                return reason
            raise ContractError(
                f"{shown(self.url)}/{piece.shard}: {reason}. Shards that are not on this disk are looked for below "
                f"the address in {URL}."
            )
        raise TypeError(f"{type(self.files).__name__} gave a {type(arrived).__name__} for bytes")


def configured(shards: Mapping[str, ShardFacts]) -> Remote | None:
    """The remote that this machine's environment names; None where it names none.

    Raises:
        ContractError: a variable cannot be understood.
    """
    url = os.environ.get(URL)
    if not url:
        return None
    stated = os.environ.get(LIMIT, str(DEFAULT_GIB))
    try:
        limit = int(float(stated) * 2**30)
    except ValueError:
        limit = -1
    if limit < 0:
        raise ContractError(f"{LIMIT} is {stated!r}; write a number of GiB, such as {DEFAULT_GIB:g}.")
    return Remote(url, Cache(Path(os.environ.get(CACHE) or DEFAULT_CACHE), limit, shards))
