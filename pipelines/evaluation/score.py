"""Stage ``evaluation``: samples of every generator at fixed prompts and seeds, and their scores beside real clips."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import accelerate
import pandas as pd
import torch
from torch import Tensor

from pipelines import stage
from pipelines.data.catalog import COMPOSITION, TEST, TRAIN, VALIDATION
from pipelines.data.contract import find_autoencoder, require_autoencoder
from pipelines.data.shards import Shards
from pipelines.data.video import write_mp4
from pipelines.evaluation import score_figures
from pipelines.evaluation.decoder import ClipDecoder
from pipelines.evaluation.distances import COPIED
from pipelines.evaluation.interpolations import interpolations
from pipelines.evaluation.judge import (
    BETTER,
    Clips,
    FittedSpace,
    Judge,
    Made,
    Scores,
    Words,
    chance,
    features_of,
    grouped,
    measured,
    train_probe,
)
from pipelines.evaluation.params import EvaluationParams
from pipelines.evaluation.parts import Part, factor_words, parts_of, real_latents, train_rows
from pipelines.evaluation.pixels import seen_in_pixels
from pipelines.evaluation.resampling import Resamples, all_compared
from pipelines.evaluation.systems import Requests, classes_of_prompts, generate, load_systems
from pipelines.models.latent_mae import LatentMae
from pipelines.training import checkpoint
from pipelines.training.generator import Generator
from pipelines.training.precision import resolved

REAL, FROZEN, NOISE = "held_out", "frozen", "noise"
"""References: real clips (the ceiling), their first frame standing still, and noise in place of latents."""


def references(decoder: ClipDecoder, real: Clips, part: Part) -> dict[str, Made]:
    """Clips that no system made: real ones, their first frame repeated, noise; a prompt's are equal but for noise."""
    once = real.video[: len(part.rows)]
    still = decoder.encode(once[:, :, :1].expand_as(once)).repeat(len(part.seeds), 1, 1, 1, 1)
    noise = torch.randn(real.latents.shape, generator=torch.Generator().manual_seed(part.seeds[0]))
    return {REAL: Made(real.latents), FROZEN: Made(still), NOISE: Made(noise)}


@dataclass(frozen=True)
class Judged:
    """What is kept of one set of clips: its numbers, what the probe reads, and the video of the first few."""

    scores: Scores
    readings: dict[str, list[str]]
    shown: Tensor


def judged(judge: Judge, decoder: ClipDecoder, sets: Mapping[str, Made], count: int) -> dict[str, Judged]:
    """Every set after the judge, one decoded at a time; ``count`` clips of each are kept to be shown."""
    found = {}
    for name, made in sets.items():
        copies = judge.resamples.copies
        clips = judge.real if name == REAL else replace(decoder(made.latents, name, copies), missing=made.missing)
        readings = judge.readings(clips)
        found[name] = Judged(judge.scores(clips, readings), readings, clips.video[:count].clone())
        del clips  # before the next one is decoded
    return found


def load_encoder(params: EvaluationParams, folder: Path, shards: Shards) -> LatentMae:
    """The latent MAE (averaged weights where there are any), which has every feature that the params name.

    Raises:
        StageError: it lacks a feature, or is damaged.
    """
    checkpoint.read(folder)
    encoder = LatentMae.from_pretrained(folder / "ema" if (folder / "ema").is_dir() else folder)
    features_of(encoder, real_latents(shards, [0]), [*params.feature_space.appearance, *params.feature_space.motion])
    return encoder


def build_judge(
    params: EvaluationParams,
    shards: Shards,
    decoder: ClipDecoder,
    encoder: LatentMae,
    real: Clips,
    reference: list[int],
    part: Part,
) -> Judge:
    """Feature spaces and readers, from real clips of the train split."""
    rows = train_rows(shards, params.max_train_clips)
    train, space, once = real_latents(shards, rows), params.feature_space, len(part.rows)
    names = [*space.appearance, *space.motion]
    trained = features_of(encoder, train, names)
    held_out = [features_of(encoder, each, names) for each in (real_latents(shards, reference), real.latents[:once])]
    spaces, undefined = dict[str, FittedSpace](), dict[str, str]()
    for name, features in (("", space.appearance), ("_motion", space.motion)):
        try:
            spaces[name] = measured(trained, held_out[0], held_out[1], features, space)
        except ValueError as error:
            undefined[name] = str(error)
    words = factor_words(shards, part.every)
    known = {name: values for name, values in factor_words(shards, rows).items() if name in words}
    probe = train_probe(params, decoder(train, "train clips"), known, decoder.precision) if known else None
    seed, count = params.seeds[0], params.resamples
    resamples = Resamples.of(len(part.rows), len(part.seeds), count, seed)
    beside_resamples = Resamples.of(len(reference), 1, count, seed + 1)
    return Judge(params, encoder, real, spaces, probe, resamples, beside_resamples, words, undefined)


