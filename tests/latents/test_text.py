"""Prompts to embeddings: equal prompts equal bytes, words kept apart, pretrained ones by folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoTokenizer, BertConfig, BertModel, T5EncoderModel

from pipelines.latents.params import EmbeddedText, PretrainedText
from pipelines.latents.text import END, PAD, UNKNOWN, TextEncoder, embedded, text_encoder, vocabulary
from pipelines.stage import StageError
from tests.models.hub_cache import COMMIT, offline, put

PARAMS = EmbeddedText(kind="embedded", dim=32, layers=2, heads=4, max_length=8, seed=0)
CAPTIONS = ["a red square moves right", "a green circle moves left", "a red circle spins"]


def test_the_vocabulary_is_the_words_of_the_captions() -> None:
    assert vocabulary(["B, a b", "a"]) == [PAD, END, UNKNOWN, ",", "a", "b"]


def test_embeddings_are_a_function_of_seed_and_prompt() -> None:
    first, second = embedded(PARAMS, CAPTIONS).embed(CAPTIONS, 2), embedded(PARAMS, CAPTIONS).embed(CAPTIONS, 2)
    other = embedded(PARAMS.model_copy(update={"seed": 1}), CAPTIONS).embed(CAPTIONS, 2)
    for caption in CAPTIONS:
        assert first[caption].tobytes() == second[caption].tobytes()
        assert first[caption].dtype == np.float16 and first[caption].shape == (len(caption.split()) + 1, 32)
        assert not np.array_equal(first[caption], other[caption])


def test_an_embedding_does_not_depend_on_the_prompts_beside_it() -> None:
    encoder = embedded(PARAMS, CAPTIONS)
    together = encoder.embed(CAPTIONS, 4)
    for caption in CAPTIONS:
        assert encoder.embed([caption], 4)[caption].tobytes() == together[caption].tobytes()


def test_captions_with_new_words_leave_the_embeddings_of_old_ones_alone() -> None:
    before = embedded(PARAMS, CAPTIONS).embed(CAPTIONS, 4)
    after = embedded(PARAMS, [*CAPTIONS, "an azure zebra beyond"]).embed(CAPTIONS, 4)
    assert all(before[caption].tobytes() == after[caption].tobytes() for caption in CAPTIONS)


def test_every_word_can_be_read_back_from_the_embeddings() -> None:
    random = np.random.default_rng(0)
    colours, shapes = ["red", "green", "blue"], ["square", "circle"]
    captions = [f"a {c} {s} on {b}" for c in colours for s in shapes for b in "pqrstuvw"]
    vectors = embedded(PARAMS, captions).embed(captions, 16)
    features = np.stack([vectors[caption].astype(np.float64).mean(0) for caption in captions])
    labels = np.array([colours.index(caption.split()[1]) for caption in captions])
    order = random.permutation(len(captions))
    train, test = order[:32], order[32:]
    features = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    ridge = features[train].T @ features[train] + 1e-3 * np.eye(features.shape[1])
    weights = np.linalg.solve(ridge, features[train].T @ np.eye(3)[labels[train]])
    assert (np.argmax(features[test] @ weights, 1) == labels[test]).mean() == 1.0


def test_the_empty_prompt_and_unknown_words_have_embeddings_and_long_prompts_are_cut() -> None:
    encoder = embedded(PARAMS, CAPTIONS)
    found = encoder.embed(["", "never seen", "a " * 40], 4)
    assert [len(found[prompt]) for prompt in found] == [1, 3, 8]
    assert all(np.isfinite(vectors).all() for vectors in found.values())


def test_a_saved_encoder_loads_with_transformers_alone_and_agrees(tmp_path: Path) -> None:
    encoder = embedded(PARAMS, CAPTIONS)
    assert encoder.save(tmp_path / "a") == embedded(PARAMS, CAPTIONS).save(tmp_path / "b")
    network, tokenizer = T5EncoderModel.from_pretrained(tmp_path / "a"), AutoTokenizer.from_pretrained(tmp_path / "a")
    with torch.no_grad():
        hidden = network(**tokenizer(CAPTIONS[0], return_tensors="pt")).last_hidden_state[0]
    assert np.allclose(hidden.numpy(), encoder.embed(CAPTIONS[:1], 1)[CAPTIONS[0]], atol=2e-3)


def test_a_pretrained_encoder_loads_by_folder(tmp_path: Path) -> None:
    embedded(PARAMS, CAPTIONS).save(tmp_path / "t5")
    named = PretrainedText(
        kind="pretrained",
        name=str(tmp_path / "t5"),
        revision=None,
        subfolder=None,
        tokenizer_subfolder=None,
        max_length=8,
    )
    encoder = text_encoder(named, [])
    assert encoder.dim == 32
    expected = embedded(PARAMS, CAPTIONS).embed(CAPTIONS, 2)
    assert all(np.array_equal(vector, expected[prompt]) for prompt, vector in encoder.embed(CAPTIONS, 2).items())


def test_a_name_in_the_hub_cache_is_loaded_without_a_network_and_its_commit_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = embedded(PARAMS, CAPTIONS)
    made.network.save_pretrained(tmp_path / "video/text_encoder")
    made.tokenizer.save_pretrained(tmp_path / "video/tokenizer")  # no config.json there, as in pipelines of diffusers
    put(tmp_path / "hub", "lab/video", tmp_path / "video")
    offline(tmp_path / "hub", monkeypatch)
    named = PretrainedText(
        kind="pretrained",
        name="lab/video",
        revision=None,
        subfolder="text_encoder",
        tokenizer_subfolder="tokenizer",
        max_length=8,
    )
    encoder = text_encoder(named, [])
    assert (encoder.id, encoder.revision) == ("lab/video", COMMIT)
    expected = embedded(PARAMS, CAPTIONS).embed(CAPTIONS, 2)
    assert all(np.array_equal(vector, expected[prompt]) for prompt, vector in encoder.embed(CAPTIONS, 2).items())


def test_an_encoder_of_another_family_loads_too(tmp_path: Path) -> None:
    embedded(PARAMS, CAPTIONS).tokenizer.save_pretrained(tmp_path / "bert")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=32, **sizes)).save_pretrained(tmp_path / "bert")
    named = PretrainedText(
        kind="pretrained",
        name=str(tmp_path / "bert"),
        revision=None,
        subfolder=None,
        tokenizer_subfolder=None,
        max_length=8,
    )
    encoder = text_encoder(named, [])
    assert isinstance(encoder, TextEncoder) and encoder.embed(["red"], 1)["red"].shape == (2, 16)


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
T5_SIZES = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


@pytest.mark.parametrize("family", ["t5", "umt5", "clip", "clip_pair", "bert"])
def test_every_family_gives_at_real_length_what_it_gives_padded_with_a_mask(tmp_path: Path, family: str) -> None:
    networks = {
        "t5": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**T5_SIZES)),
        "umt5": lambda: transformers.UMT5EncoderModel(transformers.UMT5Config(**T5_SIZES)),
        "clip": lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(vocab_size=32, eos_token_id=1, **SMALL)),
        "clip_pair": lambda: transformers.CLIPModel(
            transformers.CLIPConfig(
                text_config={"vocab_size": 32, "eos_token_id": 1, **SMALL},
                vision_config={"image_size": 8, "patch_size": 4, **SMALL},
            )
        ),
        "bert": lambda: BertModel(BertConfig(vocab_size=32, **SMALL)),
    }
    networks[family]().save_pretrained(tmp_path)
    embedded(PARAMS, CAPTIONS).tokenizer.save_pretrained(tmp_path)
    named = PretrainedText(
        kind="pretrained", name=str(tmp_path), revision=None, subfolder=None, tokenizer_subfolder=None, max_length=8
    )
    encoder = text_encoder(named, [])
    prompts = ["red", "a green circle moves left"]
    found = encoder.embed(prompts, 2)
    padded = encoder.tokenizer(prompts, padding="max_length", max_length=8, return_tensors="pt")
    with torch.no_grad():
        hidden = encoder.network(padded["input_ids"], attention_mask=padded["attention_mask"]).last_hidden_state
    for prompt, row, mask in zip(prompts, hidden, padded["attention_mask"], strict=True):
        assert found[prompt].shape == (int(mask.sum()), 16) == (len(prompt.split()) + 1, 16)
        assert np.allclose(found[prompt], row[mask.bool()].numpy(), atol=4e-3)


def test_a_prompt_longer_than_the_encoder_has_places_for_is_refused_before_work(tmp_path: Path) -> None:
    sizes = {"vocab_size": 32, "max_position_embeddings": 8, **SMALL}
    transformers.CLIPTextModel(transformers.CLIPTextConfig(**sizes)).save_pretrained(tmp_path)
    embedded(PARAMS, CAPTIONS).tokenizer.save_pretrained(tmp_path)
    named = PretrainedText(
        kind="pretrained", name=str(tmp_path), revision=None, subfolder=None, tokenizer_subfolder=None, max_length=9
    )
    with pytest.raises(StageError, match=r"latent_shards\.text\.max_length 9 is more than the 8 places"):
        text_encoder(named, [])


def test_an_encoder_that_is_nowhere_is_said_in_two_lines() -> None:
    named = PretrainedText(
        kind="pretrained", name="nobody/nothing", revision=None, subfolder=None, tokenizer_subfolder=None, max_length=8
    )
    with pytest.raises(StageError) as caught:
        text_encoder(named, [])
    assert str(caught.value).startswith("pretrained text encoder 'nobody/nothing' cannot be loaded: ")
    assert len(str(caught.value).splitlines()) == 2


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(StageError, match=r"latent_shards\.text\.dim 32 is not a multiple of heads 5"):
        embedded(PARAMS.model_copy(update={"heads": 5}), CAPTIONS)
