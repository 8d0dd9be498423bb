"""A trained flow as one folder that loads and runs: by diffusers alone where its pipelines can, else by ours.

``reel export --help``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines import chain, origin, run_facts, stage
from pipelines.data.contract import Manifest, require_autoencoder
from pipelines.flow.params import Sampling
from pipelines.generation import pipeline as own
from pipelines.generation.clip_maker import load_text_encoder
from pipelines.generation.diffusers_schedulers import LTX, scheduler, walked
from pipelines.models.autoencoder import load_autoencoder
from pipelines.models.denoiser import VideoDenoiser, averaged
from pipelines.models.lora import merge_lora
from pipelines.progress import Progress
from pipelines.stage import StageError
from pipelines.told import plain
from pipelines.training import checkpoint
from pipelines.training.generator import FILE, read_description, require_flow

AUTOENCODERS = {"WanTransformer3DModel": "AutoencoderKLWan", "LTXVideoTransformer3DModel": "AutoencoderKLLTXVideo"}
"""What the pipeline of each transformer decodes with."""


class NoPipelineError(StageError):
    """No pipeline of diffusers can drive a flow; says why."""


@dataclass(frozen=True)
class Parts:
    """What a pipeline is made of.

    Attributes:
        denoiser: whole, without an adapter.
        stated: how the checkpoint is walked.
        sampling: how the pipeline walks it: the nearest that diffusers can (:func:`walked`).
        first_frame: whether it was trained to go on from a given first frame.
        facts: of its latents, as ``generator.json`` states them.
    """

    denoiser: VideoDenoiser
    stated: Sampling
    sampling: Sampling
    first_frame: bool
    facts: dict[str, Any]

    @property
    def is_ltx(self) -> bool:
        """Whether LTX-Video's pipeline drives it; otherwise Wan's does."""
        return self.denoiser.layout.kind == LTX


def read(folder: Path) -> Parts:
    """The parts of a checkpoint, its adapter merged into the base in float32.

    The weights stay float32 also where training held the base in bf16: a change of a thousandth of a weight is less
    than bf16's step, and after a short training most of the adapter would be rounded away.

    Raises:
        NoPipelineError: its network is none that a pipeline of diffusers can drive.
        StageError: it is no checkpoint of a flow.
    """
    checkpoint.read(folder)
    content = read_description(folder)
    require_flow(folder, content.get("kind", "flow"))
    phase = content["phases"][-1]
    if len(content["phases"]) > 1 or phase["still"] or (phase["start"], phase["end"]) != (1.0, 0.0):
        raise NoPipelineError(f"{folder}: walks a path through an anchor, which no pipeline of diffusers does.")
    network = averaged(folder / phase["network"])
    denoiser = VideoDenoiser.from_pretrained(network, base_weights="fp32")
    if denoiser.has_positions:
        raise NoPipelineError(
            f"{folder}: its network was trained from scratch and takes 6 channels of positions beside the latents, "
            "which no pipeline of diffusers gives it."
        )
    if denoiser.num_classes is not None:
        raise NoPipelineError(f"{folder}: its network takes pseudo-classes, which no pipeline of diffusers has.")
    if denoiser.base is not None:
        merge_lora(denoiser.transformer)
    stated = Sampling.model_validate(phase["sampling"])
    sampling = walked(stated, denoiser.layout.kind)
    return Parts(denoiser, stated, sampling, bool(phase.get("first_frame")), content["latents"])


def pipeline(parts: Parts, latents: Path, autoencoder: Path) -> Any:
    """``WanPipeline`` or ``LTXPipeline`` with all its parts.

    Raises:
        StageError: latents or autoencoder are not those of the checkpoint, or the autoencoder is of another family.
    """
    kind = parts.denoiser.layout.kind
    manifest = Manifest.read(latents)
    require_autoencoder(manifest, autoencoder)
    own.require_same_makers(manifest, parts.facts, latents)
    network = getattr(load_autoencoder(autoencoder), "network", None)
    if type(network).__name__ != AUTOENCODERS[kind]:
        raise StageError(
            f"{autoencoder}: a {type(network).__name__}, but the pipeline of a {kind} decodes with "
            f"{AUTOENCODERS[kind]}."
        )
    tokenizer, text_encoder = load_text_encoder(latents)
    common = {
        "tokenizer": tokenizer,
        "text_encoder": text_encoder,
        "vae": network,
        "transformer": parts.denoiser.transformer,
        "scheduler": scheduler(kind, parts.sampling),
    }
    if kind == LTX:
        from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline

        return LTXPipeline(**common)
    from diffusers.pipelines.wan.pipeline_wan import WanPipeline

    return WanPipeline(**common, expand_timesteps=parts.first_frame)


def card(parts: Parts, name: str) -> str:
    """How to call it so that it samples as `reel generate` does, and what of the checkpoint it cannot do."""
    pipe = "LTXPipeline" if parts.is_ltx else "WanPipeline"
    given = "LTXImageToVideoPipeline" if parts.is_ltx else "WanImageToVideoPipeline"
    _, frames, height, width = parts.facts["shape"]
    strides = parts.facts["autoencoder"]
    guidance = parts.sampling.guidance
    call = {
        "num_frames": 1 + (frames - 1) * strides["temporal_stride"],
        "height": height * strides["spatial_stride"],
        "width": width * strides["spatial_stride"],
        "num_inference_steps": parts.sampling.steps,
        "guidance_scale": guidance.scale if guidance else 1.0,
    }
    length = parts.denoiser.text_length
    if parts.is_ltx:
        call |= {"frame_rate": parts.facts["frame_rate"], "guidance_rescale": guidance.rescale if guidance else 0.0}
    else:
        call |= {"max_sequence_length": length}
    words = "".join(f"    {key}={value},\n" for key, value in call.items())
    before, prompts = (MASKED.format(length=length), MASKED_CALL) if parts.is_ltx else ("", PLAIN_CALL)
    image = (
        f"\nIt was also trained to start from a picture: `{given}.from_pretrained(folder)(image=…)`. Give a picture of "
        "Pillow: of arrays and tensors of another size, diffusers takes the nearest pixels.\n"
    )
    return (
        f"# {name}\n\nMade by Reelgraph's `reel export`; diffusers alone runs it:\n\n"
        f"```python\nfrom diffusers import {pipe}\n\npipe = {pipe}.from_pretrained(folder)\n{before}video = pipe(\n"
        f"{prompts}{words}).frames[0]\n```\n{image if parts.first_frame else ''}"
        f"\n{sentence(parts)}\n\nThe weights are float32. Loaded with `torch_dtype=torch.bfloat16` they are rounded, "
        "and with them the smallest changes of the training.\n"
    )


PLAIN_CALL = '    "a prompt",\n    negative_prompt="",\n'
MASKED = """

