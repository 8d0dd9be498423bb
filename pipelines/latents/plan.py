"""What has to be encoded: which shards stay as they are, which samples are copied, which are new. Imports no torch.

A sample is known by its clip's content and its prompt. A shard stays while at least half of it is alive; what else
is alive in it is copied into a new shard, as is a sample whose prompt alone changed. As a program it tells beforehand,
for ``reel plan``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from pipelines import stage
from pipelines.data.catalog import read_catalog
from pipelines.data.contract import CHECKSUM
from pipelines.latents import recipes, stock
from pipelines.latents.params import LatentShardsParams
from pipelines.latents.stock import IDENTITY, Stock, StockPlace, StockShard
from pipelines.launch import stated
from pipelines.params import ParamsError, read_document
from pipelines.progress import duration

MOST_SHARDS = 2.0
"""Shards, as a multiple of how many full ones the samples need, above which small ones are put together."""
FREE_SHARDS = 16
"""Small shards beyond that multiple that are always allowed."""
SPEED = "speed.json"
"""In the stage's work folder: clips per second on this machine."""


@dataclass(frozen=True)
class Part:
    """One shard to write: its name in the output, what identifies its content, and its catalog rows in order."""

    name: str
    id: str
    rows: tuple[int, ...]


@dataclass
class Plan:
    """What becomes of every clip. Rows are rows of the catalog.

    ``kept``: shards that stay, by their name in the output. ``latents``: where rows of the parts have latents in stock;
    the other rows of the parts are encoded. ``embeds``: where prompts of the parts have embeddings, by prompt hash.
    """

    kept: dict[str, StockShard]
    parts: list[Part]
    recipes: dict[str, str]
    latents: dict[int, StockPlace] = field(default_factory=dict)
    embeds: dict[str, StockPlace] = field(default_factory=dict)

    def rows_to_encode(self) -> list[int]:
        """Catalog rows whose clips go through the autoencoder."""
        return [row for part in self.parts for row in part.rows if row not in self.latents]

    def prompts_to_embed(self, captions: Sequence[str]) -> set[str]:
        """Prompts that go through the text encoder, of the catalog's captions."""
        wanted = {captions[row] for part in self.parts for row in part.rows}
        return {prompt for prompt in wanted if prompt_hash(prompt) not in self.embeds}

    def summary(self, catalog: pd.DataFrame, clips_per_second: float | None = None) -> str:
        """One line of what is to do, with the time at a known speed."""
        rows, prompts = len(self.rows_to_encode()), len(self.prompts_to_embed(catalog["caption"].tolist()))
        text = f"{rows} of {len(catalog)} clips to encode, {prompts} prompts to embed"
        if rows and clips_per_second:
            text += f", about {duration(rows / clips_per_second)} at {clips_per_second:.3g} clips/s"
        return f"{text}; {len(self.kept)} shards stay, {len(self.parts)} to write"


