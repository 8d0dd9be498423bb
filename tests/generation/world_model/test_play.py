"""`reel play`: videos of any length from a picture and actions, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.chain import carried
from pipelines.data.action_plans import read_log
from pipelines.data.contract import ACTIONS
from pipelines.data.video import read_clip
from pipelines.generation.world_model import play
from pipelines.generation.world_model.overlay import Overlay
from pipelines.generation.world_model.player import Player, load_world
from pipelines.models.autoencoder import load_autoencoder
from pipelines.models.pretrained_autoencoder import PretrainedVideoAutoencoder
from pipelines.models.streaming import StreamingDecoder
from pipelines.stage import StageError, digest
from tests.generation.world_model.toy import CHANNELS, Toy, params
from tests.models.tiny_autoencoders import tiny


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    made = Toy(tmp_path_factory.mktemp("world"))
    made.train(params("world_model_autoregressive", rollouts=None, curriculum=None, own_errors=None), "world")
    made.picture()
    return made


def words(toy: Toy, *more: str) -> list[str]:
    places = {"checkpoint": toy.folder / "checkpoints/world", "autoencoder": toy.autoencoder}
    named = [word for name, place in places.items() for word in (f"--{name}", str(place))]
    return [*named, "--image", str(toy.folder / "first.png"), "--out", str(toy.folder / "demo.mp4"), *more]


@pytest.mark.parametrize("frames", [1, 8, 9, 20])
def test_a_video_has_as_many_frames_as_asked_for_and_two_files_beside_it(toy: Toy, frames: int) -> None:
    assert play.main(words(toy, "--actions", "random", "--num-frames", str(frames))) == 0
    plain, drawn = read_clip(toy.folder / "demo.mp4"), read_clip(toy.folder / "demo-keys.mp4")
    assert plain.shape == (frames, 32, 32, 3) and drawn.shape == (frames, 320, 320, 3)
    assert len(read_log(toy.folder / "demo.csv", ACTIONS, 8.0)) == frames
    assert not list(toy.folder.glob("*.part"))


def test_a_trajectory_follows_the_picture_and_ends_with_nothing_held(toy: Toy, capsys: pytest.CaptureFixture) -> None:
    assert play.main(words(toy, "--actions", "W*3,D*2", "--num-frames", "9")) == 0
    held = read_log(toy.folder / "demo.csv", ACTIONS, 8.0)
    assert held[1:, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0] and held[1:, 3].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    assert "5 frames; nothing is held in the last 3 of 9" in capsys.readouterr().out


def test_its_own_log_played_again_gives_the_same_video(toy: Toy) -> None:
    assert play.main(words(toy, "--actions", "random", "--num-frames", "17", "--seed", "3")) == 0
    first, _ = carried(toy.folder / "demo.mp4")
    (toy.folder / "demo.csv").rename(toy.folder / "log.csv")
    assert play.main(words(toy, "--actions", str(toy.folder / "log.csv"), "--seed", "3")) == 0
    again, now = carried(toy.folder / "demo.mp4")
    assert again["artifact"] == first["artifact"] == now  # every byte but chain and credentials, which hold the time
    assert again["nodes"][now]["inputs"]["checkpoint"]["digest"] == digest(toy.folder / "checkpoints/world")
    assert carried(toy.folder / "demo-keys.mp4")[1] != now


def test_what_is_played_is_what_decoding_the_whole_rollout_gives(toy: Toy) -> None:
    player = Player(load_world(toy.folder / "checkpoints/world", "cpu", None, None), toy.autoencoder, toy.picture())
    rows = np.random.default_rng(0).integers(0, 2, (33, 6)).astype(np.float32)
    parts = []
    for made in player.play(lambda start, stop: rows[start:stop], seed=2):
        parts.append(made)
        if sum(map(len, parts)) >= 33:
            break
    actions = torch.from_numpy(np.stack([rows[:1].repeat(4, 0), *np.split(rows[1:], 8)]))[None]
    told = {"first_frame": player.first, "actions": actions}
    whole = player.autoencoder.decode(player.world.sample(told, seeds=[2]))
    decoded = ((whole[0].permute(1, 2, 3, 0) + 1) * 127.5).round().byte().numpy()
    assert np.abs(np.concatenate(parts).astype(int) - decoded).max() <= 1


@pytest.mark.parametrize("kind", ["ours", "AutoencoderKLWan"])
def test_decoding_in_pieces_is_decoding_the_whole(toy: Toy, kind: str) -> None:
    autoencoder = load_autoencoder(toy.autoencoder) if kind == "ours" else PretrainedVideoAutoencoder(tiny(kind))
    channels = CHANNELS if kind == "ours" else len(autoencoder.latent_mean)
    latents = torch.randn(2, channels, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    streaming = StreamingDecoder(autoencoder)
    parts = [streaming.decode(part) for part in latents.split([1, 2, 1, 2], dim=2)]
    assert torch.allclose(torch.cat(parts, 2), autoencoder.decode(latents), atol=1e-5)


def test_an_autoencoder_of_whole_clips_cannot_play() -> None:
    with pytest.raises(StageError, match="decodes whole clips, so a rollout would show a seam"):
        StreamingDecoder(PretrainedVideoAutoencoder(tiny("AutoencoderKLLTXVideo")))


def test_a_picture_of_another_size_is_scaled_and_said(toy: Toy, capsys: pytest.CaptureFixture) -> None:
    toy.picture((50, 40))
    assert play.main(words(toy, "--actions", "forward", "--num-frames", "5")) == 0
    assert "50x40 pixels, scaled and cropped to the network's 32x32" in "".join(capsys.readouterr())
    toy.picture()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--actions", "Q*3"], "unknown key 'Q'; known here: W, A, S, D"),
        (["--actions", "none.csv"], "none.csv: cannot be read (No such file or directory)"),
        (["--actions", "forward", "--image", "none.png"], "none.png: cannot be read as a picture"),
        (["--actions", __file__], "a log is a csv whose name ends in .csv"),
        (["--actions", "forward", "--image", __file__], "cannot be read as a picture (is no picture known here)"),
        (["--actions", "forward", "--device", "cudda"], "device cudda: not on this machine, which has cpu"),
        (["--actions", "forward", "--device", "xpu"], "device xpu: not on this machine"),
        (["--actions", "forward", "--out", "demo.avi"], "end the name in .mp4"),
        (["--actions", "forward", "--checkpoint", "none"], "no checkpoint of a generator"),
        (["--actions", "forward", "--autoencoder", "none"], "none"),
    ],
)
def test_what_cannot_be_played_is_said_in_a_line(
    toy: Toy, more: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    assert play.main(words(toy, "--num-frames", "5", *more)) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("play: ") and len(error.splitlines()) <= 2


def test_a_picture_that_is_all_length_is_refused(toy: Toy, capsys: pytest.CaptureFixture) -> None:
    toy.picture((3000, 20))
    assert play.main(words(toy, "--actions", "forward", "--num-frames", "5")) == 2
    error = capsys.readouterr().err
    assert "first.png: 3000x20 square pixels, for clips of 32x32" in error and "crop it" in error
    toy.picture()


def test_an_autoencoder_that_is_not_named_is_found_and_stands_in_the_chain(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the README's command leaves it out: the one in ``checkpoints/`` whose digest the network states."""
    monkeypatch.chdir(toy.folder)
    if not (found := toy.folder / "checkpoints/autoencoder").exists():
        shutil.copytree(toy.autoencoder, found)
    left_out = [word for word in words(toy, "--actions", "random", "--num-frames", "5")]
    place = left_out.index("--autoencoder")
    del left_out[place : place + 2]
    assert play.main(left_out) == 0
    document, _ = carried(toy.folder / "demo.mp4")
    assert digest(found) in json.dumps(document)


def test_a_log_shorter_than_the_video_is_refused(toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "log.csv").write_text("frame,W\n0,1\n1,1\n")
    assert play.main(words(toy, "--actions", str(tmp_path / "log.csv"), "--num-frames", "5")) == 2
    assert "2 frames, --num-frames 5 asks for more" in capsys.readouterr().err


def test_the_overlay_shows_what_is_held_and_where_the_mouse_is() -> None:
    overlay, frame = Overlay(ACTIONS, (32, 32)), np.zeros((32, 32, 3), np.uint8)
    nothing = overlay.draw(frame, np.zeros(6, np.float32))
    held = overlay.draw(frame, np.array([0, 1, 0, 0, 0, 0], np.float32))
    changed = np.argwhere((nothing != held).any(-1))
    assert nothing.shape == (320, 320, 3) and len(changed) > 100 and changed[:, 1].max() < 80, "the key A alone"
    moved = [overlay.draw(frame, np.array([0, 0, 0, 0, 1, 0], np.float32)) for _ in range(100)]
    assert (moved[0] != nothing).any() and (moved[98] == moved[99]).all(), "it stops at the border"
