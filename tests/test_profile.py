"""Profiles: each gives a params.yaml that the stages take, and trains a few steps on tiny checkpoints of its format."""

import math
from functools import cache
from pathlib import Path

import pytest
import yaml

from pipelines import profile
from pipelines.document import Whole, load
from pipelines.editing import edited
from pipelines.generation import rectified_flow
from pipelines.generation.params import AnchoredFlowParams, RectifiedFlowParams
from pipelines.params import ParamsError
from pipelines.profile import FOLDER, complete
from pipelines.training.generator import Generator

ROOT = Path(__file__).parents[1]
made = cache(complete)
PUBLISHED = ("wan2.1-1.3b", "wan2.2-5b", "ltx-video")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", [path.stem for path in sorted((ROOT / FOLDER).glob("*.yaml"))])
def test_a_profile_is_a_valid_params_file_that_differs_where_it_says(name):
    text = made(name)
    values, before = yaml.safe_load(text), yaml.safe_load((ROOT / "params.yaml").read_text())
    assert list(values) == list(before) and text.startswith(f"# {name}: ")
    stated = [key for key in profile.changes(ROOT / FOLDER / f"{name}.yaml")]
    assert [key for key in values if values[key] != before[key]] == sorted(stated, key=list(values).index)


@pytest.mark.parametrize("name", PUBLISHED)
def test_clips_and_prompts_of_a_profile_fit_its_network(name):
    """Frames, sizes and prompt lengths that the strides and patches of the published networks take."""
    values = yaml.safe_load(made(name))
    time, side = {"wan2.1-1.3b": (4, 16), "wan2.2-5b": (4, 32), "ltx-video": (8, 32)}[name]
    clip, flow = values["raw_video"]["clip"], values["rectified_flow"]
    assert clip["num_frames"] % time == 1 and clip["height"] % side == 0 and clip["width"] % side == 0
    assert values["latent_shards"]["text"]["max_length"] == flow["denoiser"]["text_length"]
    networks = {values[section]["pretrained"]["name"] for section in ("autoencoder",)}
    networks |= {values[key]["denoiser"]["pretrained"]["name"] for key in FLOWS}
    assert networks == {values["latent_shards"]["text"]["name"]}


FLOWS = ("rectified_flow", *(f"anchored_flow_{part}" for part in ("identity", "motion", "unified")))
SHIFT = {"wan2.1-1.3b": 3.0, "wan2.2-5b": 5.0, "ltx-video": 16.2}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_profile_carries_the_published_values_and_not_the_toys(name):
    """Guide B: EMA 0.9999, warm-up 1000 to 5000, down to 1e-6, the base's shift; guide A: stage 2 at half the rate."""
    values = yaml.safe_load(made(name))
    sections = {key: values[key] for key in FLOWS}
    for section in sections.values():
        training = section["training"]
        assert training["ema"]["decay"] == 0.9999 and 1000 <= training["schedule"]["warmup_steps"] <= 5000
        assert training["optimizer"]["learning_rate"] * training["schedule"]["floor"] == pytest.approx(1e-6)
    first, second = (sections[f"anchored_flow_{stage}"]["training"] for stage in ("identity", "motion"))
    peak = first["optimizer"]["learning_rate"]
    assert second["optimizer"]["learning_rate"] == 0.5 * peak
    assert second["steps"] + first["steps"] == sections["anchored_flow_unified"]["training"]["steps"]
    sampled, drawn = sections["rectified_flow"]["sampling"]["shift"], sections["rectified_flow"]["draw"]
    assert sampled == SHIFT[name] and drawn.get("shift", SHIFT[name]) == SHIFT[name]
    assert sections["anchored_flow_identity"]["draw"] == sections["anchored_flow_motion"]["draw"] == drawn
    assert (
        values["pseudo_classes"]["num_classes"] == 1024 and values["pseudo_classes"]["fallback"]["num_classes"] == 512
    )
    assert "augmentation" in (ROOT / FOLDER / f"{name}.yaml").read_text().split("raw_video:")[0], (
        "says where it happens"
    )


def test_the_profile_of_seed_e_is_of_matrix_game_s_size_and_goes_by_its_schedule():
    """Seed E: 9 frames, 9 of context, shift 5, a curriculum, a batch of 8, the second stage at half the rate."""
    values = yaml.safe_load(made("matrix-game"))
    base, second = values["world_model"], values["world_model_autoregressive"]
    for section in (base, second):
        sizes, actions = section["denoiser"], section["denoiser"]["actions"]
        assert (sizes["heads"] * sizes["head_dim"], sizes["layers"], sizes["feed_forward"]) == (1536, 30, 8960)
        assert (actions["hidden"], actions["inner"], actions["heads"], actions["history"]) == (128, 1024, 16, 3)
        assert (
            section["draw"]["shift"] == section["sampling"]["shift"] == 5.0 and section["training"]["batch_size"] == 8
        )
    assert 1 + 4 * (base["window"]["context_frames"] + base["window"]["target_frames"] - 1) == 9
    assert 1 + 4 * (second["window"]["context_frames"] - 1) == 9
    assert second["curriculum"] == {"first": 0.3, "last": 0.0, "until": 0.33}
    rates = [section["training"]["optimizer"]["learning_rate"] for section in (base, second)]
    assert rates[1] == rates[0] / 2
    clip = values["raw_video"]["clip"]
    assert clip["num_frames"] % 4 == 1 and clip["height"] % 16 == clip["width"] % 16 == 0


