"""A trained flow as a pipeline folder that diffusers alone loads and runs: ``reel export --help``."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines import stage
from pipelines.data.contract import require_autoencoder
from pipelines.data.shards import Shards
from pipelines.flow.params import Sampling
from pipelines.generation.clips import load_text_encoder
from pipelines.models.autoencoder import load_autoencoder
from pipelines.models.denoiser import CONDITIONING, VideoDenoiser, averaged
from pipelines.models.lora import merge_lora
from pipelines.progress import Progress
from pipelines.stage import StageError
from pipelines.training import checkpoint

AUTOENCODERS = {"WanTransformer3DModel": "AutoencoderKLWan", "LTXVideoTransformer3DModel": "AutoencoderKLLTXVideo"}
"""What the pipeline of each transformer decodes with."""
REMEDY = "`reel generate` samples it, and diffusers loads its transformer. Pretrained denoisers can be exported."


@dataclass(frozen=True)
class Parts:
    """What a pipeline is made of.

    Attributes:
        denoiser: whole, without an adapter.
        sampling: how it is walked.
        first_frame: whether it was trained to go on from a given first frame.
        facts: of its latents, as ``generator.json`` states them.
    """

    denoiser: VideoDenoiser
    sampling: Sampling
    first_frame: bool
    facts: dict[str, Any]


def read(folder: Path) -> Parts:
    """The parts of a checkpoint, its adapter merged into the base.

    Raises:
        StageError: it is no checkpoint of a flow, or its network is none that a pipeline of diffusers can drive.
    """
    checkpoint.read(folder)
    place = folder / "generator.json"
    if not place.is_file():
        raise StageError(f"{place}: no such file, so {folder} is no checkpoint of a flow.")
    content = json.loads(place.read_text(encoding="utf-8"))
    phase = content["phases"][-1]
    if len(content["phases"]) > 1 or phase["still"] or (phase["start"], phase["end"]) != (1.0, 0.0):
        raise StageError(f"{folder}: walks a path through an anchor, which no pipeline of diffusers does; {REMEDY}")
    network = averaged(folder / phase["network"])
    held = json.loads((network / f"{CONDITIONING}.json").read_text(encoding="utf-8")).get("base", {}).get("weights")
    denoiser = VideoDenoiser.from_pretrained(network, base_weights="fp32")  # small changes survive a merge in float32
    if denoiser.has_positions:
        raise StageError(
            f"{folder}: its network was trained from scratch and takes 6 channels of positions beside the latents, "
            f"which no pipeline of diffusers gives it; {REMEDY}"
        )
    if denoiser.num_classes is not None:
        raise StageError(f"{folder}: its network takes pseudo-classes, which no pipeline of diffusers has; {REMEDY}")
    if denoiser.base is not None:
        merge_lora(denoiser.transformer)
        denoiser.transformer.to(torch.float32 if held == "fp32" else torch.bfloat16)
    sampling = Sampling.model_validate(phase["sampling"])
    return Parts(denoiser, sampling, bool(phase.get("first_frame")), content["latents"])


def scheduler(kind: str, sampling: Sampling) -> Any:
    """A scheduler whose own table, in the pipeline of this transformer, is that of ``sampling``.

    LTX-Video's pipeline hands its scheduler even levels and asks for a shift by resolution; both ends of that line are
    set to our shift. Wan's hands it a number of steps only, with which FlowMatchEuler shifts twice; DPM-Solver's flow
    levels are ours times 0.999, and its first order is Euler's method.
    """
    if kind == "LTXVideoTransformer3DModel":
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

        shift = math.log(sampling.shift)
        return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=shift, max_shift=shift)
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(
        solver_order=1 if sampling.sampler == "euler" else 2,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=sampling.shift,
    )


def pipeline(parts: Parts, latents: Path, autoencoder: Path) -> Any:
    """``WanPipeline`` or ``LTXPipeline`` with all its parts.

    Raises:
        StageError: latents or autoencoder are not those of the checkpoint, or the autoencoder is of another family.
    """
    kind = parts.denoiser.layout.kind
    shards = Shards(latents)
    require_autoencoder(shards.manifest, autoencoder)
    for name in ("autoencoder", "text_encoder"):
        if getattr(shards.manifest, name).digest != parts.facts[name]["digest"]:
            raise StageError(
                f"{latents}: of another {name} than the checkpoint was trained with; give --latents of it."
            )
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
    if kind == "LTXVideoTransformer3DModel":
        from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline

        return LTXPipeline(**common)
    from diffusers.pipelines.wan.pipeline_wan import WanPipeline

    return WanPipeline(**common, expand_timesteps=parts.first_frame)


def card(parts: Parts, name: str) -> str:
    """How to call it so that it samples as in training."""
    is_ltx = parts.denoiser.layout.kind == "LTXVideoTransformer3DModel"
    pipe = "LTXPipeline" if is_ltx else "WanPipeline"
    given = "LTXImageToVideoPipeline" if is_ltx else "WanImageToVideoPipeline"
    _, frames, height, width = parts.facts["shape"]
    strides = parts.facts["autoencoder"]
    guidance = parts.sampling.guidance
    call = {
        "num_frames": 1 + (frames - 1) * strides["temporal_stride"],
        "height": height * strides["spatial_stride"],
        "width": width * strides["spatial_stride"],
        "num_inference_steps": parts.sampling.steps,
        "guidance_scale": guidance.scale if guidance else 1.0,
        "max_sequence_length": parts.denoiser.text_length,
    }
    call |= {"frame_rate": round(parts.facts["frame_rate"])} if is_ltx else {}
    words = "".join(f"    {key}={value},\n" for key, value in call.items())
    image = f"\nIt was also trained to start from a picture: `{given}.from_pretrained(folder)(image=…)`.\n"
    return (
        f"# {name}\n\nMade by Reelgraph's `reel export`; diffusers alone runs it:\n\n"
        f"```python\nfrom diffusers import {pipe}\n\npipe = {pipe}.from_pretrained(folder)\nvideo = pipe(\n"
        f'    "a prompt",\n    negative_prompt="",\n{words}).frames[0]\n```\n{image if parts.first_frame else ""}'
    )


def export(folder: Path, out: Path, latents: Path, autoencoder: Path) -> None:
    """Write the pipeline folder, whole or not at all.

    Raises:
        StageError: as :func:`read` and :func:`pipeline`.
    """
    if out.exists() and not (out / "model_index.json").is_file():
        raise StageError(f"{out}: exists and is no pipeline folder, so it is not replaced; give another --out.")
    parts = read(folder)
    made = pipeline(parts, latents, autoencoder)
    with stage.whole_folder(out) as place:
        made.save_pretrained(place)
        (place / "README.md").write_text(card(parts, checkpoint.read(folder)["stage"]), encoding="utf-8")
    plan = parts.sampling
    if plan.sampler in ("heun", "midpoint"):
        stage.say(f"the checkpoint is walked by {plan.sampler}; the pipeline by DPM-Solver++(2M), also of second order")
    stage.say(
        f"{out}: {type(made).__name__}, {plan.steps} steps, shift {plan.shift:g}; how to call it: {out}/README.md"
    )


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="reel export", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a flow from a pretrained denoiser")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; an earlier export there is replaced")
    parser.add_argument("--latents", type=Path, default=Path("data/latents"), help="that it was trained on")
    parser.add_argument("--autoencoder", type=Path, default=Path("checkpoints/autoencoder"), help="of those latents")
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
