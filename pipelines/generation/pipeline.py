"""One folder with all that sampling needs, and one object that loads it: a prompt goes in, a video comes out.

``reel export`` writes the folder of every flow that no pipeline of diffusers can drive. It is the checkpoint, whole and
with its averaged weights alone, beside what stands around it in the project::

    generator.json, checkpoint.json, README.md   how it is walked, where it came from, how to call it
    denoiser/ identity/ … or the root            the networks
    autoencoder/                                 that decodes its latents
    latents/                                     text encoder, the empty prompt, and what the latents are
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines import chain, stage
from pipelines.data.contract import (
    EMPTY_PROMPT,
    MANIFEST,
    TEXT_ENCODER,
    Manifest,
    find_autoencoder,
    require_autoencoder,
)
from pipelines.flow.params import Guidance
from pipelines.generation.clip_maker import ClipMaker, Wanted
from pipelines.models.denoiser import VideoDenoiser, averaged
from pipelines.models.lora import merge_lora
from pipelines.stage import StageError
from pipelines.training import checkpoint
from pipelines.training.generator import FILE, Generator, read_description, require_flow

LATENTS, AUTOENCODER = "latents", "autoencoder"
NOT_GIVEN_AWAY = "validation", "metrics.jsonl"
"""Of a checkpoint in a folder to give away: its validations show clips of the data, and it loads without."""
LATENTS_HERE, CHECKPOINTS_HERE = Path("data/latents"), Path("checkpoints")
"""Where a project has what a checkpoint without them was trained with."""


def surroundings(folder: Path, latents: Path | None = None, autoencoder: Path | None = None) -> tuple[Path, Path]:
    """Where text encoder and autoencoder of a checkpoint stand: as given, inside it, or in the project."""
    if latents is None:
        latents = folder / LATENTS if (folder / LATENTS).is_dir() else LATENTS_HERE
    if autoencoder is None and (folder / AUTOENCODER).is_dir():
        autoencoder = folder / AUTOENCODER
    return latents, autoencoder or autoencoder_of(latents)


def autoencoder_of(latents: Path) -> Path:
    """The autoencoder of a project that made these latents.

    Raises:
        ContractError: there are no latents.
    """
    return find_autoencoder(Manifest.read(latents).autoencoder.digest, CHECKPOINTS_HERE)


class FlowPipeline:
    """A flow with all that it needs.

    Attributes:
        generator: the flow itself.
        clips: turns prompts into clips with it.
    """

    def __init__(self, generator: Generator, clips: ClipMaker) -> None:
        self.generator, self.clips = generator, clips

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: torch.device | str | None = None) -> FlowPipeline:
        """A folder that ``reel export`` wrote, or a checkpoint in a project; on CUDA where there is one.

        Raises:
            StageError: the folder holds no flow, a weight is damaged, or its parts do not belong together.
        """
        place = Path(folder)
        checkpoint.read(place)
        generator = Generator.load(place, device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(generator, ClipMaker(generator, *surroundings(place)))

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | None = None,
        image: Path | str | None = None,
        seed: int = 0,
        batch_size: int = 8,
    ) -> Any:
        """A video, an array uint8 [T, H, W, 3], or a list of one for each prompt; the arguments have diffusers' names.

        What is not given is as in training. ``num_inference_steps`` are shared out over the phases, ``guidance_scale``
        (1: none) changes phases that have guidance; the clips have the seeds ``seed``, ``seed`` + 1, …

        Raises:
            StageError: a prompt has no known word or is too long, a size does not fit, or one of height and width is
                missing.
        """
        if (height is None) != (width is None):
            raise StageError("height and width: give both, or neither.")
        size = (height, width) if height is not None and width is not None else None
        guided = guidance_scale is not None and guidance_scale > 1.0
        guidance = Guidance(scale=guidance_scale, rescale=0.0) if guidance_scale is not None and guided else None
        generator = self.generator.with_sampling(num_inference_steps, guidance)
        if guidance_scale is not None and not guided:
            generator = generator.without_guidance()
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        wanted = Wanted(num_frames, size, Path(image) if image is not None else None, negative_prompt)
        seeds = range(seed, seed + len(prompts))
        made = list(self.clips.using(generator).clips(prompts, seeds, wanted, batch_size))
        return made[0] if isinstance(prompt, str) else made


# ---- writing it ---------------------------------------------------------------------------------------------------


def save(folder: Path, out: Path, latents: Path, autoencoder: Path) -> None:
    """Write everything that sampling a checkpoint needs into one folder, whole or not at all.

    Raises:
        StageError: it is no flow, or latents or autoencoder are not those of the checkpoint.
    """
    with stage.whole_folder(out) as place:
        (place / "README.md").write_text(fill(place, folder, latents, autoencoder), encoding="utf-8")


def fill(place: Path, folder: Path, latents: Path, autoencoder: Path) -> str:
    """Put everything that sampling a checkpoint needs into an empty folder; returns its card.

    Raises:
        StageError: latents or autoencoder are not those of the checkpoint.
    """
    record, description = checkpoint.read(folder), read_description(folder)
    require_flow(folder, description.get("kind", "flow"))
    manifest = Manifest.read(latents)
    require_autoencoder(manifest, autoencoder)
    require_same_makers(manifest, description["latents"], latents)
    for name in {phase["network"] for phase in description["phases"]}:
        denoiser = VideoDenoiser.from_pretrained(averaged(folder / name), base_weights="fp32")
        if denoiser.base is not None:
            merge_lora(denoiser.transformer)
            denoiser.base = None
        denoiser.save_pretrained(place / name)
    is_ours = (autoencoder / "checkpoint.json").is_file()  # the hash of any other folder is of all its files
    left = shutil.ignore_patterns(*NOT_GIVEN_AWAY) if is_ours else None
    shutil.copytree(autoencoder, place / AUTOENCODER, ignore=left)
    chain.name_again(place / AUTOENCODER)
    (place / LATENTS).mkdir()
    for name in (MANIFEST, EMPTY_PROMPT):
        shutil.copy2(latents / name, place / LATENTS / name)
    shutil.copytree(latents / TEXT_ENCODER, place / LATENTS / TEXT_ENCODER)
    (place / FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    stage.write_json(place / "checkpoint.json", {**record, "weights": checkpoint.weights(place)})
    return card(record["stage"], description, manifest)


def require_same_makers(manifest: Manifest, facts: dict[str, Any], latents: Path) -> None:
    """Check that latents are of the autoencoder and the text encoder that a checkpoint was trained with.

    Raises:
        StageError: they are not.
    """
    for name in ("autoencoder", "text_encoder"):
        if getattr(manifest, name).digest != facts[name]["digest"]:
            raise StageError(
                f"{latents}: of another {name} than the checkpoint was trained with; give --latents of it."
            )


def card(name: str, description: dict[str, Any], manifest: Manifest) -> str:
    """How to call it."""
    _, frames, height, width = description["latents"]["shape"]
    facts = manifest.autoencoder
    call = {
        "num_frames": 1 + (frames - 1) * facts.temporal_stride,
        "height": height * facts.spatial_stride,
        "width": width * facts.spatial_stride,
        "num_inference_steps": sum(phase["sampling"]["steps"] for phase in description["phases"]),
    }
    words = "".join(f"    {key}={value},\n" for key, value in call.items())
    return (
        f"# {name}\n\nMade by Reelgraph's `reel export`: everything that sampling needs, in one folder.\n\n"
        "```python\nfrom pipelines.generation.pipeline import FlowPipeline\n\n"
        "pipe = FlowPipeline.from_pretrained(folder)\n"
        f'video = pipe(\n    prompt="a prompt",\n{words})  # uint8 [T, H, W, 3]\n```\n\n'
        f"Or `reel generate --checkpoint FOLDER --prompt … --out clip.mp4`; {manifest.frame_rate:g} frames/s.\n"
    )