def test_the_shift_of_ltx_video_is_that_of_its_pipeline_at_the_tokens_of_a_clip_and_of_one_frame():
    values = yaml.safe_load(made("ltx-video"))

    def shift(tokens: int) -> float:
        return math.exp(0.95 + (2.05 - 0.95) * (tokens - 1024) / (4096 - 1024))

    clip = values["raw_video"]["clip"]
    frame = clip["height"] // 32 * clip["width"] // 32
    tokens = (1 + (clip["num_frames"] - 1) // 8) * frame
    assert values["rectified_flow"]["sampling"]["shift"] == pytest.approx(shift(tokens), abs=0.05)
    assert values["anchored_flow_identity"]["sampling"]["identity"]["shift"] == pytest.approx(shift(frame), abs=0.01)


def test_blocks_are_changed_key_by_key_unless_they_are_whole():
    values = {"a": {"b": 1, "c": {"d": 2}}, "e": {"f": 3}}
    changes = {"a": {"c": {"d": 4}}, "e": Whole(g=5)}
    assert load(edited(yaml.safe_dump(values), changes)) == {"a": {"b": 1, "c": {"d": 4}}, "e": {"g": 5}}


@pytest.mark.parametrize("name", [path.stem for path in sorted((ROOT / FOLDER).glob("*.yaml"))])
def test_a_profile_keeps_every_comment(name: str) -> None:
    """Those of a block that another one replaces too: that block stays as a comment."""
    comments = [
        line.split("#", 1)[1].strip() for line in (ROOT / "params.yaml").read_text().splitlines() if "#" in line
    ]
    assert len(comments) > 300 and [comment for comment in comments if comment not in made(name)] == []
    again = edited(made(name), profile.changes(ROOT / FOLDER / f"{name}.yaml"))
    assert again == made(name), "nothing piles up"


def test_the_command_writes_the_file_and_tells_mistakes(tmp_path, capsys):
    assert profile.main(["tiny", "--out", str(tmp_path / "params.yaml")]) == 0
    assert yaml.safe_load((tmp_path / "params.yaml").read_text())["raw_video"]["source"]["rendered"]["num_clips"] == 320
    assert profile.main(["huge"]) == 2
    known = ", ".join(sorted(path.stem for path in (ROOT / FOLDER).glob("*.yaml")))
    assert f"profiles/huge.yaml: no such profile; there are {known}." in capsys.readouterr().err
    (tmp_path / "wrong.yaml").write_text("rectified_flow: {training: {step: 3}}")
    with pytest.raises(
        ParamsError, match=r"params\.yaml with .*wrong\.yaml:\d+: rectified_flow\.training\.step: unknown"
    ):
        complete("wrong", tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # bf16 activations, float32 norms
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_profile_trains_and_samples_at_small_width(name, tmp_path):
    """Its own sections but for the size of network, batch and run; weights and precision as it states them."""
    from tests.generation.test_stages import PROMPT, World
    from tests.models.tiny_pretrained import ltx, save, wan

    world, values = World(tmp_path), yaml.safe_load(made(name))
    base = save(tmp_path / "base", ltx() if name == "ltx-video" else wan())

    def small(section: dict) -> dict:
        section["denoiser"]["pretrained"]["name"] = str(base)
        if section["denoiser"]["trained"] != "full":
            section["denoiser"]["trained"]["lora"]["rank"] = 4
        section["training"] |= {"steps": 3, "batch_size": 4, "micro_batch": 2, "validate_every": 3, "save_every": 3}
        for sampling in (section["sampling"], *section["sampling"].values()):
            if isinstance(sampling, dict) and "steps" in sampling:
                sampling["steps"] = 2
        return section

    places = world.places("flow")
    params = RectifiedFlowParams.model_validate(small(values["rectified_flow"]))
    rectified_flow.train(params, world.latents, **places)
    sampled = Generator.load(places["out"]).sample(PROMPT, seeds=[0, 1])
    assert sampled.isfinite().all() and sampled.shape[2] == 3
    anchored = AnchoredFlowParams.model_validate(small(values["anchored_flow_identity"]))
    world.anchored(anchored, "identity")