def prompt_hash(prompt: str) -> str:
    """Identity of a prompt: SHA-256 of its UTF-8 bytes."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def fields_of(catalog: pd.DataFrame) -> frozenset[str]:
    """Fields that samples of these clips have."""
    has_actions = bool(catalog["actions"].notna().all())
    return frozenset({"latents", "prompt_embeds", "prompt", *(("actions",) if has_actions else ())})


def all_recipes(params: LatentShardsParams, autoencoder: Path) -> dict[str, str]:
    """Recipes of latents, embeddings and of how samples are put into shards."""
    return {
        "latents": recipes.latents_recipe(params, autoencoder),
        "text": recipes.text_recipe(params.text),
        "samples_per_shard": str(params.samples_per_shard),
    }


# ---- planning -----------------------------------------------------------------------------------------------------


def make_plan(catalog: pd.DataFrame, known: Stock, wanted: Mapping[str, str]) -> Plan:
    """What to do for the clips of the catalog, given what is in stock and the recipes that hold now."""
    per_shard, fields = int(wanted["samples_per_shard"]), fields_of(catalog)
    clips = catalog[["key", "content_hash", "num_frames", "height", "width"]].copy()
    clips["prompt_hash"] = [prompt_hash(caption) for caption in catalog["caption"]]
    clips["row"] = np.arange(len(clips))
    clips = pd.DataFrame(clips).sort_values(["num_frames", "height", "width", "key"], ignore_index=True)
    alike = [shard for shard in known.shards if shard.recipes == wanted and shard.fields == fields]
    kept, taken = _kept(clips, alike, per_shard)
    left = clips.loc[~taken]
    cut = [left.iloc[begin : begin + per_shard] for begin in range(0, len(left), per_shard)]
    # Whatever the last version does not name gets a free name in the order of the clips: a killed run that goes on
    # names its shards as if it had not been killed.
    unnamed: list[tuple[int, StockShard | pd.DataFrame]] = [(int(part.index[0]), part) for part in cut]
    unnamed += [(first, shard) for shard, first in kept if shard.name is None]
    plan = Plan({shard.name: shard for shard, _ in kept if shard.name is not None}, [], dict(wanted))
    names = _names(known.names if plan.kept else frozenset())
    for _, one in sorted(unnamed, key=lambda pair: pair[0]):
        if isinstance(one, StockShard):
            plan.kept[next(names)] = one
        else:
            plan.parts.append(Part(next(names), _id(one, wanted), tuple(one["row"].tolist())))
    if len(left):
        _find_sources(plan, left, known, wanted)
    return plan


def _kept(
    clips: pd.DataFrame, shards: Sequence[StockShard], per_shard: int
) -> tuple[list[tuple[StockShard, int]], np.ndarray]:
    """Shards that stay with the place of their first clip, and which clips they hold (bool per clip)."""
    taken = np.zeros(len(clips), bool)
    if not shards:
        return [], taken
    rows = pd.concat([shard.rows[IDENTITY].assign(stock=number) for number, shard in enumerate(shards)])
    found = rows.merge(clips[IDENTITY].assign(place=clips.index), on=IDENTITY)
    alive_in = {int(cast(int, number)): part.to_numpy() for number, part in found.groupby("stock")["place"]}
    kept: list[tuple[StockShard, np.ndarray]] = []
    for number, shard in enumerate(shards):
        alive = alive_in.get(number, np.zeros(0, int))
        alive = alive[~taken[alive]]
        if len(alive) and 2 * len(alive) >= shard.facts.num_samples:
            taken[alive] = True
            kept.append((shard, alive))
    new = -(-int((~taken).sum()) // per_shard)
    if len(kept) + new > MOST_SHARDS * -(-len(clips) // per_shard) + FREE_SHARDS:
        for _, alive in (one for one in kept if 2 * len(one[1]) < per_shard):
            taken[alive] = False
        kept = [one for one in kept if 2 * len(one[1]) >= per_shard]
    return [(shard, int(alive.min())) for shard, alive in kept], taken


def _names(used: frozenset[str]) -> Iterator[str]:
    """Free shard names in order; while shards of the last version stay, its names are given to nothing else."""
    return (name for number in count() if (name := f"latents-{number:05d}.tar") not in used)


def _id(part: pd.DataFrame, wanted: Mapping[str, str]) -> str:
    text = json.dumps([dict(wanted), part[IDENTITY].to_numpy().tolist()])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _find_sources(plan: Plan, left: pd.DataFrame, known: Stock, wanted: Mapping[str, str]) -> None:
    """Fill in where latents and embeddings of the samples to write can be copied from."""
    for recipe, column in (("latents", "content_hash"), ("text", "prompt_hash")):
        usable = [shard for shard in known.shards if shard.recipes.get(recipe) == wanted[recipe]]
        if not usable:
            continue
        rows = pd.concat([shard.rows.assign(stock=number) for number, shard in enumerate(usable)])
        rows = rows.loc[rows[column].isin(left[column])].drop_duplicates(subset=[column])
        places = {value: _place(usable[row["stock"]], row) for value, row in _records(rows, column)}
        if recipe == "text":
            plan.embeds = places
        else:
            pairs = zip(left["row"].tolist(), left["content_hash"].tolist(), strict=True)
            plan.latents = {row: places[content] for row, content in pairs if content in places}


def _records(rows: pd.DataFrame, column: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return zip(rows[column].tolist(), rows.to_dict("records"), strict=True)  # type: ignore[return-value]


def _place(shard: StockShard, row: Mapping[str, Any]) -> StockPlace:
    checksums = {name: int(row[name]) for name in row if name.startswith(CHECKSUM) and pd.notna(row[name])}
    return StockPlace(shard.path, row["offset"], row["size"], row["key"], checksums)


# ---- telling beforehand -------------------------------------------------------------------------------------------


def forecast(params: LatentShardsParams, clips: Path, autoencoder: Path, out: Path, work: Path) -> str:
    """One line: how many clips and prompts would be encoded if the stage ran now, and about how long that takes."""
    catalog = read_catalog(clips)
    plan = make_plan(catalog, stock.find(out, work / "shards"), all_recipes(params, autoencoder))
    speed = work / SPEED
    return plan.summary(catalog, json.loads(speed.read_text())["clips_per_second"] if speed.is_file() else None)


def reservations(stages: Mapping[str, Any], paths: Mapping[str, Path], before: Sequence[str]) -> str:
    """What a forecast cannot know because stages that make its inputs would run before it."""
    makers = {out: name for name in before for out in stages[name].get("outs", []) if isinstance(out, str)}
    read = {name: paths[name].as_posix() for name in ("clips", "autoencoder")}
    found = {name: makers[path] for name, path in read.items() if path in makers}
    told = []
    if "clips" in found:
        told.append(f"counted of the clips that are there now, {found['clips']} runs before")
    if "autoencoder" in found:
        told.append(f"all of them where {found['autoencoder']}, which runs before, makes another autoencoder")
    return "".join(f"; {one}" for one in told)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the forecast of a stage of ``dvc.yaml``; nothing where it cannot be told. The exit status is 0."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.latents.plan")
    parser.add_argument("--stage", default="latent_shards")
    parser.add_argument("--before", nargs="*", default=[])
    arguments = parser.parse_args(argv)
    name = arguments.stage
    try:
        params, paths = stated(name)
        clips, autoencoder, out = (paths[flag] for flag in ("clips", "autoencoder", "out"))
        told = forecast(cast(LatentShardsParams, params), clips, autoencoder, out, Path(".work") / name)
        print(told + reservations(read_document(Path("dvc.yaml"))[0]["stages"], paths, arguments.before))
    except (ParamsError, stage.StageError, OSError):
        return 0  # what is missing is made by an earlier stage of the plan, or told by `reel check`
    return 0


if __name__ == "__main__":
    sys.exit(main())
