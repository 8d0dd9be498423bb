"""Quality: what the measures say, and what the thresholds decide."""

import functools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import laplace

from pipelines.footage.cutting_params import Quality
from pipelines.footage.lookalikes import KeptClips, lookalikes
from pipelines.footage.quality import grey, inside_bars, judge, measure, motion, perceptual_hash, sharpness

OFF: dict[str, Any] = {"motion": None, "sharpness": None, "duplicate": None, "caption": None}
flips = st.lists(st.integers(0, 255), max_size=12)
codes = st.lists(st.tuples(st.integers(0, 3), flips, st.integers(0, 3)), min_size=1, max_size=12)


def scene(seed: int = 0, num_frames: int = 5, size: int = 64) -> np.ndarray:
    """Smooth random blobs that drift."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 230, (num_frames, 8, 8, 3)).astype(np.uint8)
    return coarse.repeat(size // 8, 1).repeat(size // 8, 2)


def clip(key: str, frames: np.ndarray, source: str | None = None, caption: str = "a thing") -> dict[str, Any]:
    measures = {f"quality_{name}": value for name, value in measure(frames).items()}
    return {"key": key, "content_hash": key, "source": source or key, "caption": caption, **measures}


def decided(clips: list[dict[str, Any]], **rules: Any) -> list[dict[str, Any]]:
    return judge(Quality.model_validate({**OFF, **rules}), clips)


def test_motion_is_the_mean_change_and_undefined_for_one_frame() -> None:
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    frames[1], frames[2] = 10, 30
    assert motion(frames) == pytest.approx(15.0, abs=1e-3)
    assert motion(frames[:1]) is None


def test_blurring_lowers_sharpness() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    blurred = (frames + np.roll(frames, 1, 2).astype(int)).astype(np.uint16) // 2
    assert sharpness(blurred.astype(np.uint8)) < 0.7 * sharpness(frames)
    assert sharpness(np.full((1, 16, 16, 3), 90, np.uint8)) == 0


def test_a_resized_and_dimmed_copy_keeps_its_hash_and_other_footage_does_not() -> None:
    def apart(one: str, other: str) -> int:
        return (int(one, 16) ^ int(other, 16)).bit_count()

    first = perceptual_hash(scene(0))
    assert apart(first, perceptual_hash(scene(0, size=128))) <= 8
    assert apart(first, perceptual_hash((scene(0) * 0.9).astype(np.uint8))) <= 8
    assert apart(first, perceptual_hash(scene(1))) > 60


@settings(max_examples=60, deadline=None)
@given(codes, st.integers(0, 15))
def test_every_pair_within_the_threshold_is_found(drawn: list[tuple[int, list[int], int]], most: int) -> None:
    """Against all pairs: hashes are some unlike ones, in part flat, with some bits flipped; of four sources."""
    bases = [
        int(perceptual_hash(frames), 16) for frames in (scene(0), scene(1), _flat_below(2), np.zeros_like(scene()))
    ]
    values, labels = [], [(source,) for _, _, source in drawn]
    for base, flips, _ in drawn:
        values.append(functools.reduce(lambda value, bit: value ^ 1 << bit, flips, bases[base]))
    kept: list[int] = []
    for place, twin in enumerate(lookalikes([f"{value:064x}" for value in values], labels, most)):
        near = [other for other in kept if (values[other] ^ values[place]).bit_count() <= most]
        near = [other for other in near if labels[other] != labels[place]]
        assert twin == (near[0] if near else None)
        if not near:
            kept.append(place)


def test_only_clips_are_compared_of_whose_labels_no_part_is_equal() -> None:
    same = [perceptual_hash(scene(0))] * 4
    labels = [("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")]
    assert lookalikes(same, labels, 8) == [None, None, 1, 0]


def test_duplicates_are_sought_between_sources_in_the_order_of_content() -> None:
    clips = [clip("b", scene(0), "x.mp4"), clip("a", scene(0), "y.mp4"), clip("c", scene(0), "y.mp4")]
    found = decided(clips, duplicate={"max_bits": 8})
    assert [one["duplicate_of"] for one in found] == ["a", None, None]
    assert [one["kept"] for one in found] == [False, True, True]


def test_each_decision_is_told_and_what_is_not_judged_is_off() -> None:
    still = np.repeat(scene(1, 1), 5, 0)
    clips = [clip("a", scene(0)), clip("b", still), clip("c", scene(2, 1)), clip("d", np.full_like(still, 90))]
    rules = {"motion": {"min_change": 1.0, "max_change": None}, "sharpness": {"min_variance": 1.0}}
    found = decided(clips, **rules)
    assert [one["motion"] for one in found] == ["kept", "refused", "off", "refused"]
    assert [one["sharpness"] for one in found] == ["kept", "kept", "kept", "refused"]
    assert [one["kept"] for one in found] == [True, False, True, False]
    assert {one["duplicate"] for one in found} == {one["caption"] for one in found} == {"off"}
    wild = decided(clips[:1], motion={"min_change": 0.0, "max_change": 1.0})
    assert wild[0]["motion"] == "refused"


def letterboxed(seed: int, bars: str) -> np.ndarray:
    """A scene with black bars, noisy as a codec leaves them, over half of the picture."""
    frames = np.random.default_rng(seed).integers(0, 12, (5, 64, 64, 3), np.uint8)
    inside = scene(seed)[:, ::2, :] if bars == "above" else scene(seed)[:, :, ::2]
    rows, columns = (slice(16, 48), slice(None)) if bars == "above" else (slice(None), slice(16, 48))
    frames[:, rows, columns] = np.maximum(inside, 40)
    return frames


@pytest.mark.parametrize("bars", ["above", "beside"])
def test_bars_are_no_part_of_what_is_compared(bars: str) -> None:
    frames = letterboxed(0, bars)
    alone = inside_bars(frames)
    assert alone.shape == (5, 32, 64, 3) if bars == "above" else alone.shape == (5, 64, 32, 3)
    assert perceptual_hash(frames) == perceptual_hash(alone)
    dark = np.full((5, 64, 64, 3), 9, np.uint8)
    assert inside_bars(dark).shape == dark.shape


FOOTAGE = {
    "bars above": lambda seed: letterboxed(seed, "above"),
    "bars beside": lambda seed: letterboxed(seed, "beside"),
    "a subtitle in the bars": lambda seed: _subtitled(letterboxed(seed, "above")),
    "half of one level": lambda seed: _flat_below(seed),
}


@pytest.mark.parametrize("kind", FOOTAGE)
def test_few_of_all_pairs_are_compared_where_much_of_the_picture_says_nothing(kind: str) -> None:
    count = 600
    hashes = [perceptual_hash(FOOTAGE[kind](seed)) for seed in range(count)]
    kept = KeptClips(hashes, [(place,) for place in range(count)], 15)
    for place in range(count):
        assert kept.twin(place) is None
        kept.add(place)
    assert kept.compared < count * count / 2 * 0.01


def test_clips_of_one_source_that_look_alike_are_not_compared() -> None:
    count = 600
    labels = [("lecture",) if place < count else ("other",) for place in range(count + 1)]
    kept = KeptClips([perceptual_hash(scene(0))] * (count + 1), labels, 15)
    for place in range(count):
        assert kept.twin(place) is None
        kept.add(place)
    assert kept.compared == 0
    assert kept.twin(count) == 0


def _flat_below(seed: int) -> np.ndarray:
    """The lower half is one level, as of a slide or a sky."""
    frames = scene(seed)
    frames[:, 32:] = 128
    return frames


def _subtitled(frames: np.ndarray) -> np.ndarray:
    """The same with white words in the lower bar."""
    frames[:, 54:58, 20:44:2] = 235
    return frames


def test_luma_and_sharpness_of_a_hand_case_and_of_scipys_laplacian() -> None:
    frames = np.zeros((1, 3, 3, 3), np.uint8)
    frames[0, 1, 1] = (100, 200, 50)
    luma = 0.299 * 100 + 0.587 * 200 + 0.114 * 50
    assert grey(frames)[0, 1, 1] == pytest.approx(luma, rel=1e-6)
    noise = np.random.default_rng(0).integers(0, 256, (1, 20, 24, 3)).astype(np.uint8)
    expected = laplace(grey(noise)[0].astype(np.float64))[1:-1, 1:-1].var()
    assert sharpness(noise) == pytest.approx(expected, rel=1e-4)