def of_part(judge: Judge, shards: Shards, real: Clips, part: Part) -> Judge:
    """The same judge for the prompts of another split."""
    resamples = Resamples.of(len(part.rows), len(part.seeds), judge.params.resamples, judge.params.seeds[0])
    return replace(judge, real=real, resamples=resamples, words=factor_words(shards, part.every))


def score(
    params: EvaluationParams,
    latents: Path,
    checkpoints: Path,
    pseudo_classes: Path,
    out: Path,
    metrics: Path,
    plots: Path,
) -> None:
    """Sample every generator in ``checkpoints``, decode, judge, and write ``out``, metrics and pictures.

    ``checkpoints`` also holds the latents' autoencoder and ``latent_mae``. ``out`` gets samples.parquet,
    comparisons.json and clips/*.mp4.

    Raises:
        StageError: an artifact is not what its record says, or a feature named in params does not exist.
    """
    began, device = time.monotonic(), accelerate.PartialState().device or torch.device("cpu")
    shards = Shards(latents)
    autoencoder = find_autoencoder(shards.manifest.autoencoder.digest, checkpoints)
    parts, reference, why = parts_of(shards, params, latents)
    require_autoencoder(shards.manifest, autoencoder)
    checkpoint.read(autoencoder)
    encoder = load_encoder(params, checkpoints / "latent_mae", shards)
    systems = load_systems(checkpoints, shards, params.sampling, device)
    decoder = ClipDecoder(autoencoder, device, resolved(params.precision, device))
    systems = {name: seen_in_pixels(one, decoder) for name, one in systems.items()}
    rows = [row for part in parts.values() for row in part.rows]
    found = classes_of_prompts(shards, pseudo_classes, rows, params.class_neighbours)
    classes = dict(zip(rows, found.tolist(), strict=True))
    made = {name: sampled(systems, shards, classes, part, params) for name, part in parts.items()}

    test = parts[TEST]
    real = decoder(real_latents(shards, test.every), REAL, len(test.seeds))
    judge = build_judge(params, shards, decoder, encoder, real, reference, test)
    filled = interpolations(systems, requests_of(shards, classes, test))
    sets = made[TEST] | references(decoder, real, test) | filled
    seen = judged(judge, decoder, sets, params.num_shown)
    scores = {name: one.scores for name, one in seen.items()}
    readings = {name: one.readings for name, one in seen.items()}
    results = results_of(judge, scores, list(systems), readings, factor_words(shards, shards.rows(TRAIN).tolist()))
    for name in (VALIDATION, COMPOSITION):
        if name in parts:
            results[name] = beside(judge, shards, decoder, parts[name], made[name], name)
        else:
            results["unavailable"][name] = f"the latents have no split {name}" if why is None else why
    if why is not None:
        results["unavailable"][TEST] = why
    pairs = compared_systems({name: scores[name] for name in [*systems, *filled, REAL]})
    table = sample_table(shards, test.every, params, readings, judge.words)
    shown = {name: seen[name].shown for name in (REAL, *filled, *systems)}
    with stage.whole_folder(out) as folder:
        write_clips(folder, table, shown, len(test.rows[: params.num_shown]), shards.manifest.frame_rate)
        table.to_parquet(folder / "samples.parquet", index=False)
        stage.write_json(folder / "comparisons.json", pairs)
    plots.mkdir(parents=True, exist_ok=True)
    prompts = table["prompt"].tolist()[: min(params.num_shown, len(test.rows))]
    score_figures.contact_sheet(shown, prompts, plots / "contact_sheet.png")
    score_figures.draw_scores(results, plots / "scores.png")
    stage.write_metrics(metrics, {**results, "seconds": round(time.monotonic() - began, 1)})


def sampled(
    systems: Mapping[str, Generator],
    shards: Shards,
    classes: Mapping[int, int],
    part: Part,
    params: EvaluationParams,
) -> dict[str, Made]:
    """Latents of every system for the prompts of one split; ``classes`` are by row of the index."""
    requests, device = requests_of(shards, classes, part), next(iter(systems.values())).device
    size, precision = params.batch_size, resolved(params.precision, device)
    made = {name: generate(name, system, requests, size, precision) for name, system in systems.items()}
    return {name: Made(latents, requests.missing(systems[name])) for name, latents in made.items()}


def requests_of(shards: Shards, classes: Mapping[int, int], part: Part) -> Requests:
    """The prompts of one split with the classes of their rows."""
    return Requests.of(shards, part.rows, torch.tensor([classes[row] for row in part.rows]), part.seeds)


