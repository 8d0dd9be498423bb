"""Exported pipelines: diffusers alone loads and runs them, and its sampler and ours agree."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx import LTXPipeline
from diffusers.pipelines.ltx.pipeline_ltx_image2video import LTXImageToVideoPipeline
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipelines.flow.params import Guidance
from pipelines.flow.sampling import seeded_noise
from pipelines.generation import export, rectified_flow
from pipelines.generation.clip_maker import embed, read_image
from pipelines.models.backbones import packed, unpacked
from pipelines.models.denoiser import VideoDenoiser, averaged
from pipelines.models.lora import FILE
from pipelines.provenance import lineage
from pipelines.stage import digest, write_json
from pipelines.training import checkpoint
from pipelines.training.generator import CLOCKS, Generator
from tests.generation.test_generate import write_text_encoder
from tests.generation.toy import CHANNELS, DIM, FRAMES, SIDE, WORDS, rectified, write_latents
from tests.models.tiny_pretrained import block, ltx, ltx_vae, save, wan, wan_vae

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers, numpy 2
SAMPLING = {"sampler": "euler", "steps": 4, "shift": 3.0, "guidance": {"scale": 2.0, "rescale": 0.0}}
GRID = (FRAMES, SIDE, SIDE)
PROMPT = "red square"


class Explicit(FlowMatchEulerDiscreteScheduler):
    """diffusers' Euler scheduler that is given its levels, whatever number of steps a pipeline asks for."""

    def given(self, sigmas: torch.Tensor) -> Explicit:
        self.levels = sigmas[:-1].tolist()
        return self

    def set_timesteps(self, *_: Any, **options: Any) -> None:
        super().set_timesteps(sigmas=self.levels, device=options.get("device"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained adapter of each family, and its export."""
    root, found = tmp_path_factory.mktemp("export"), {}
    for name, network, vae, strides in (("wan", wan, wan_vae, (4, 8)), ("ltx", ltx, ltx_vae, (8, 32))):
        folder = root / name
        vae().save_pretrained(folder / "vae")
        latents = write_latents(folder / "latents", autoencoder=digest(folder / "vae"))
        manifest = json.loads((latents / "manifest.json").read_text())
        manifest["autoencoder"] |= {"temporal_stride": strides[0], "spatial_stride": strides[1]}
        (latents / "manifest.json").write_text(json.dumps(manifest))
        write_text_encoder(latents / "text_encoder")
        denoiser = block(save(folder / "base", network()))
        params = rectified(steps=3, denoiser=denoiser, first_frame_share=0.5, sampling=SAMPLING)
        places = {"out": folder / "flow", "metrics": folder / "flow.json", "plots": folder / "plots"}
        rectified_flow.train(params, latents, **places)
        assert run(folder, folder / "pipeline") == 0
        found[name] = folder
    return found


def variant(made: dict[str, Path], name: str, place: Path, **sampling: Any) -> Path:
    """The same checkpoint as if it had been trained to be walked in another way, and its export."""
    folder = place / name
    shutil.copytree(made[name], folder, ignore=shutil.ignore_patterns("pipeline"))
    path = folder / "flow" / "generator.json"
    content = json.loads(path.read_text())
    content["phases"][0]["sampling"] |= sampling
    path.write_text(json.dumps(content))
    assert run(folder, folder / "pipeline") == 0
    return folder


def by_the_card(folder: Path) -> tuple[torch.Tensor, dict[str, Any]]:
    """Latents by the card's own code, from our noise, and the arguments it gave."""
    code = (folder / "pipeline" / "README.md").read_text().split("```python")[1].split("```")[0]
    noise, told = seeded_noise([3], (CHANNELS, *GRID)), {}

    def call(pipe: Any, *prompts: str, **given: Any) -> Any:
        told.update(given)
        pipe.set_progress_bar_config(disable=True)
        is_ltx = isinstance(pipe, LTXPipeline)
        latents = packed(noise, (1, 1, 1)) if is_ltx else noise
        made = pipe(*prompts, **given, latents=latents, output_type="latent").frames
        return SimpleNamespace(frames=[unpacked(made, GRID, (1, 1, 1)) if is_ltx else made])

    names: dict[str, Any] = {"folder": folder / "pipeline", "call": call}
    code = code.replace("video = pipe(", "video = call(pipe, ").replace("a prompt", PROMPT)
    with torch.no_grad():
        exec(compile(code, "card", "exec"), names)
    return names["video"], told


def as_the_card_says(folder: Path) -> torch.Tensor:
    """Our latents by the words of `reel generate` that the card names; none where it is the checkpoint's own way."""
    card = (folder / "pipeline" / "README.md").read_text()
    generator = Generator.load(folder / "flow")
    if "The same samples: `reel generate" in card:
        words = card.split("The same samples: `reel generate ")[1].split("`")[0].split()
        told = dict(zip(words[::2], words[1::2], strict=True))
        guidance = Guidance(scale=float(told["--guidance"]), rescale=0.0)
        generator = generator.with_sampling(int(told["--steps"]), guidance, told["--sampler"])
    embeds, mask = embed([PROMPT], folder / "latents")
    empty, _ = embed([""], folder / "latents")
    told = {"prompt_embeds": embeds, "prompt_mask": mask, "empty_prompt": empty[0]}
    return generator.sample(told, seeds=[3])


def run(folder: Path, out: Path, flow: Path | None = None) -> int:
    words = {
        "checkpoint": flow or folder / "flow",
        "out": out,
        "latents": folder / "latents",
        "autoencoder": folder / "vae",
    }
    return export.main([word for name, value in words.items() for word in (f"--{name}", str(value))])


def conditions() -> dict[str, torch.Tensor]:
    words = torch.from_numpy(WORDS[:2]).half().float()
    return {"prompt_embeds": words, "prompt_mask": torch.ones(2, 2, dtype=torch.bool)}


def ours(folder: Path, **changes: Any) -> torch.Tensor:
    given = {**conditions(), "empty_prompt": torch.zeros(1, DIM), **changes}
    return Generator.load(folder / "flow").sample(given, seeds=[3, 4])


def theirs(folder: Path, pipe: Any, **changes: Any) -> torch.Tensor:
    """Latents by a pipeline, from the same noise, prompts, and empty prompt."""
    temporal, spatial = pipe_strides(pipe)
    noise = seeded_noise([3, 4], (CHANNELS, *GRID))
    embeds = torch.nn.functional.pad(conditions()["prompt_embeds"], (0, 0, 0, 4))
    call = {"prompt_embeds": embeds, "negative_prompt_embeds": torch.zeros_like(embeds)}
    is_ltx = temporal == 8
    if is_ltx:
        mask, only_first = torch.zeros(2, 6), torch.zeros(2, 6)
        mask[:, :2], only_first[:, :1] = 1, 1
        call |= {"prompt_attention_mask": mask, "negative_prompt_attention_mask": only_first, "frame_rate": 8}
    call |= {"latents": packed(noise, (1, 1, 1)) if is_ltx else noise}
    call |= {"num_frames": 1 + temporal * (FRAMES - 1), "height": spatial * SIDE, "width": spatial * SIDE}
    pipe.set_progress_bar_config(disable=True)
    made = pipe(num_inference_steps=4, guidance_scale=2.0, output_type="latent", **{**call, **changes}).frames
    return unpacked(made, GRID, (1, 1, 1)) if is_ltx else made


def pipe_strides(pipe: Any) -> tuple[int, int]:
    return (8, 32) if "LTX" in type(pipe).__name__ else (4, 8)


def test_wan_samples_as_we_do_given_the_same_levels_and_nearly_so_with_its_own(made):
    pipe = WanPipeline.from_pretrained(made["wan"] / "pipeline")
    expected = ours(made["wan"])
    own = theirs(made["wan"], pipe)
    pipe.scheduler = Explicit().given(Generator.load(made["wan"] / "flow").phases[0].sigmas)
    torch.testing.assert_close(theirs(made["wan"], pipe), expected, atol=1e-4, rtol=1e-4)
    assert (own - expected).square().mean().sqrt() < 0.02 * expected.std()
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=SAMPLING["shift"])  # shifts twice: the one not to ship
    assert (theirs(made["wan"], pipe) - expected).square().mean().sqrt() > 0.05 * expected.std()


def test_ltx_samples_as_we_do_with_its_own_scheduler(made):
    pipe = LTXPipeline.from_pretrained(made["ltx"] / "pipeline")
    torch.testing.assert_close(theirs(made["ltx"], pipe), ours(made["ltx"]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "sampling", "most"),
    [
        ("ltx", {}, 1e-4),
        ("ltx", {"guidance": {"scale": 2.0, "rescale": 0.7}}, 1e-4),
        ("ltx", {"guidance": None}, 1e-4),
        ("ltx", {"sampler": "dpm_2m"}, 0.02),
        ("ltx", {"sampler": "heun"}, 0.02),
        ("wan", {}, 0.02),
        ("wan", {"sampler": "dpm_2m", "shift": 5.0}, 0.02),
        ("wan", {"sampler": "midpoint", "steps": 10}, 0.02),
        ("wan", {"guidance": {"scale": 3.0, "rescale": 0.5}}, 0.02),
    ],
)
def test_the_call_on_the_card_gives_the_samples_that_the_card_promises(made, tmp_path, name, sampling, most):
    """Every field of the call, with prompts as words: the error is less than ``most`` of the samples' spread."""
    folder = variant(made, name, tmp_path, **sampling)
    expected = as_the_card_says(folder)
    assert (by_the_card(folder)[0] - expected).square().mean().sqrt() < most * expected.std()


def test_a_frame_rate_that_is_no_whole_number_is_on_the_card(made, tmp_path):
    """LTX-Video's positions are in seconds."""
    for place in ("flow", "latents"):
        shutil.copytree(made["ltx"] / place, tmp_path / "ltx" / place)
    shutil.copytree(made["ltx"] / "vae", tmp_path / "ltx" / "vae")
    path = tmp_path / "ltx" / "flow" / "generator.json"
    content = json.loads(path.read_text())
    content["latents"]["frame_rate"] = 7.5
    path.write_text(json.dumps(content))
    assert run(tmp_path / "ltx", tmp_path / "ltx" / "pipeline") == 0
    assert by_the_card(tmp_path / "ltx")[1]["frame_rate"] == 7.5


def test_all_of_a_short_trainings_effect_is_in_the_pipeline(made, tmp_path):
    """Changes far below bf16's step of a weight, on a base that training held in bf16."""
    folder = made["wan"]
    shutil.copytree(folder / "flow", tmp_path / "flow")
    for adapter in (tmp_path / "flow").rglob(FILE):
        tensors = load_file(adapter)
        scaled = {key: value * (1e-2 if "lora_B" in key else 1.0) for key, value in tensors.items()}
        with safe_open(adapter, "pt") as stream:
            save_file(scaled, adapter, stream.metadata())
    for facts in (tmp_path / "flow").rglob("conditioning.json"):
        content = json.loads(facts.read_text())
        content["base"]["weights"] = "bf16"
        facts.write_text(json.dumps(content))
    checkpoint.write_record(tmp_path / "flow", json.loads((tmp_path / "flow" / "checkpoint.json").read_text()))
    assert run(folder, tmp_path / "pipeline", tmp_path / "flow") == 0
    base = WanTransformer3DModel.from_pretrained(folder / "base/transformer").eval()
    whole = WanTransformer3DModel.from_pretrained(tmp_path / "pipeline/transformer").eval()
    trained = VideoDenoiser.from_pretrained(averaged(tmp_path / "flow"), base_weights="fp32").transformer.eval()
    assert all(parameter.dtype == torch.float32 for parameter in whole.parameters())
    torch.manual_seed(0)
    given = torch.randn(2, CHANNELS, *GRID), torch.full((2,), 500.0), torch.randn(2, 6, DIM)
    with torch.no_grad():
        before, wanted, found = (network(*given, return_dict=False)[0] for network in (base, trained, whole))
    assert (wanted - before).abs().max() > 0
    assert (found - wanted).norm() < 0.02 * (wanted - before).norm()


def test_wan_goes_on_from_a_picture_as_we_do(made):
    """Both start from the picture's own latents at timestep 0."""
    folder = made["wan"]
    pipe = WanImageToVideoPipeline.from_pretrained(folder / "pipeline")
    assert pipe.config.expand_timesteps
    Image.effect_noise((32, 32), 60).convert("RGB").save(folder / "first.png")
    generator = Generator.load(folder / "flow")
    pipe.scheduler = Explicit().given(generator.phases[0].sigmas)
    autoencoder = export.load_autoencoder(folder / "vae")
    first = autoencoder.encode(read_image(folder / "first.png", 32, 32)).expand(2, -1, -1, -1, -1)
    with Image.open(folder / "first.png") as image:
        made_by_them = theirs(folder, pipe, image=image)
    torch.testing.assert_close(made_by_them, ours(folder, first_frame=first), atol=1e-4, rtol=1e-4)


@pytest.mark.costly
def test_an_adapter_loads_into_the_pipeline_of_its_base(made):
    """The checkpoint's own file, without an export; merged and loaded weights agree."""
    for name, family in (("wan", WanPipeline), ("ltx", LTXPipeline)):
        folder = made[name]
        network = {"wan": wan, "ltx": ltx}[name]()
        pipe = family.from_pretrained(folder / "pipeline", transformer=network)
        assert (theirs(folder, pipe) - theirs(folder, family.from_pretrained(folder / "pipeline"))).abs().max() > 1e-4
        pipe.load_lora_weights(folder / "flow" / "ema")
        merged = family.from_pretrained(folder / "pipeline")
        torch.testing.assert_close(theirs(folder, pipe), theirs(folder, merged), atol=1e-4, rtol=1e-4)


def test_prompts_and_pictures_go_through_the_whole_pipeline(made):
    folder = made["ltx"] / "pipeline"
    pipe = LTXImageToVideoPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    image = Image.effect_noise((128, 128), 60).convert("RGB")
    size = {"num_frames": 17, "height": 128, "width": 128, "max_sequence_length": 6, "output_type": "pt"}
    frames = pipe(image, "red square", num_inference_steps=2, **size).frames
    assert frames.shape == (1, 17, 3, 128, 128) and torch.isfinite(frames).all()
    card = (folder / "README.md").read_text()
    assert "pipe = LTXPipeline.from_pretrained(folder)" in card and "num_inference_steps=4" in card
    assert "guidance_scale=2.0" in card and "LTXImageToVideoPipeline" in card


@pytest.mark.parametrize(
    ("kind", "instead"), [("refiner", "reel refine"), ("keypatch_refiner", "evaluation"), ("world_model", "reel play")]
)
def test_a_generator_that_is_no_flow_is_refused_in_one_line_that_says_what_takes_it(tmp_path, capsys, kind, instead):
    write_json(tmp_path / "made/generator.json", {"kind": kind})
    checkpoint.write_record(tmp_path / "made", {"stage": kind, "step": 1, "inputs": {}, "results": {}})
    assert export.main(["--checkpoint", str(tmp_path / "made"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(f"export: .*made: a {kind}, and a pipeline folder holds a flow; .*{instead}.*\n", said)
    assert not (tmp_path / "out").exists()


def test_what_no_pipeline_of_diffusers_can_drive_is_told(made, tmp_path, capsys):
    for name in ("scratch", "anchored"):
        shutil.copytree(made["wan"] / "flow", tmp_path / name)
    scratch, anchored = tmp_path / "scratch", tmp_path / "anchored"
    shutil.rmtree(scratch / "ema")
    (scratch / "pytorch_lora_weights.safetensors").unlink()
    sizes = {"heads": 2, "head_dim": 12, "layers": 1, "feed_forward": 16, "patch": (1, 2, 2), "text_length": 3}
    VideoDenoiser.build(channels=CHANNELS, text_dim=DIM, **sizes).save_pretrained(scratch)
    checkpoint.write_record(scratch, json.loads((scratch / "checkpoint.json").read_text()))
    assert run(made["wan"], tmp_path / "own", scratch) == 0
    assert "trained from scratch and takes 6 channels of positions" in capsys.readouterr().out
    carried = lineage(tmp_path / "own")
    assert carried.nodes[carried.artifact]["inputs"]["checkpoint"]["digest"] == digest(scratch)
    assert carried.now == carried.artifact and carried.runs[carried.artifact]["hardware"], "when and on what, too"
    facts = json.loads((anchored / "generator.json").read_text())
    facts["phases"][0] |= {"still": True, "end": 0.2}
    facts["clocks"] = CLOCKS
    (anchored / "generator.json").write_text(json.dumps(facts))
    assert run(made["wan"], tmp_path / "own", anchored) == 0, "an earlier export there is replaced"
    assert "walks a path through an anchor" in capsys.readouterr().out
    assert run(made["wan"], anchored, anchored) == 2
    assert "is the checkpoint itself" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    assert run(made["wan"], tmp_path / "mine") == 2
    assert "exists and is no pipeline folder" in capsys.readouterr().err
    ltx_vae().save_pretrained(tmp_path / "vae")
    words = ["--checkpoint", made["wan"] / "flow", "--out", tmp_path / "out", "--latents", made["wan"] / "latents"]
    assert export.main([*map(str, words), "--autoencoder", str(tmp_path / "vae")]) == 2
    assert "made by autoencoder toy" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
