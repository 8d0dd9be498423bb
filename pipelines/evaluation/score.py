"""Stage ``evaluation``: samples of every generator at fixed prompts and seeds, and their scores beside real clips."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipelines import stage
from pipelines.data.contract import require_autoencoder
from pipelines.data.shards import Shards
from pipelines.data.video import write_mp4
from pipelines.evaluation import figures
from pipelines.evaluation.judge import Clips, Judge, Words, chance, features_of, grouped, measured, train_probe
from pipelines.evaluation.params import EvaluationParams
from pipelines.evaluation.systems import Requests, classes_by_prompt, generate, load_systems
from pipelines.models.autoencoder import load_autoencoder
from pipelines.models.latent_mae import LatentMae
from pipelines.training import checkpoint

REAL, FROZEN, NOISE = "held_out", "frozen", "noise"
"""References: real clips (the ceiling), their first frame standing still, and noise in place of latents."""


class Decoder:
    """Latents to clips by the autoencoder that made them."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.autoencoder: Any = load_autoencoder(folder)
        self.device = device
        self.autoencoder.to(device)

    @torch.no_grad()
    def __call__(self, latents: Tensor, what: str) -> Clips:
        """Decode [N, C, T', H', W'] in parts."""
        parts = []
        for part in latents.split(32):
            parts.append(self.autoencoder.decode(part.to(self.device)).float().cpu())
            stage.report(sum(map(len, parts)), len(latents), f"{what} decoded")
        return Clips(latents, torch.cat(parts))

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Latents of video [N, 3, T, H, W]."""
        return torch.cat([self.autoencoder.encode(part.to(self.device)).float().cpu() for part in video.split(32)])


def real_latents(shards: Shards, rows: Sequence[int]) -> Tensor:
    """Stored latents of some rows, float32."""
    return torch.from_numpy(shards.load(rows, "latents").astype(np.float32))


def factor_words(shards: Shards, rows: Sequence[int]) -> dict[str, list[str]]:
    """Known factors of some rows, by name without ``factor_``; columns with gaps are left out."""
    table = shards.index.iloc[list(rows)]
    columns = [name for name in table.columns if str(name).startswith("factor_") and table[name].notna().all()]
    return {str(name).removeprefix("factor_"): table[name].astype(str).tolist() for name in columns}


def references(decoder: Decoder, real: Clips, seed: int) -> dict[str, Clips]:
    """Clips that no system made: real ones, their first frame repeated, noise."""
    still = real.video[:, :, :1].expand_as(real.video)
    noise = torch.randn(real.latents.shape, generator=torch.Generator().manual_seed(seed))
    return {REAL: real, FROZEN: decoder(decoder.encode(still), "frozen"), NOISE: decoder(noise, "noise")}


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
    params: EvaluationParams, shards: Shards, decoder: Decoder, encoder: LatentMae, real: Clips, words: Words
) -> Judge:
    """Feature spaces and readers, from real clips of the train split."""
    rows = shards.rows("train").tolist()
    train, space = real_latents(shards, rows), params.feature_space
    spaces = {
        "frechet": measured(encoder, train, space.appearance, space),
        "frechet_motion": measured(encoder, train, space.motion, space),
    }
    known = {name: values for name, values in factor_words(shards, rows).items() if name in words}
    probe = train_probe(params, decoder(train, "train clips"), known) if known else None
    return Judge(params, encoder, real, spaces, probe, words)


def score(
    params: EvaluationParams,
    latents: Path,
    autoencoder: Path,
    latent_mae: Path,
    pseudo_classes: Path,
    identity: Path,
    motion: Path,
    unified: Path,
    rectified: Path,
    out: Path,
    metrics: Path,
    plots: Path,
) -> None:
    """Sample, decode, judge, and write ``out`` (samples.parquet, clips/*.mp4), metrics and pictures.

    Raises:
        StageError: an artifact is not what its record says, or a feature named in params does not exist.
    """
    began, device = time.monotonic(), accelerate.PartialState().device or torch.device("cpu")
    shards = Shards(latents)
    rows = shards.rows("validation").tolist()[: params.num_prompts]
    if len(rows) < 2:
        raise stage.StageError(f"{latents}: {len(rows)} held-out clips; an evaluation needs at least two.")
    folders = {
        "rectified_flow": rectified,
        "anchored_flow_identity": identity,
        "anchored_flow_motion": motion,
        "anchored_flow_unified": unified,
    }
    require_autoencoder(shards.manifest, autoencoder)
    checkpoint.read(autoencoder)
    encoder = load_encoder(params, latent_mae, shards)
    systems = load_systems(folders, shards, params.sampling, device)
    classes = classes_by_prompt(shards, pseudo_classes, rows, params.class_neighbours)
    requests = Requests.of(shards, rows, classes, params.seeds)
    decoder = Decoder(autoencoder, device)

    made = {name: generate(name, system, requests, params.batch_size) for name, system in systems.items()}
    clips = {name: decoder(sampled, name) for name, sampled in made.items()}
    every_row = rows * len(params.seeds)
    real = decoder(real_latents(shards, every_row), REAL)
    others = references(decoder, real, params.seeds[0])
    words = factor_words(shards, every_row)
    judge = build_judge(params, shards, decoder, encoder, real, words)

    readings = {name: judge.readings(one) for name, one in (clips | others).items()}
    results = results_of(judge, clips, others, readings, factor_words(shards, shards.rows("train").tolist()))
    table = sample_table(shards, every_row, params, readings, words)
    shown = {REAL: real, **clips}
    with stage.whole_folder(out) as folder:
        write_clips(folder, table, shown, len(rows[: params.num_shown]), shards.manifest.frame_rate)
        table.to_parquet(folder / "samples.parquet", index=False)
    plots.mkdir(parents=True, exist_ok=True)
    prompts = table["prompt"].tolist()[: min(params.num_shown, len(rows))]
    figures.contact_sheet({name: one.video for name, one in shown.items()}, prompts, plots / "contact_sheet.png")
    figures.draw_scores(results, plots / "scores.png")
    stage.write_metrics(metrics, {**results, "seconds": round(time.monotonic() - began, 1)})


def results_of(
    judge: Judge, clips: Mapping[str, Clips], others: Mapping[str, Clips], readings: Mapping[str, Words], train: Words
) -> dict[str, Any]:
    """The metrics file: ``systems`` and ``references`` by name, and why a number is missing."""
    systems = {name: judge.scores(one, readings[name]) for name, one in clips.items()}
    beside = {name: judge.scores(one, readings[name]) for name, one in others.items()}
    unavailable = {f"references/{REAL}/psnr": "real clips are what the others are compared with"}
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
    return {"systems": systems, "references": beside, "num_samples": len(judge.real), "unavailable": unavailable}


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


def write_clips(folder: Path, table: pd.DataFrame, shown: Mapping[str, Clips], count: int, frame_rate: float) -> None:
    """The first ``count`` clips of each set as ``clips/<number>-<system>.mp4``; their names go into the table."""
    (folder / "clips").mkdir()
    files: list[str | None] = [None] * len(table)
    names, prompts, seeds = (table[column].tolist() for column in ("system", "prompt", "seed"))
    for name, clips in shown.items():
        for number, row in enumerate([row for row, system in enumerate(names) if system == name][:count]):
            file = f"clips/{number:02d}-{name}.mp4"
            said = {"title": str(prompts[row]), "comment": f"{name}, seed {seeds[row]}"}
            write_mp4(folder / file, figures.frames_of(clips.video[number]), frame_rate, said)
            files[row] = file
    table["file"] = files