def embed(text):  # LTXPipeline lets the text encoder attend to the padding; training and `reel generate` do not
    tokens = pipe.tokenizer([text], padding="max_length", max_length={length}, truncation=True, return_tensors="pt")
    return pipe.text_encoder(**tokens)[0], tokens.attention_mask


wanted, mask = embed("a prompt")
unwanted, empty_mask = embed("")
"""
MASKED_CALL = """    prompt_embeds=wanted,
    prompt_attention_mask=mask,
    negative_prompt_embeds=unwanted,
    negative_prompt_attention_mask=empty_mask,
"""


def sentence(parts: Parts) -> str:
    """Which call of `reel generate` gives the same samples, and where that is not the checkpoint's own way."""
    plan = parts.sampling
    words = f"--sampler {plan.sampler} --steps {plan.steps} --guidance {plan.guidance.scale if plan.guidance else 1:g}"
    if plan == parts.stated:
        return f"From equal noise it gives the samples of `reel generate` ({plan.sampler}, {plan.steps} steps)."
    lost = []
    if plan.sampler != parts.stated.sampler:
        lost.append(f"{parts.stated.sampler} in {parts.stated.steps} steps is {plan.sampler} in {plan.steps} here")
    if plan.guidance != parts.stated.guidance:
        lost.append("its guidance is rescaled, which this pipeline cannot do")
    return f"The checkpoint's own way is another: {'; '.join(lost)}. The same samples: `reel generate {words}`."


