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
from torch import Tensor

from pipelines import stage
from pipelines.data.batches import pad
from pipelines.data.contract import TEXT_ENCODER, Manifest, read_empty_prompt, require_autoencoder
from pipelines.data.limits import VideoError
from pipelines.data.picture import Picture
from pipelines.flow.corruption import REPLACED
from pipelines.flow.keyframes import uniform
from pipelines.generation.storyboard import Given, held, latent_places, pixels
from pipelines.models.autoencoder import load_autoencoder, require_lone_first_frame
from pipelines.models.geometry import latent_frames
from pipelines.models.streaming import decoded_in_pieces
from pipelines.stage import StageError
from pipelines.training.generator import Generator


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
        StageError: the file is no picture, or far longer than the size asks for.
    """
    whole = Picture(VideoFrame.from_ndarray(np.ascontiguousarray(pixels(path)), format="rgb24"))
    try:
        covered = whole.cover(height, width)
    except VideoError as error:
        raise StageError(f"{path}: {error}: little of it would be left; crop it nearer to that shape.") from None
    return torch.from_numpy(covered).permute(2, 0, 1)[None, :, None].float() / 127.5 - 1.0


@dataclass(frozen=True)
class Wanted:
    """What is asked of every clip: None means as in training.

    Attributes:
        num_frames: of the video.
        size: (height, width) in pixels.
        image: a picture to start from.
        negative: a prompt that guidance leads away from; None: the empty prompt.
        refiner: of whose keyframes the flow's sample gives, and which makes the other frames anew.
    """

    num_frames: int | None = None
    size: tuple[int, int] | None = None
    image: Path | None = None
    negative: str | None = None
    refiner: Generator | None = None


def keyframes_of(clips: Tensor, refiner: Generator) -> dict[str, Tensor]:
    """Frames of a flow's samples [B, C, T, H, W] as keyframes: ones that may be corrected.

    Those that the refiner was trained from, if they were always the same; evenly spaced ones otherwise.
    """
    count, frames = len(clips), clips.shape[2]
    mask = torch.zeros(count, frames, dtype=torch.bool)
    evenly = uniform(frames, min(frames, refiner.facts["num_keyframes"]))
    mask[:, refiner.facts.get("keyframes", evenly)] = True
    sure = REPLACED * mask.float()
    return {"keyframes": clips, "keyframe_mask": mask.to(clips.device), "keyframe_confidence": sure.to(clips.device)}


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

    def video_shape(self, wanted: Wanted) -> tuple[int, int, int]:
        """Frames, height and width of such clips in pixels."""
        _, frames, height, width = self.shape(wanted)
        facts = self.manifest.autoencoder
        side = facts.spatial_stride
        return 1 + (frames - 1) * facts.temporal_stride, height * side, width * side

    def clips(
        self, prompts: Sequence[str], seeds: Sequence[int], wanted: Wanted, batch_size: int = 8
    ) -> Iterator[np.ndarray]:
        """A clip uint8 [T, H, W, 3] for each prompt and seed, in order; it does not depend on ``batch_size``.

        Raises:
            StageError: as :meth:`latents_of`.
        """
        for latents in self.latents_of(prompts, seeds, wanted, batch_size):
            yield self._decoded(latents)

    def latents_of(
        self, prompts: Sequence[str], seeds: Sequence[int], wanted: Wanted, batch_size: int = 8
    ) -> Iterator[Tensor]:
        """Latents [C, T', H', W'] of a clip for each prompt and seed, for :meth:`frames`.

        Raises:
            StageError: a prompt has no known word or is too long, a size does not fit, or the flow takes no image.
        """
        shape = self.shape(wanted)
        if wanted.refiner is not None:
            self._require_refiner(wanted.refiner)
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
                    if wanted.refiner is not None:
                        sampled = wanted.refiner.sample({**told, **keyframes_of(sampled, wanted.refiner)}, seeds[part])
                except ValueError as error:
                    raise StageError(str(error)) from None
                yield from sampled

    def frames(self, latents: Tensor) -> Iterator[np.ndarray]:
        """A clip of latents [C, T', H', W'] in pieces uint8 [t, H, W, 3]; memory does not grow with it."""
        for piece in decoded_in_pieces(self.autoencoder, latents[None].to(self.device)):
            pixels = ((piece[0].float().clamp(-1, 1) + 1) * 127.5).round().byte()
            yield pixels.permute(1, 2, 3, 0).cpu().contiguous().numpy()

    def _require_refiner(self, refiner: Generator) -> None:
        if "keyframes" not in refiner.needs:
            raise StageError(f"{refiner.folder}: no refiner, so it takes no keyframes; leave --refine out.")
        refiner.require_autoencoder(self.manifest.autoencoder.digest, f"that of {self.latents}")

    def from_keyframes(
        self, given: Given, prompt: str, seed: int, wanted: Wanted, interpolate: bool = False
    ) -> tuple[np.ndarray, list[int]]:
        """A clip uint8 [T, H, W, 3] with what is given in its places, and which latent frames that is.

        Raises:
            StageError: frames lie outside the clip or two in one latent frame, a size or the prompt does not fit.
        """
        stride = self.manifest.autoencoder.temporal_stride
        _, frames, height, width = self.shape(wanted)
        num_frames, side = 1 + (frames - 1) * stride, self.manifest.autoencoder.spatial_stride
        places = latent_places(given, num_frames, stride)
        with torch.no_grad():
            clip = self.autoencoder.encode(
                held(given, num_frames, stride, (height * side, width * side)).to(self.device)
            )
        mask = torch.zeros(1, frames, dtype=torch.bool, device=self.device)
        mask[:, places] = True
        empty = torch.from_numpy(read_empty_prompt(self.latents))
        told = {"keyframes": clip, "keyframe_mask": mask, "empty_prompt": empty}
        if prompt:
            told["prompt_embeds"], told["prompt_mask"] = embed([prompt], self.latents)
        try:
            made = self.generator.starting_clips(told) if interpolate else self.generator.sample(told, [seed])
        except ValueError as error:
            raise StageError(str(error)) from None
        assert made is not None
        return self._decoded(made[0]), places

    def _decoded(self, latents: Tensor) -> np.ndarray:
        return np.concatenate(list(self.frames(latents)))

    def _first_frame(self, image: Path, shape: tuple[int, int, int, int]) -> Tensor:
        """Clean latents [1, C, 1, H, W] of the picture."""
        if "first_frame" not in self.generator.takes:
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
        total, done = batches * self.generator.evaluations, 0

        def tick(*_: Any) -> None:
            nonlocal done
            done += 1
            stage.report(done, total, "evaluation")

        hooks = [network.register_forward_hook(tick) for network in self.generator.networks]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
