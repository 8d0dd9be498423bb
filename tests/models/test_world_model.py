"""The network: who sees whom, what it hears, what a memory keeps, and what is written."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from pipelines.flow.params import Sampling
from pipelines.flow.rollout import ChunkNoise, Roll
from pipelines.flow.samplers import SAMPLERS
from pipelines.models import strategies
from pipelines.models.frame_attention import Memory, Reach, Shared, crossed, space_and_time, turns
from pipelines.models.joined import Pair, rms_normed
from pipelines.models.matrix_game import WEIGHTS, load_matrix_game
from pipelines.models.world_model import WorldModel
from pipelines.params import Lora
from pipelines.stage import StageError
from tests.models.tiny_world import CHANNELS, SIDE, given_clips, inputs, world

CHUNKS = (1, 2, 2)


def velocity(model: WorldModel, latents: torch.Tensor, actions: torch.Tensor, **how: object) -> torch.Tensor:
    """With the first three frames given."""
    told = torch.arange(5).expand(len(latents), -1) < 3
    sigma = torch.where(told, 0.0, 0.6)
    first = how.pop("first_frame", latents[:, :, :1])
    return model(latents, sigma, actions=actions, given=told, first_frame=first, chunks=CHUNKS, **how)  # type: ignore[arg-type]


@given(sink=st.integers(0, 3), window=st.integers(1, 6), start=st.integers(0, 30), length=st.integers(1, 4))
def test_a_chunk_sees_the_first_frames_the_last_ones_and_itself(
    sink: int, window: int, start: int, length: int
) -> None:
    seen = Reach(sink, window).seen(start, start + length)
    wanted = {*range(min(sink, start)), *range(max(0, start - window), start), *range(start, start + length)}
    assert seen == sorted(wanted)


def test_a_new_network_stands_still_and_hears_no_actions_yet() -> None:
    model = WorldModel.build(inputs(), heads=2, head_dim=12, layers=2, feed_forward=32, patch=(1, 2, 2))
    latents, actions = given_clips(2, 5)
    assert not velocity(model, latents, actions).any()
    torch.nn.init.normal_(model.transformer.proj_out.weight)
    one = velocity(model, latents, actions)
    assert one.any() and torch.equal(one, velocity(model, latents, 1 - actions))


@pytest.mark.parametrize("part", ["pixels", "context", "keys", "mouse", "first frame", "mask", "level"])
def test_the_velocity_depends_on_everything_that_it_is_told(part: str) -> None:
    model = world()
    latents, actions = given_clips(2, 5)
    before = velocity(model, latents, actions)[:, :, 3:]
    other, held, how = latents.clone(), actions.clone(), {}
    if part == "pixels":
        other[:, :, 3:] += 1
    elif part == "context":
        other[:, :, 1] += 1
        how["first_frame"] = latents[:, :, :1]
    elif part == "keys":
        held[:, 3:, :, :4] = 1 - held[:, 3:, :, :4]
    elif part == "mouse":
        held[:, 3:, :, 4:] -= 1
    elif part == "first frame":
        how["first_frame"] = latents[:, :, :1] + 1
    else:
        told = torch.arange(5).expand(2, -1) < (2 if part == "mask" else 3)
        sigma = torch.where(torch.arange(5).expand(2, -1) < 3, 0.0, 0.6 if part == "mask" else 0.9)
        heard = latents[:, :, :1]
        after = model(latents, sigma, actions=actions, given=told, first_frame=heard, chunks=CHUNKS)[:, :, 3:]
        assert not torch.allclose(before, after, atol=1e-4)
        return
    assert not torch.allclose(before, velocity(model, other, held, **how)[:, :, 3:], atol=1e-4)


def test_nothing_of_the_future_is_seen() -> None:
    model = world()
    latents, actions = given_clips(2, 5)
    before = velocity(model, latents, actions, first_frame=latents[:, :, :1])
    latents[:, :, 3:], actions[:, 3:] = 7.0, 0.0
    after = velocity(model, latents, actions, first_frame=latents[:, :, :1])
    assert torch.equal(before[:, :, :3], after[:, :, :3]) and not torch.equal(before, after)


def test_a_batch_of_four_is_four_batches_of_one() -> None:
    model = world()
    latents, actions = given_clips(4, 5)
    whole = velocity(model, latents, actions)
    alone = torch.cat([velocity(model, latents[n : n + 1], actions[n : n + 1]) for n in range(4)])
    assert torch.allclose(whole, alone, atol=1e-5)


SAMPLING = Sampling(sampler="euler", steps=3, shift=3.0, guidance=None)


@pytest.mark.parametrize(("sink", "window", "chunk"), [(1, 2, 2), (0, 1, 1), (2, 3, 2), (1, 4, 3), (1, 100, 2)])
def test_a_rollout_with_a_memory_equals_computing_the_whole_past_anew(sink: int, window: int, chunk: int) -> None:
    model = world(sink=sink, window=window)
    roll = Roll(model, Memory, SAMPLING, chunk, remembers=True)
    latents, actions = given_clips(2, 1 + 5 * chunk)
    first, noise, past, lengths = latents[:, :, :1], ChunkNoise([5, 6]), latents[:, :, :1], [1]
    with torch.no_grad():
        for number, made in enumerate(roll.chunks(first, lambda a, b: actions[:, a:b], ChunkNoise([5, 6]))):
            if number == 0:
                assert torch.equal(made, first)
                continue
            told = actions[:, : past.shape[2] + chunk]
            anew = roll.again(past, told, noise((CHANNELS, chunk, SIDE, SIDE)), lengths)
            assert torch.allclose(made, anew, atol=1e-5), number
            past, lengths = torch.cat([past, made], dim=2), [*lengths, chunk]
            if number == 5:
                break


def test_a_new_draft_repeats_the_last_given_frame() -> None:
    torch.manual_seed(0)
    model = WorldModel.build(inputs(), heads=2, head_dim=12, layers=1, feed_forward=32, patch=(1, 2, 2))
    latents, actions = given_clips(2, 5)
    told = torch.tensor([[1, 0, 1, 0, 0], [1, 1, 0, 0, 0]]).bool()
    known = model.known(latents, told, actions, Memory(), Shared())
    last = torch.tensor([[0, 0, 2, 2, 2], [0, 1, 1, 1, 1]])
    assert torch.equal(known, torch.stack([one[:, at] for one, at in zip(latents, last, strict=True)]))


def test_a_draft_goes_on_from_what_was_before_by_the_actions_up_to_its_frame() -> None:
    model = world()
    latents, actions = given_clips(2, 5)
    told = torch.arange(5).expand(2, -1) < 2

    def known(x: torch.Tensor, held: torch.Tensor, past: Memory) -> torch.Tensor:
        return model.known(x, told[:, 5 - x.shape[2] :], held, past, Shared()).detach()

    drafted = known(latents, actions, Memory())
    assert torch.equal(drafted[:, :, :2], latents[:, :, :2])
    after_a_memory = known(latents[:, :, 2:], actions[:, 2:], Memory(last=latents[:, :, 1]))
    assert torch.allclose(drafted[:, :, 2:], after_a_memory, atol=1e-6)
    unseen = latents.clone()
    unseen[:, :, 2:] = 7.0
    assert torch.equal(drafted, known(unseen, actions, Memory())), "what is to be made is not looked at"
    held = actions.clone()
    held[:, 3] = 1 - held[:, 3]
    changed = (known(latents, held, Memory()) != drafted).flatten(3).any(-1).any(1)
    assert changed.tolist() == [[False, False, False, True, True]] * 2


def test_cross_attention_is_that_of_diffusers() -> None:
    attention = world().transformer.blocks[0].attn2
    tokens, heard = torch.randn(2, 7, 24), torch.randn(2, 3, 24)
    ours = crossed(attention, tokens, heard, Shared(), 0)
    assert torch.allclose(ours, attention(tokens, heard, None, None), atol=1e-5)


def test_what_a_memory_holds_does_not_grow() -> None:
    model, memory = world(sink=1, window=2), Memory()
    latents, actions = given_clips(1, 2)
    sizes = []
    for _ in range(6):
        told = torch.ones(1, 2, dtype=torch.bool)
        zero, first = torch.zeros(1, 2), latents[:, :, :1]
        how = {"actions": actions, "given": told, "first_frame": first, "chunks": (2,), "memory": memory}
        model(latents, zero, **how, remember=True)
        sizes.append(sum(key.numel() + value.numel() for key, value in memory.kept.values()))
    assert sizes[2:] == sizes[2:3] * 4 and memory.frames == 12 and memory.kept_frames == 3


def test_a_rollout_of_a_sample_is_the_same_whatever_else_is_in_its_batch_and_however_long() -> None:
    roll = Roll(world(), Memory, SAMPLING, 2, remembers=True)
    latents, actions = given_clips(3, 7)
    together = roll.out(latents[:, :, :1], actions, ChunkNoise([1, 2, 3]))
    alone = roll.out(latents[1:2, :, :1], actions[1:2, :5], ChunkNoise([2]))
    assert torch.allclose(together[1:2, :, :5], alone, atol=1e-5)


def test_a_network_without_memory_goes_on_from_the_last_frame_alone() -> None:
    roll = Roll(world(sink=0, window=1), Memory, SAMPLING, 2, remembers=False)
    latents, actions = given_clips(1, 5)
    made = roll.out(latents[:, :, :1], actions, ChunkNoise([4]))
    noise = ChunkNoise([4])
    noise((CHANNELS, 2, SIDE, SIDE))
    again = roll.out(made[:, :, 2:3], actions[:, 2:], noise)
    assert torch.allclose(made[:, :, 2:], again, atol=1e-5)


# ---- files and strategies -----------------------------------------------------------------------------------------


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    model = world()
    model.save_pretrained(tmp_path)
    again = WorldModel.from_pretrained(tmp_path).eval()
    latents, actions = given_clips(2, 5)
    assert torch.equal(velocity(model, latents, actions), velocity(again, latents, actions))
    assert json.loads((tmp_path / "conditioning.json").read_text())["inputs"]["window"] == 2


def test_a_folder_of_another_denoiser_is_named(tmp_path: Path) -> None:
    (tmp_path / "conditioning.json").write_text('{"text_length": 3}')
    with pytest.raises(StageError, match=r"conditioning.json: not of a world model"):
        WorldModel.from_pretrained(tmp_path)


def trained_names(model: WorldModel) -> set[str]:
    return {name.split(".")[0] for name, value in model.named_parameters() if value.requires_grad}


def test_each_strategy_trains_what_it_says() -> None:
    assert trained_names(strategies.train_actions(world())) == {"actions", "draft"}
    assert all(value.requires_grad for value in strategies.train_all(world()).parameters())
    last = strategies.train_last(world(), 1)
    names = {name for name, value in last.named_parameters() if value.requires_grad}
    assert any(name.startswith("transformer.blocks.1.") for name in names)
    assert not any(name.startswith(("transformer.blocks.0.", "actions.0.")) for name in names)
    with pytest.raises(ValueError, match="this network has 2 blocks"):
        strategies.train_last(world(), 3)


def test_an_adapter_is_added_in_when_it_is_written(tmp_path: Path) -> None:
    model = strategies.train_adapter(world(), Lora(rank=2, alpha=2, targets=("to_q",)))
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    assert names and all(".lora_" in name or name.startswith(("actions.", "draft.")) for name in names)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".lora_" in name:
                value.normal_()
    model.save_pretrained(tmp_path)
    latents, actions = given_clips(1, 5)
    again = WorldModel.from_pretrained(tmp_path).eval()
    assert torch.allclose(velocity(model.eval(), latents, actions), velocity(again, latents, actions), atol=1e-4)


# ---- the published layout -----------------------------------------------------------------------------------------

DIM, FFN, HIDDEN, INNER, IMAGE = 24, 32, 4, 16, 10
CONFIG = {
    "dim": DIM, "num_heads": 2, "num_layers": 2, "ffn_dim": FFN, "in_dim": 36, "out_dim": 16, "freq_dim": 8,
    "text_dim": 12, "image_dim": IMAGE, "local_attn_size": 6,
    "action_config": {
        "mouse_dim_in": 2, "keyboard_dim_in": 6, "hidden_size": HIDDEN, "img_hidden_size": DIM,
        "keyboard_hidden_dim": INNER, "mouse_hidden_dim": INNER, "vae_time_compression_ratio": 4, "windows_size": 3,
        "heads_num": 2, "rope_dim_list": [4, 2, 2], "rope_theta": 256, "qk_norm": True, "qkv_bias": False,
    },
}  # fmt: skip


def published() -> dict[str, torch.Tensor]:
    """Weights by the names of the published files."""
    random = torch.Generator().manual_seed(0)
    found: dict[str, torch.Tensor] = {}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        found[f"{name}.weight"] = torch.randn(*shape, generator=random) * 0.2
        if bias:
            found[f"{name}.bias"] = torch.randn(shape[0], generator=random) * 0.2

    add("patch_embedding", DIM, 36, 1, 2, 2)
    for name, out, into in (("time_embedding.0", DIM, 8), ("time_embedding.2", DIM, DIM)):
        add(name, out, into)
    add("time_projection.1", 6 * DIM, DIM)
    add("img_emb.proj.0", IMAGE)
    add("img_emb.proj.1", IMAGE, IMAGE)
    add("img_emb.proj.3", DIM, IMAGE)
    add("img_emb.proj.4", DIM)
    add("head.head", 64, DIM)
    found["head.modulation"] = torch.randn(1, 2, DIM, generator=random)
    for block in range(2):
        at = f"blocks.{block}"
        found[f"{at}.modulation"] = torch.randn(1, 6, DIM, generator=random)
        for attention in ("self_attn", "cross_attn"):
            for layer in "qkvo":
                add(f"{at}.{attention}.{layer}", DIM, DIM)
            for norm in ("norm_q", "norm_k"):
                add(f"{at}.{attention}.{norm}", DIM, bias=False)
        add(f"{at}.norm3", DIM)
        add(f"{at}.ffn.0", FFN, DIM)
        add(f"{at}.ffn.2", DIM, FFN)
        action = f"{at}.action_model"
        add(f"{action}.keyboard_embed.0", HIDDEN, 6)
        add(f"{action}.keyboard_embed.2", HIDDEN, HIDDEN)
        add(f"{action}.mouse_mlp.0", INNER, DIM + 24)
        add(f"{action}.mouse_mlp.2", INNER, INNER)
        add(f"{action}.mouse_mlp.3", INNER)
        for name in ("img_attn_q_norm", "img_attn_k_norm", "key_attn_q_norm", "key_attn_k_norm"):
            add(f"{action}.{name}", INNER // 2, bias=False)
        add(f"{action}.t_qkv", 3 * INNER, INNER, bias=False)
        add(f"{action}.mouse_attn_q", INNER, DIM, bias=False)
        add(f"{action}.keyboard_attn_kv", 2 * INNER, 12 * HIDDEN, bias=False)
        for name in ("proj_mouse", "proj_keyboard"):
            add(f"{action}.{name}", DIM, INNER, bias=False)
    return found


def write_published(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(weights, folder / WEIGHTS)
    return folder


def run_published(model: WorldModel, batch: int = 2) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    x = torch.randn(batch, 16, 4, 4, 4, generator=random)
    columns = len(model.inputs.keys) + len(model.inputs.axes)
    actions = torch.rand(batch, 4, 12, columns, generator=random)
    told = torch.arange(4).expand(batch, -1) < 1
    image = torch.randn(batch, 7, IMAGE, generator=random)
    sigma = torch.where(told, 0.0, 0.8)
    with torch.no_grad():
        return model(x, sigma, actions=actions, given=told, first_frame=image, chunks=(1, 3))


def test_the_published_layout_loads_every_weight_and_runs_for_any_batch(tmp_path: Path) -> None:
    weights = published()
    model = load_matrix_game(write_published(tmp_path, weights))
    assert (model.inputs.channels, model.inputs.rows, model.inputs.window) == (36, 12, 3)
    kept = {tuple(value.shape): value for value in model.state_dict().values()}
    assert torch.equal(kept[(DIM, 36, 1, 2, 2)], weights["patch_embedding.weight"])
    assert torch.equal(
        model.actions.get_parameter("1.key_kv.weight"), weights["blocks.1.action_model.keyboard_attn_kv.weight"]
    )
    made = run_published(model)
    assert made.shape == (2, 16, 4, 4, 4) and made.isfinite().all() and made.std() > 0


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """The velocity of the published layout as it is."""
    return run_published(load_matrix_game(write_published(tmp_path_factory.mktemp("published"), published())))


@pytest.mark.parametrize("name", sorted(published()))
def test_every_published_weight_has_its_place(tmp_path: Path, before: torch.Tensor, name: str) -> None:
    """Another value of any weight gives another velocity, so none is loaded into the void."""
    weights = published()
    weights[name] = weights[name] + 0.5 * torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(9))
    after = run_published(load_matrix_game(write_published(tmp_path, weights)))
    softmax_is_blind = name.endswith("attn.k.bias")
    assert softmax_is_blind or not torch.equal(before, after)


def test_another_number_of_keys_renews_the_first_layer_of_every_keyboard_embedding(tmp_path: Path) -> None:
    weights = published()
    model = load_matrix_game(write_published(tmp_path, weights), keys=4)
    assert model.actions.get_parameter("0.key_embed.0.weight").shape == (HIDDEN, 4)
    kept = model.actions.get_parameter("0.key_embed.2.weight")
    assert torch.equal(kept, weights["blocks.0.action_model.keyboard_embed.2.weight"])
    assert run_published(model).isfinite().all()


def test_what_is_no_such_network_is_said(tmp_path: Path) -> None:
    weights = published()
    del weights["blocks.0.ffn.0.weight"]
    with pytest.raises(StageError, match=r"lacks blocks.0.ffn.net.0.proj.weight"):
        load_matrix_game(write_published(tmp_path, weights))
    with pytest.raises(StageError, match=r"has, unknown here, stray.weight"):
        load_matrix_game(write_published(tmp_path, {**published(), "stray.weight": torch.zeros(1)}))
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "in_dim": 16}))
    with pytest.raises(StageError, match="an image-to-video network takes"):
        load_matrix_game(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StageError, match="lacks dim"):
        load_matrix_game(tmp_path)


def test_blocks_that_are_computed_again_give_the_same_gradients() -> None:
    """With ``gradient_checkpointing`` nothing of a block's first pass may stand where the second one looks."""
    found = []
    for again in (False, True):
        model, (latents, actions) = world(sink=1, window=2), given_clips(2, 5)
        if again:
            model.transformer.enable_gradient_checkpointing()
        velocity(model.train(), latents, actions).square().mean().backward()
        found.append([torch.zeros(1) if one.grad is None else one.grad for one in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


class Forgetful(Memory):
    """Does everything of a level anew in every chunk."""

    def of_level(self, number: int | None) -> Shared:
        return Shared()

    def anew(self) -> Memory:
        return Forgetful()


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("remembers", [True, False])
def test_what_every_chunk_meets_again_is_computed_once_and_changes_nothing(sampler: str, remembers: bool) -> None:
    model, (latents, actions) = world(sink=1, window=2), given_clips(2, 7)
    sampling = Sampling(sampler=sampler, steps=3, shift=3.0, guidance=None)  # type: ignore[arg-type]
    kept, fresh = (
        Roll(model, memory, sampling, 2, remembers).out(latents[:, :, :1], actions, ChunkNoise([1, 2]))
        for memory in (Memory, Forgetful)
    )
    assert torch.equal(kept, fresh)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # of torch's norm under autocast
@pytest.mark.parametrize("trained", ["full", "lora", "bf16 autocast"])
def test_a_rollout_equals_the_network_as_it_is_trained(trained: str) -> None:
    """In fewer calls of torch: layers are joined, norms are computed in pairs and levels once for all frames."""
    model, plain = world(sink=1, window=2), nullcontext()
    if trained == "lora":
        strategies.train_adapter(model, Lora(rank=2, alpha=2, targets=("to_q", "to_k", "to_v")))
        for name, part in model.named_parameters():
            if "lora" in name:
                torch.nn.init.normal_(part, std=0.1)
    close = 0.1 if trained == "bf16 autocast" else 1e-5
    latents, actions = given_clips(2, 7)
    roll = Roll(model, Memory, SAMPLING, 2, remembers=True)
    with torch.autocast("cpu", torch.bfloat16) if trained == "bf16 autocast" else plain:
        made = roll.out(latents[:, :, :1], actions, ChunkNoise([1, 2]))
        noise, past, lengths = ChunkNoise([1, 2]), latents[:, :, :1], [1]
        for stop in (3, 5, 7):
            drawn = noise((CHANNELS, 2, SIDE, SIDE))
            past = torch.cat([past, roll.again(past, actions[:, :stop], drawn, lengths)], dim=2)
            lengths.append(2)
    assert torch.allclose(made, past, atol=close)


def test_what_a_rollout_made_and_left_can_be_trained_on() -> None:
    for cached in (turns, space_and_time):
        cached.cache_clear()
    model = world(sink=1, window=2)
    latents, actions = given_clips(2, 5)
    made = Roll(model, Memory, SAMPLING, 2, remembers=True).out(latents[:, :, :1], actions, ChunkNoise([1, 2]))
    made.add_(0.0)
    velocity(model, made, actions).square().mean().backward()
    assert all(part.grad is not None and part.grad.any() for part in model.actions.parameters())


@given(tokens=st.integers(1, 5), heads=st.integers(1, 3), eps=st.sampled_from([1e-6, 0.3]))
def test_norms_in_pairs_are_the_norms_one_by_one(tokens: int, heads: int, eps: float) -> None:
    of_query, of_key = torch.nn.RMSNorm(4, eps=eps), torch.nn.RMSNorm(4, eps=eps)
    both = torch.randn(tokens, 2, heads, 4)
    with torch.no_grad():
        of_query.weight.normal_()
        of_key.weight.normal_()
        wanted = torch.stack([of_query(both[:, 0]), of_key(both[:, 1])], 1)
        assert torch.allclose(Pair(of_query, of_key, between=1)(both), wanted, atol=1e-6)
        assert torch.allclose(rms_normed(of_key, both), of_key(both), atol=1e-6)
