"""What the numbers of the stages mean: unit, reading, and which of them lead the page.

Patterns are tried in order against a metric's last words (``psnr``, ``*/nmi``); a number that nobody explains is still
shown. Thresholds and chance levels are data of the stages, not of this file.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Meaning:
    """How to read a number. ``better`` is "higher", "lower", a target such as "near 1", or ""."""

    unit: str
    text: str
    better: str = ""


MEANINGS: tuple[tuple[str, Meaning], ...] = (
    ("rejected/*", Meaning("files", "refused for this reason; each is a row of rejected.parquet")),
    ("not_used/passed_over*", Meaning("files", "of this ending, neither wanted videos or pictures nor text")),
    ("not_used/*", Meaning("", "what the source only names, or could not be got")),
    ("files_deinterlaced", Meaning("files", "interlaced, made into whole frames")),
    ("files_tone_mapped", Meaning("files", "of HDR, tone-mapped")),
    ("gap_seconds", Meaning("s", "of the files used without a frame near the wanted time")),
    ("held_seconds", Meaning("s", "of the files used in which a frame is shown on")),
    ("*source_seconds", Meaning("s", "length of the files used")),
    ("cut_seconds", Meaning("s", "in clips, before they are judged")),
    ("footage_seconds", Meaning("s", "in the clips that are kept")),
    ("psnr_worst*", Meaning("dB", "PSNR of the clip that is reconstructed worst", "higher")),
    ("compression", Meaning("x", "numbers of the video per number of the latents")),
    ("gates/*", Meaning("", "value of the gate of this name")),
    ("systems/*/psnr", Meaning("dB", "likeness to the real clip of the same prompt", "higher")),
    ("*psnr*", Meaning("dB", "peak signal-to-noise ratio of decoded frames against the file's frames", "higher")),
    ("rollout/action_accuracy*", Meaning("", "frames of rollouts whose keys are read exactly as given", "higher")),
    ("reader/action_accuracy*", Meaning("", "the same on real clips: what a rollout could reach")),
    ("rollout/counterfactual*", Meaning("", "one start and noise under several actions, read as told", "higher")),
    ("rollout/return_distance_still*", Meaning("", "the same held still on the way back: what is no coming back", "")),
    ("rollout/return_distance*", Meaning("", "after out and back, over the distance at the turn: 0 is back", "lower")),
    (
        "rollout/identity_agreement*",
        Meaning("", "frames whose identity (where it can be read) is read as the start's", "higher"),
    ),
    ("rollout/axis_correlation*", Meaning("", "correlation of the mouse as read and as given", "higher")),
    ("reader/axis_correlation*", Meaning("", "the same on real clips: below 0.5 rollouts are not judged by it")),
    ("rollout/seam_ratio*", Meaning("", "change where chunks meet over the change elsewhere", "near 1")),
    ("rollout/error_frozen*", Meaning("", "squared pixel error of standing still, by frame", "")),
    ("rollout/error*", Meaning("", "squared pixel error to the real clip under its actions, by frame", "lower")),
    ("rollout/feature_distance*", Meaning("", "distance of the reader's features to real clips'", "lower")),
    (
        "validation/loss_*_actions",
        Meaning("", "held-out loss told other actions or none: above loss where they matter"),
    ),
    ("*kernel_distance_motion*", Meaning("", "unbiased kernel distance to real test clips, motion features", "lower")),
    ("*kernel_distance*", Meaning("", "unbiased kernel distance to real test clips: 0 as real, may be below", "lower")),
    ("*variety*", Meaning("", "spread of the samples in feature space over that of real clips", "near 1")),
    ("*copied_share*", Meaning("", "samples that are nearly a training clip; real held-out clips are not", "lower")),
    ("*frechet_motion*", Meaning("", "Fréchet distance to real clips in features of motion alone", "lower")),
    ("*frechet*", Meaning("", "Fréchet distance to real clips in the latent MAE's feature space", "lower")),
    (
        "*motion_ratio*",
        Meaning("", "variation over frames relative to real clips: 0 is frozen, 1 is as the data", "near 1"),
    ),
    ("*missing_error*", Meaning("", "squared error of latent frames that were not given", "lower")),
    ("*interpolation_error*", Meaning("", "squared error of latent frames that interpolation fills in", "lower")),
    ("validation/gain*", Meaning("", "share of the interpolation's missing-frame error that is taken away", "higher")),
    ("*spread_share*", Meaning("", "spread of samples over that of the data; near 0 is deterministic", "near 1")),
    ("validation/distance*", Meaning("", "energy distance of what bends clips to that of training clips", "lower")),
    ("*local_vs_global_ratio*", Meaning("", "variation over frames relative to the data: 0 is frozen", "near 1")),
    ("*temporal_consistency*", Meaning("", "mean cosine similarity of neighbouring frames; 1 stands still", "as real")),
    ("*frame_difference*", Meaning("gray levels", "mean difference of neighbouring frames, of 255", "as real")),
    ("*nmi_most", Meaning("", "the most that the normalised mutual information could be with classes of these sizes")),
    ("*nmi*", Meaning("", "normalised mutual information of classes with a known factor: 0 none, 1 all", "higher")),
    ("*/ari*", Meaning("", "adjusted Rand index: agreement of two clusterings, 0 is chance, 1 is equal", "higher")),
    (
        "*agreement*",
        Meaning("", "share of samples in which the probe reads the factor that the prompt names", "higher"),
    ),
    ("*silhouette*", Meaning("", "how much closer samples are to their own class than to the next: -1 to 1", "higher")),
    ("*purity*", Meaning("", "share of samples that carry their class's most frequent value", "higher")),
    ("*entropy*", Meaning("", "how evenly classes are used: 1 is evenly", "higher")),
    ("*effective_classes*", Meaning("classes", "number of evenly used classes with the same entropy")),
    ("*participation_ratio*", Meaning("dimensions", "directions that carry the features' variance", "higher")),
    ("*effective_rank*", Meaning("dimensions", "directions that carry the features' variance", "higher")),
    ("*recall*", Meaning("", "share of queries whose nearest neighbour is right", "higher")),
    ("*map*", Meaning("", "mean average precision of retrieval", "higher")),
    ("*probe*", Meaning("", "held-out accuracy of a small reader of the known factor", "higher")),
    ("*local_vs_global*", Meaning("", "variation over frames relative to the data: 0 is frozen", "near 1")),
    ("*rankme*", Meaning("dimensions", "effective rank of the features", "higher")),
    ("*_std", Meaning("", "standard deviation over repeats")),
    ("*gain*", Meaning("x", "relative to chance", "higher")),
    ("*largest_share*", Meaning("", "share of samples in the fullest class", "lower")),
    ("*explained*", Meaning("", "share of the target's variance that is predicted", "higher")),
    ("*cos_sim*", Meaning("", "cosine similarity of predicted and true velocity", "higher")),
    ("resumes", Meaning("", "times the run was taken up again after a stop")),
    ("num_*", Meaning("", "count")),
    ("*shard_mib", Meaning("MiB", "size of all shards")),
    ("splits/*", Meaning("samples", "in this split")),
    ("loss/*", Meaning("", "training loss of the last logged step", "lower")),
    ("validation/loss*", Meaning("", "loss on held-out samples", "lower")),
    ("grad_norm/*", Meaning("", "norm of the gradient before clipping")),
    ("lr/*", Meaning("", "learning rate of the last logged step")),
    ("*samples_per_second*", Meaning("samples/s", "speed of the work")),
    ("*frames_per_second*", Meaning("frames/s", "speed of the work")),
    ("*clips_per_second*", Meaning("clips/s", "speed of the work")),
    ("memory/*gib", Meaning("GiB", "peak memory of the process")),
    ("steps", Meaning("steps", "optimizer updates made")),
    ("*seconds*", Meaning("s", "wall time of the work")),
    ("*parameters*", Meaning("", "trainable weights")),
    ("*bytes*", Meaning("bytes", "size on disk")),
)


def meaning(name: str) -> Meaning:
    """How to read the metric ``name`` (slash-joined); empty where nothing is known."""
    low = name.lower()
    return next((meaning for pattern, meaning in MEANINGS if fnmatchcase(low, pattern)), Meaning("", ""))


SCORES = {
    "kernel_distance": "kernel distance",
    "kernel_distance_motion": "kernel distance, motion",
    "motion_ratio": "motion ratio",
    "variety": "variety",
    "copied_share": "copied",
    "frechet": "Fréchet distance",
    "frechet_motion": "Fréchet, motion",
    "psnr": "PSNR",
    "temporal_consistency": "temporal consistency",
    "frame_difference": "frame difference",
    "agreement/all_identity": "identity (mean)",
    "agreement/all_motion": "motion (mean)",
    "agreement/all_scene": "scene (mean)",
}
"""Scores of the evaluation in the order and words of the page; others follow, by their own names."""

NAMES = {"held_out": "real clips, held out", "frozen": "first frame repeated", "chance": "most frequent value"}
"""References of the evaluation in words."""

CHANCE_WORDS = (
    "chance",
    "fair_die",
    "random",
    "baseline",
    "ceiling",
    "reference",
    "real",
    "untrained",
    "mean_colour",
    "patch_pca",
)
"""Words in a metric's name that say it is a level to compare with."""


@dataclass(frozen=True)
class Headline:
    """A number that leads the page: the first metric of ``stage`` that matches one of ``patterns``."""

    stage: str
    patterns: tuple[str, ...]
    label: str
    text: str


HEADLINES = (
    Headline("autoencoder", ("psnr", "*held_out*psnr", "*psnr"), "reconstruction", "PSNR on held-out clips"),
    Headline("diagnostics", ("*nmi*identity", "*identity*nmi"), "classes know identity", "NMI with identity factors"),
    Headline("diagnostics", ("*nmi*motion", "*motion*nmi"), "classes know motion", "NMI with motion factors"),
)


if __name__ == "__main__":  # `reel ablate` asks which way numbers are better
    print(json.dumps({name: meaning(name).better for name in sys.argv[1:]}))
