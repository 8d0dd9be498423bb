"""Every byte of a folder of latents compared with what its manifest and index record: ``reel verify data/latents``.

Names the shard, the member and the offset of whatever differs: flipped bits, cut, missing and foreign files. The
content of samples that were removed from the index is covered by the shard's digest. Imports no torch.
"""

from __future__ import annotations

import argparse
import mmap
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.contract import CHECKSUM, INDEX, MANIFEST, ContractError, Manifest, ShardFacts
from pipelines.data.tar import BLOCK, members
from pipelines.progress import Progress
from pipelines.stage import BESIDE, file_digest

Checksums = Mapping[str, Mapping[str, int]]
"""Shard to member name to the CRC-32 of its content, of the samples in the index."""


@dataclass(frozen=True)
class Damage:
    """What is wrong: file, member (or ""), byte offset in the file, and in words."""

    file: str
    member: str
    offset: int
    what: str

    def __str__(self) -> str:
        member = f", member {self.member}" if self.member else ""
        return f"{self.file}{member}, offset {self.offset}: {self.what}"


def verify(folder: Path, progress: Progress | None = None) -> Iterator[Damage]:
    """Read every byte; nothing comes when all is well.

    Raises:
        ContractError: there is no manifest of this version, so nothing says what should be there.
    """
    manifest = Manifest.read(folder)
    recorded = {MANIFEST, *BESIDE, *manifest.shards, *manifest.files}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in recorded:
            kind = "shard" if path.suffix == ".tar" else "file"
            yield Damage(name, "", 0, f"a foreign {kind}, not in the manifest")
    yield from _verify_files(folder, manifest)
    checksums = _checksums(folder)
    total, done = 1 + (sum(facts.size for facts in manifest.shards.values()) >> 20), 0
    for name, facts in manifest.shards.items():
        yield from _verify_shard(folder / name, facts, checksums.get(name, {}))
        done += facts.size
        if progress is not None:  # the last line is the verdict's
            progress.report(done >> 20, total, "MiB")


def _verify_files(folder: Path, manifest: Manifest) -> Iterator[Damage]:
    for name, sha256 in manifest.files.items():
        if not (folder / name).is_file():
            yield Damage(name, "", 0, "missing")
        elif file_digest(folder / name) != sha256:
            yield Damage(name, "", 0, "is not the file that the manifest records")


def _checksums(folder: Path) -> Checksums:
    """Empty where the index cannot be read, which is told as a damage of its own."""
    try:
        table = pq.read_table(folder / INDEX)
    except (OSError, pa.ArrowInvalid):
        return {}
    found: dict[str, dict[str, int]] = {}
    names = [name for name in table.column_names if name.startswith(CHECKSUM)]
    for row in table.select(["shard", "key", *names]).to_pylist():
        known = found.setdefault(row["shard"], {})
        known |= {f"{row['key']}.{name.removeprefix(CHECKSUM)}": row[name] for name in names if row[name] is not None}
    return found


def _verify_shard(path: Path, facts: ShardFacts, checksums: Mapping[str, int]) -> Iterator[Damage]:
    if not path.is_file():
        yield Damage(path.name, "", 0, "missing")
        return
    size = path.stat().st_size
    if size == facts.size and file_digest(path) == facts.sha256:
        return
    found = list(_locate(path, facts, checksums)) if size else []
    if size != facts.size:
        found.insert(0, Damage(path.name, "", min(size, facts.size), f"has {size} bytes, {facts.size} are recorded"))
    yield from found or [Damage(path.name, "", 0, "a sample that is no longer in the index differs")]


def _locate(path: Path, facts: ShardFacts, checksums: Mapping[str, int]) -> Iterator[Damage]:
    """Walk the members of a changed shard: contents, headers, and the zeros between them."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end, after, last = len(content), 0, ""
        while after + BLOCK <= end and any(content[after : after + BLOCK]):
            try:
                name, begin, length = next(members(content, after, BLOCK))
            except ValueError as error:
                yield Damage(path.name, _next_member(checksums, last), after, str(error))
                return
            after, last = begin + -(-length // BLOCK) * BLOCK, name
            if begin + length > end:
                yield Damage(path.name, name, begin, f"cut after {end - begin} of {length} bytes")
                return
            wanted = checksums.get(name.rpartition(".")[0] if name.endswith((".npy", ".txt")) else name)
            if wanted is not None and zlib.crc32(content[begin : begin + length]) != wanted:
                yield Damage(path.name, name, begin, "content differs from its checksum")
            yield from _zeros(path.name, name, content, begin + length, min(after, end))
        yield from _zeros(path.name, "", content, after, min(end, facts.size))


def _zeros(file: str, member: str, content: mmap.mmap, begin: int, end: int) -> Iterator[Damage]:
    part = content[begin:end]
    odd = len(part) - len(part.lstrip(b"\0"))
    if odd < len(part):
        yield Damage(file, "", begin + odd, f"padding after {member or 'the last member'} was changed")


def _next_member(checksums: Mapping[str, int], last: str) -> str:
    """The member whose header follows that of ``last``, as far as the index tells."""
    names = list(checksums)
    known = last.rpartition(".")[0] if last.endswith((".npy", ".txt")) else last
    place = names.index(known) + 1 if known in names else 0 if not last else len(names)
    return names[place] if place < len(names) else ""


def main(argv: Sequence[str] | None = None) -> int:
    """``reel verify``: 0 when every byte is as recorded, 1 with a line per damage, 2 when there are no latents."""
    parser = argparse.ArgumentParser(prog="reel verify", description="Compare every byte of latents with the manifest.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("data/latents"), help="default: data/latents")
    folder = parser.parse_args(argv).folder
    count = 0
    try:
        for damage in verify(folder, Progress("verify")):
            print(f"{folder}/{damage}", flush=True)
            count += 1
        manifest = Manifest.read(folder)
    except ContractError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or folder}: {error.strerror or error}; name a folder of latents.", file=sys.stderr)
        return 2
    if count:
        print(f"{count} damaged. `dvc checkout` restores what DVC's cache still holds whole;", file=sys.stderr)
        print(
            "where a file there is the same one (a hard link), delete it and run latent_shards again.", file=sys.stderr
        )
        return 1
    size = sum(facts.size for facts in manifest.shards.values())
    shards = f"{len(manifest.shards)} shards, {size / 2**20:.1f} MiB"
    print(f"{folder}: {manifest.num_samples} samples in {shards}, {len(manifest.files)} files: every byte as recorded.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