def beside(
    judge: Judge, shards: Shards, decoder: ClipDecoder, part: Part, made: Mapping[str, Made], split: str
) -> dict[str, Any]:
    """Numbers of another split, for every system and the real clips: all of validation's, agreement of compositions.

    The distribution of compositions is another by construction, so distances to test clips would say nothing.
    """
    real = decoder(real_latents(shards, part.every), f"{split} {REAL}")
    own = of_part(judge, shards, real, part)
    found = {}
    for name, latents in {**made, REAL: Made(real.latents)}.items():
        one = real if name == REAL else replace(decoder(latents.latents, f"{split} {name}"), missing=latents.missing)
        readings = own.readings(one)
        agreement_alone = split == COMPOSITION
        scores = Scores(own.agreement(readings), {}, {}) if agreement_alone else own.scores(one, readings)
        found[name] = scores.numbers()
        del one
    return found


def compared_systems(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """Every pair on equal prompts; who copies training clips has no distance that counts."""
    copying = {
        name
        for name, one in scores.items()
        if name != REAL and "copied_share" in one.estimates and one.estimates["copied_share"].low > COPIED
    }
    found = all_compared({name: one.estimates for name, one in scores.items()}, BETTER)
    for pair, metrics in found.items():
        names = set(pair.split(" against "))
        for name in ("kernel_distance", "kernel_distance_motion"):
            if name in metrics and names & copying:
                metrics[name]["verdict"] = f"{' and '.join(sorted(names & copying))} copies training clips"
    return found


def results_of(
    judge: Judge, scores: Mapping[str, Scores], systems: Sequence[str], readings: Mapping[str, Words], train: Words
) -> dict[str, Any]:
    """The metrics file: ``systems`` and ``references`` by name, and why a number is missing."""
    unavailable = {f"references/{REAL}/psnr": "real clips are what the others are compared with"}
    for name, one in scores.items():
        kind = "systems" if name in systems else "references"
        unavailable |= {f"{kind}/{name}/{number}": reason for number, reason in one.unavailable.items()}
    beside = {name: one.numbers() for name, one in scores.items() if name not in systems}
    if judge.probe is None:
        unavailable["agreement"] = "the clips carry none of the factors that evaluation.probe.factors names"
    else:
        read = {name: judge.words[name] for name in readings[REAL]}
        by_factor = chance(read, {name: train[name] for name in read})
        factors = judge.params.probe.factors
        for name in (*factors.identity, *factors.motion, *factors.scene):
            if name not in read:
                unavailable[f"agreement/{name}"] = (
                    f"evaluation.probe.factors names it; the clips have {', '.join(train)}"
                )
        beside["chance"] = {"agreement": {**by_factor, **grouped(judge.params.probe.factors, by_factor)}}
    found = {name: scores[name].numbers() for name in systems}
    return {"systems": found, "references": beside, "num_samples": len(judge.real), "unavailable": unavailable}


def sample_table(
    shards: Shards, rows: Sequence[int], params: EvaluationParams, readings: Mapping[str, Words], words: Words
) -> pd.DataFrame:
    """A row per clip of every system and reference: prompt, seed, what the prompt says and what the probe reads."""
    index = shards.index.iloc[list(rows)]
    columns: dict[str, list[Any]] = {name: index[name].astype(str).tolist() for name in ("prompt", "key")}
    columns["seed"] = [seed for seed in params.seeds for _ in range(len(rows) // len(params.seeds))]
    columns["file"] = [None] * len(rows)
    columns |= {f"factor_{name}": list(values) for name, values in words.items()}
    tables = []
    for name, seen in readings.items():
        read = {f"probe_{factor}": list(values) for factor, values in seen.items()}
        tables.append(pd.DataFrame({"system": name, **columns, **read}))
    return pd.concat(tables, ignore_index=True)


def write_clips(folder: Path, table: pd.DataFrame, shown: Mapping[str, Tensor], count: int, frame_rate: float) -> None:
    """The first ``count`` of each set of videos as ``clips/<number>-<system>.mp4``; their names go into the table."""
    (folder / "clips").mkdir()
    files: list[str | None] = [None] * len(table)
    names, prompts, seeds = (table[column].tolist() for column in ("system", "prompt", "seed"))
    for name, videos in shown.items():
        for number, row in enumerate([row for row, system in enumerate(names) if system == name][:count]):
            file = f"clips/{number:02d}-{name}.mp4"
            said = {"title": str(prompts[row]), "comment": f"{name}, seed {seeds[row]}"}
            write_mp4(folder / file, score_figures.frames_of(videos[number]), frame_rate, said)
            files[row] = file
    table["file"] = files
