"""`reel play --live`: the page, who may ask, and two pages at once."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.generation.world_model import live
from pipelines.generation.world_model.live import LiveServer, World
from pipelines.generation.world_model.player import Player, load_world
from tests.generation.world_model.toy import Toy, params


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> Player:
    toy = Toy(tmp_path_factory.mktemp("world"))
    folder = toy.train(params("world_model_autoregressive", rollouts=None, curriculum=None, own_errors=None), "world")
    return Player(load_world(folder, "cpu", None, None), toy.autoencoder, toy.picture())


@pytest.fixture
def server(player: Player) -> Iterator[LiveServer]:
    made = LiveServer(World(player, 0), 0)
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def asked(server: LiveServer, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and answer; a question with a body is a POST of JSON unless ``headers`` say otherwise."""
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    told = {"Content-Type": "application/json"} if body is not None else {}
    content = body if isinstance(body, str | bytes | None) else json.dumps(body)
    sent = {**told, **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request("GET" if body is None else "POST", path, content, sent)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, json.loads(text) if "json" in str(answer.getheader("Content-Type")) else text


def pictures(answer: dict) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in answer["frames"]])


def test_a_page_gets_the_picture_then_chunks_under_what_is_held(server: LiveServer, player: Player) -> None:
    status, page = asked(server, "/")
    assert status == 200 and "<canvas" in page
    _, started = asked(server, "/start", {})
    assert started["keys"] == ["W", "A", "S", "D"] and started["axes"] == ["mouse_dx", "mouse_dy"]
    driver = started["driver"]
    counts = []
    for held in ({}, {"W": 1}, {"A": 1, "mouse_dx": -0.5}):
        status, answer = asked(server, "/next", {"driver": driver, "held": held})
        assert status == 200 and answer["rate"] > 0
        counts.append(len(answer["frames"]))
    assert counts == [1, 8, 8] and pictures(answer).shape == (8, 32, 32, 3)
    assert server.world.held.tolist() == [0, 1, 0, 0, -0.5, 0]


def test_the_world_that_is_driven_is_the_one_that_is_played(server: LiveServer, player: Player) -> None:
    driver = asked(server, "/start", {})[1]["driver"]
    seen = [pictures(asked(server, "/next", {"driver": driver, "held": {"W": 1}})[1]) for _ in range(3)]

    def rows(start: int, stop: int) -> np.ndarray:
        return np.tile(np.array([1, 0, 0, 0, 0, 0], np.float32), (stop - start, 1))

    played = player.play(rows, 0)
    for one in seen:
        assert np.array_equal(one, next(played))


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
    ],
)
@pytest.mark.parametrize(("path", "body"), [("/", None), ("/start", {"take": True}), ("/next", {"driver": "x"})])
def test_another_host_or_origin_is_refused(server: LiveServer, headers: dict, path: str, body: Any) -> None:
    driver = server.world.driver
    status, answer = asked(server, path, body, **headers)
    assert status == 403 and "error" in answer and server.world.driver == driver


def test_our_own_origin_is_answered(server: LiveServer) -> None:
    for name in ("127.0.0.1", "localhost"):
        own = f"http://{name}:{server.server_port}"
        assert asked(server, "/start", {"take": True}, Origin=own, Host=own.removeprefix("http://"))[0] == 200


def test_the_server_listens_on_loopback_alone(server: LiveServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


def test_a_second_page_is_told_may_take_over_and_the_world_goes_on(server: LiveServer) -> None:
    first = asked(server, "/start", {})[1]["driver"]
    asked(server, "/next", {"driver": first, "held": {}})
    status, answer = asked(server, "/start", {})
    assert status == 409 and "another page drives" in answer["error"]
    assert asked(server, "/next", {"driver": first, "held": {}})[0] == 200, "the first page still drives"
    second = asked(server, "/start", {"take": True})[1]["driver"]
    status, answer = asked(server, "/next", {"driver": first, "held": {}})
    assert status == 409 and "took over" in answer["error"]
    assert len(asked(server, "/next", {"driver": second, "held": {}})[1]["frames"]) == 8, "not from the picture anew"
    anew = asked(server, "/start", {"take": True, "anew": True})[1]["driver"]
    assert len(asked(server, "/next", {"driver": anew, "held": {}})[1]["frames"]) == 1


def test_a_page_that_was_closed_does_not_stand_in_the_way(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(server, "/start", {})
    monkeypatch.setattr(live, "IDLE_SECONDS", 0.0)
    assert asked(server, "/start", {})[0] == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"driver": "DRIVER", "held": {"Q": 1}}, 400),
        ({"driver": "DRIVER", "held": {"W": 7}}, 400),
        ({"driver": "DRIVER", "held": {"W": "1"}}, 400),
        ({"driver": "DRIVER", "held": {"mouse_dx": float("nan")}}, 400),
        ({"driver": "someone"}, 409),
        ("no json", 400),
        ("[1]", 400),
        ("[" * 5000, 400),
        ("{}" + " " * 20_000, 400),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_and_the_world_stays(
    server: LiveServer, body: Any, status: int
) -> None:
    driver = asked(server, "/start", {})[1]["driver"]
    text = (body if isinstance(body, str) else json.dumps(body)).replace("DRIVER", driver)
    assert asked(server, "/next", text)[0] == status
    assert asked(server, "/next", {"driver": driver, "held": {}})[0] == 200


def test_a_form_of_another_page_cannot_ask(server: LiveServer) -> None:
    assert asked(server, "/start", b"take=1", Content_Type="application/x-www-form-urlencoded")[0] == 400
    assert asked(server, "/none", {})[0] == 404 and asked(server, "/none")[0] == 404


@pytest.mark.parametrize(
    ("error", "told"), [(BrokenPipeError(), False), (ConnectionResetError(), False), (ValueError("x"), True)]
)
def test_a_page_that_goes_away_during_an_answer_is_no_news(
    server: LiveServer, capsys: pytest.CaptureFixture[str], error: Exception, told: bool
) -> None:
    try:
        raise error
    except Exception:
        server.handle_error(None, ("127.0.0.1", 1))  # as socketserver calls it
    assert ("Traceback" in capsys.readouterr().err) == told