def export(folder: Path, out: Path, latents: Path, autoencoder: Path | None = None) -> None:
    """Write the folder, whole or not at all: diffusers' where a pipeline of it can drive the flow, else ours.

    ``autoencoder`` of the latents is looked for beside them where none is given.

    Raises:
        StageError: it is no flow, parts do not belong together, or ``out`` holds something else.
    """
    if out.exists() and not any((out / name).is_file() for name in ("model_index.json", FILE)):
        raise StageError(f"{out}: exists and is no pipeline folder, so it is not replaced; give another --out.")
    if os.path.realpath(out) == os.path.realpath(folder):
        raise StageError(f"--out {out}: is the checkpoint itself; give another folder.")
    require_flow(folder, read_description(folder).get("kind", "flow"))  # before a word on latents
    autoencoder = autoencoder or own.autoencoder_of(latents)
    with stage.whole_folder(out) as place:
        filled = fill(place, folder, latents, autoencoder)
        (place / "README.md").write_text(filled.card, encoding="utf-8")
    carry(out, folder, latents, autoencoder)
    stage.say(filled.note)
    stage.say(f"{out}: {filled.what}; how to call it: {out}/README.md")


@dataclass(frozen=True)
class Filled:
    """What was put into a folder.

    Attributes:
        library: what loads it.
        card: how to call it.
        note: what to know of it, a line.
        what: it is, in a few words.
        kind: class of its transformer, where diffusers loads it.
    """

    library: Literal["diffusers", "reelgraph"]
    card: str
    note: str
    what: str
    kind: str | None = None


def fill(place: Path, folder: Path, latents: Path, autoencoder: Path) -> Filled:
    """Put the whole flow into an empty folder: for diffusers where a pipeline of it can drive the flow, else for us.

    Raises:
        StageError: it is no flow, or parts do not belong together.
    """
    name = checkpoint.read(folder)["stage"]
    try:
        parts = read(folder)
    except NoPipelineError as reason:
        own_card = own.fill(place, folder, latents, autoencoder)
        note = f"{reason} So the folder is one of our own: FlowPipeline.from_pretrained and `reel generate` take it"
        return Filled("reelgraph", own_card, note, "the whole flow with text encoder and autoencoder")
    made = pipeline(parts, latents, autoencoder)
    made.save_pretrained(place)
    plan = parts.sampling
    what = f"{type(made).__name__}, {plan.steps} {plan.sampler} steps, shift {plan.shift:g}, float32"
    return Filled("diffusers", card(parts, name), sentence(parts), what, parts.denoiser.layout.kind)


def carry(out: Path, folder: Path, latents: Path, autoencoder: Path) -> None:
    """Put where it came from into a written folder, and this command as its run."""
    read = {"checkpoint": folder, "latents": latents, "autoencoder": autoencoder}
    told = {"stage": "reel export", "path": out.name, "environment": origin.environment()}
    chain.carry(out, told, read, {name: origin.inside(path) for name, path in read.items()})
    run_facts.leave(out, run_facts.read(out) | {chain.content_hash(out): run_facts.of_this_process()})


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="reel export", description=plain(__doc__))
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a flow")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; an earlier export there is replaced")
    parser.add_argument("--latents", type=Path, default=Path("data/latents"), help="that it was trained on")
    parser.add_argument("--autoencoder", type=Path, help="of those latents; default: found in checkpoints/")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    given = arguments(argv)
    stage.current().progress = Progress("export")
    try:
        export(given.checkpoint, given.out, given.latents, given.autoencoder)
    except (ValueError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
