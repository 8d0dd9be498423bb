"""Shards written to where trainers read them, an object store or a disk elsewhere: whole or absent, each moved once.

A shard stands below ``REEL_SHARDS_URL`` under its own name, with its SHA-256 beside it (``<name>.sha256``), which is
written last. So an upload that broke off is seen as one, and one that is there is not made again. An object of a bucket
appears when all of it has arrived; on a disk a shard is written beside its place and renamed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec

from pipelines.data.address import GIVE_UP, PAUSE, TRIES, refusal, shown
from pipelines.data.contract import ContractError, ShardFacts
from pipelines.data.remote import URL
from pipelines.leftovers import shown as in_bytes
from pipelines.stage import say

READ_ONLY = ("http", "https")
"""Addresses that shards are only read from."""
MARK = ".sha256"
ON_DISKS = ("file", "local")


class Store:
    """A place for shards; counts the bytes that were moved and those that were there already."""

    def __init__(self, url: str) -> None:
        self.url, self.moved, self.there = url, 0, 0
        try:
            self.files, self.root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ContractError(f"{URL} {shown(url)}: {error}; see docs/cluster.md.") from None

    def _place(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    @property
    def _is_on_a_disk(self) -> bool:
        known = self.files.protocol
        return bool({*ON_DISKS} & {*((known,) if isinstance(known, str) else known)})

    def has(self, name: str, size: int, sha256: str) -> bool:
        """Whether a shard of these bytes stands there, whole."""
        try:
            if self.files.info(self._place(name))["size"] != size:
                return False
            return self.files.cat_file(self._place(name + MARK)).decode().strip() == sha256
        except FileNotFoundError:
            return False

    def put(self, path: Path, name: str, sha256: str) -> None:
        """Write one shard, unless it is there.

        Raises:
            ContractError: the place cannot be reached or written, after several tries where those could help.
        """
        size = path.stat().st_size
        if self._try(name, lambda: self.has(name, size, sha256)):
            self.there += size
            return
        self._try(name, lambda: self._write(path, name, sha256))
        self.moved += size

    def _write(self, path: Path, name: str, sha256: str) -> None:
        self.files.makedirs(self.root, exist_ok=True)
        if self.files.exists(self._place(name + MARK)):  # of other bytes: a break from here on must be seen
            self.files.rm_file(self._place(name + MARK))
        if self._is_on_a_disk:
            partial = self._place(f".{name}.partial-{os.getpid()}")
            self.files.put_file(str(path), partial)
            Path(partial).replace(self._place(name))
        else:
            self.files.put_file(str(path), self._place(name))
        size = self.files.info(self._place(name))["size"]
        if size != path.stat().st_size:
            raise OSError(f"{size} bytes arrived of {path.stat().st_size}")
        self.files.pipe_file(self._place(name + MARK), sha256.encode())

    def _try(self, name: str, act: Callable[[], Any]) -> Any:
        for number in range(TRIES):
            try:
                self.files.invalidate_cache()
                return act()
            except Exception as error:
                reason = refusal(self.url, error)
                if reason is None:
                    raise
                if isinstance(error, GIVE_UP) or number + 1 == TRIES:
                    raise ContractError(
                        f"{shown(self.url)}/{name}: {reason}. Look at the address in {URL}, and whether this machine "
                        "may write there; what was written is kept, the same command goes on."
                    ) from None
                time.sleep(PAUSE * 2**number)
        raise AssertionError("the last try returns or raises")

    def tell(self) -> None:
        """One line: bytes moved, bytes that were there."""
        say(f"{in_bytes(self.moved)} of shards moved to {shown(self.url)}, {in_bytes(self.there)} were there")


def configured() -> Store | None:
    """Where this machine's environment says that shards go; None where it names no place, or one that is only read."""
    url = os.environ.get(URL)
    return Store(url) if url and url.partition("://")[0] not in READ_ONLY else None


def complete(folder: Path, shards: Mapping[str, ShardFacts], store: Store) -> None:
    """Write every shard of a folder that is not there yet, and say what was moved.

    Raises:
        ContractError: as :meth:`Store.put`.
    """
    for name, facts in shards.items():
        store.put(folder / name, name, facts.sha256)
    store.tell()
