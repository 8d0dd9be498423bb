"""A checkpoint of a flow with what it needs around it: prompts and a first frame go in, clips come out."""

from __future__ import annotations

import contextlib
import copy
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from av.video.frame import VideoFrame
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from pipelines import stage
from pipelines.data.batches import pad
from pipelines.data.contract import TEXT_ENCODER, Manifest, read_empty_prompt, require_autoencoder
from pipelines.data.picture import Picture
from pipelines.models.autoencoder import load_autoencoder, require_lone_first_frame
from pipelines.models.geometry import latent_frames
from pipelines.stage import StageError
from pipelines.training.generator import Generator

EVALUATIONS = {"euler": 1, "dpm_2m": 1, "heun": 2, "midpoint": 2}
"""Velocities that a step of each sampler asks for, without guidance."""


def load_text_encoder(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and network (T5, umT5, CLIP's text tower …) kept beside the latents.

    Raises:
        StageError: there are none.
    """
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = folder / TEXT_ENCODER
    if not place.is_dir():
        raise StageError(f"{place}: no such folder; these latents were encoded with a text encoder kept elsewhere.")
    config = transformers.AutoConfig.from_pretrained(place)
    kind = getattr(transformers, (config.architectures or ["AutoModel"])[0])
    return transformers.AutoTokenizer.from_pretrained(place), kind.from_pretrained(place).eval()


def embed(prompts: Sequence[str], folder: Path) -> tuple[Tensor, Tensor]:
    """Embeddings [B, L, D] and mask [B, L] by the text encoder kept beside the latents, as the shards hold them.

    Raises:
        StageError: there is none, or none of a prompt's words is known to it.
    """
    tokenizer, network = load_text_encoder(folder)
    embeds = []
    for prompt in prompts:
        numbers = tokenizer(prompt)["input_ids"]
        if prompt and set(numbers) <= {tokenizer.unk_token_id, tokenizer.eos_token_id}:
            place = folder / TEXT_ENCODER
            raise StageError(
                f"{place}: knows none of the words of {textwrap.shorten(prompt, 80)!r}; use words of the captions."
            )
        with torch.no_grad():
            hidden = network(input_ids=torch.tensor([numbers])).last_hidden_state[0]
        embeds.append(hidden.half().float())
    return pad(embeds)


def read_image(path: Path, height: int, width: int) -> Tensor:
    """A picture as one frame of video [1, 3, 1, H, W] in [-1, 1]: upright, resized to cover the size, cropped.

    Raises:
        StageError: the file is no picture.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise StageError(f"{path}: cannot be read as a picture ({str(error).splitlines()[0]}).") from None
    covered = Picture(VideoFrame.from_ndarray(pixels, format="rgb24")).cover(height, width)
    return torch.from_numpy(covered).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1.0


@dataclass(frozen=True)
class Wanted:
    """What is asked of every clip: None means as in training.

    Attributes:
        num_frames: of the video.
        size: (height, width) in pixels.
        image: a picture to start from.
        negative: a prompt that guidance leads away from; None: the empty prompt.
    """

    num_frames: int | None = None
    size: tuple[int, int] | None = None
    image: Path | None = None
    negative: str | None = None


class ClipMaker:
    """Makes clips with a flow checkpoint, the latents it was trained on (text encoder) and their autoencoder.

    Raises:
        StageError: the three do not belong together.
    """

    def __init__(self, generator: Generator, latents: Path, autoencoder: Path) -> None:
        self.generator, self.latents = generator, latents
        self.manifest = Manifest.read(latents)
        require_autoencoder(self.manifest, autoencoder)
        generator.require_autoencoder(self.manifest.autoencoder.digest, str(autoencoder))
        self.device = generator.device
        self.autoencoder = load_autoencoder(autoencoder).to(self.device)

    def using(self, generator: Generator) -> ClipMaker:
        """The same with the generator walked in another way."""
        other = copy.copy(self)
        other.generator = generator
        return other

    def shape(self, wanted: Wanted) -> tuple[int, int, int, int]:
        """(C, T, H, W) of the latents of such clips.

        Raises:
            StageError: the frames or pixels do not fit autoencoder and denoiser; names the nearest that do.
        """
        channels, frames, height, width = self.generator.shape
        facts, patch = self.manifest.autoencoder, self.generator.patch
        if wanted.num_frames is not None:
            frames = latent_frames(wanted.num_frames, facts.temporal_stride)
            if frames % patch[0]:
                raise StageError(
                    f"--num-frames {wanted.num_frames}: {frames} latent frames, but this denoiser takes multiples of "
                    f"{patch[0]}."
                )
        if wanted.size is not None:
            units = [facts.spatial_stride * side for side in patch[1:]]
            near = [max(unit, round(size / unit) * unit) for size, unit in zip(wanted.size, units, strict=True)]
            if tuple(near) != tuple(wanted.size):
                raise StageError(
                    f"--size {wanted.size[0]}x{wanted.size[1]}: height must be a multiple of {units[0]} and width of "
                    f"{units[1]}, for this autoencoder and denoiser; nearest: {near[0]}x{near[1]}."
                )
            height, width = (size // facts.spatial_stride for size in wanted.size)
        return channels, frames, height, width

    def clips(
        self, prompts: Sequence[str], seeds: Sequence[int], wanted: Wanted, batch_size: int = 8
    ) -> Iterator[np.ndarray]:
        """A clip uint8 [T, H, W, 3] for each prompt and seed, in order; it does not depend on ``batch_size``.

        Raises:
            StageError: a prompt has no known word or is too long, a size does not fit, or the flow takes no image.
        """
        shape = self.shape(wanted)
        embeds, mask = embed(prompts, self.latents)
        empty = torch.from_numpy(read_empty_prompt(self.latents))
        if wanted.negative is not None:
            empty = embed([wanted.negative], self.latents)[0][0]
        first = self._first_frame(wanted.image, shape) if wanted.image is not None else None
        parts = [slice(start, start + batch_size) for start in range(0, len(prompts), batch_size)]
        with self._progress(len(parts)):
            for part in parts:
                count = len(prompts[part])
                told = {"prompt_embeds": embeds[part], "prompt_mask": mask[part], "empty_prompt": empty}
                if first is not None:
                    told["first_frame"] = first.expand(count, -1, -1, -1, -1)
                try:
                    sampled = self.generator.sample(told, seeds[part], shape)
                except ValueError as error:
                    raise StageError(str(error)) from None
                for one in sampled:
                    yield self._decoded(one)

    def _decoded(self, latents: Tensor) -> np.ndarray:
        with torch.no_grad():
            video = self.autoencoder.decode(latents[None].to(self.device))[0]
        pixels = ((video.float().clamp(-1, 1) + 1) * 127.5).round().byte()
        return pixels.permute(1, 2, 3, 0).cpu().contiguous().numpy()

    def _first_frame(self, image: Path, shape: tuple[int, int, int, int]) -> Tensor:
        """Clean latents [1, C, 1, H, W] of the picture."""
        if not all(phase.first_frame for phase in self.generator.phases):
            raise StageError(
                f"{self.generator.folder}: was not trained to start from a picture; train rectified_flow with a "
                "first_frame_share above 0, or leave --image out."
            )
        require_lone_first_frame(self.autoencoder, "--image")
        side = self.manifest.autoencoder.spatial_stride
        with torch.no_grad():
            return self.autoencoder.encode(read_image(image, shape[2] * side, shape[3] * side).to(self.device))

    @contextlib.contextmanager
    def _progress(self, batches: int) -> Iterator[None]:
        """Reports every evaluation of a denoiser."""
        plans = [phase.sampling for phase in self.generator.phases]
        each = [plan.steps * EVALUATIONS[plan.sampler] * (2 if plan.guidance else 1) for plan in plans]
        total, done = batches * sum(each), 0

        def tick(*_: Any) -> None:
            nonlocal done
            done += 1
            stage.report(done, total, "evaluation")

        networks = {id(phase.denoiser): phase.denoiser for phase in self.generator.phases}
        hooks = [network.register_forward_hook(tick) for network in networks.values()]  # type: ignore[attr-defined]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
