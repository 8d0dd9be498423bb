"""Facts of the machine: cores with a container's limit, threads by the graph, one allocator of GPUs, one grace time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dagster_dvc import environment as dvc_environment
from pipelines import devices, launch, machine, ownership
from pipelines.commands import stage_entries
from pipelines.stage import StageError

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("file", "text", "most"),
    [
        ("cpu.max", "150000 100000\n", 1),
        ("cpu.max", "max 100000\n", 10**6),
        ("cpu.max", "50000 100000\n", 1),
        ("cpu/cpu.cfs_quota_us", "100000\n", 1),
        ("cpu/cpu.cfs_quota_us", "-1\n", 10**6),
    ],
)
def test_cores_are_those_that_the_container_may_use(file: str, text: str, most: int, tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / file).write_text(text)
    assert machine.cores(tmp_path) == min(most, machine.cores(tmp_path / "none"))
    assert machine.cores(tmp_path / "none") <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("groups", "limited", "most"),
    [
        ("0::/user.slice/user-7.slice/run.scope\n", "user.slice/user-7.slice/cpu.max", 1),
        ("0::/user.slice/user-7.slice/run.scope\n", "user.slice/user-8.slice/cpu.max", 10**6),
        ("4:memory:/a\n3:cpu,cpuacct:/docker/c\n1:name=systemd:/b\n", "cpu/docker/c/cpu.max", 1),
        ("0::/outside/of/this/container\n", "cpu.max", 1),
        ("no group\n", "cpu.max", 1),
    ],
)
def test_the_limit_of_the_group_or_of_one_above_it_holds(groups: str, limited: str, most: int, tmp_path: Path) -> None:
    (tmp_path / limited).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / limited).write_text("100000 100000\n")
    (tmp_path / "own").write_text(groups)
    assert machine.cores(tmp_path, tmp_path / "own") == min(most, machine.cores(tmp_path / "none"))


def entry(deps: list[str], outs: list[str], pool: str | None = None) -> dict[str, object]:
    meta = {"dagster": {"pool": pool}} if pool else {}
    return {"cmd": "python -m pipelines.launch a b", "deps": deps, "outs": outs, "meta": meta}


GRAPH = {
    "code": {"cmd": "python -m pipelines.code", "outs": ["code.json"]},
    "clips": entry([], ["data/clips"]),
    "left": entry(["data/clips"], ["data/left"], "gpu"),
    "right": entry(["data/clips/a"], [{"data/right": {"cache": False}}], "gpu"),  # type: ignore[list-item]
    "score": entry(["data"], ["scores"]),
}


def test_a_stage_beside_which_none_can_run_gets_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [name for name in GRAPH if machine.is_alone(name, GRAPH)] == ["clips", "score"]
    monkeypatch.setattr(machine, "cores", lambda: 8)
    assert {name: machine.threads(name, GRAPH) for name in ("clips", "left")} == {"clips": 8, "left": 4}
    monkeypatch.setenv("REEL_JOBS", "4")
    assert machine.threads("left", GRAPH) == 2 and machine.threads("left", GRAPH, processes=4) == 1
    assert machine.threads("not in the graph", GRAPH) == 2


def test_a_stage_that_runs_on_request_only_takes_no_cores_from_the_others() -> None:
    beside = entry(["data/clips"], ["more"])
    assert not machine.is_alone("score", {**GRAPH, "beside": beside})
    assert machine.is_alone("score", {**GRAPH, "beside": {**beside, "meta": {"dagster": {"optional": True}}}})


def test_the_shipped_stages_with_nothing_beside_them_have_all_cores() -> None:
    entries = stage_entries(ROOT / "dvc.yaml")
    alone = {"raw_video", "autoencoder", "latent_shards", "evaluation", "report"}
    assert alone <= {name for name in entries if machine.is_alone(name, entries)}


def test_no_command_of_the_graph_states_a_fact_of_the_machine() -> None:
    assert not [name for name, one in stage_entries(ROOT / "dvc.yaml").items() if "--threads" in str(one["cmd"])]
    with pytest.raises(StageError, match="threads is a fact of the machine"):
        launch.launch(["--threads=2", "pipelines.toy", "make"])


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A machine with four GPUs, as its driver would say, and locks of its own; what stages say."""
    monkeypatch.setattr(machine, "gpus", lambda: 4)
    monkeypatch.setattr(machine, "torch_uses_gpus", lambda: True)
    monkeypatch.setattr(devices, "LOOK_EVERY_SECONDS", 0.01)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return []


def test_each_stage_gets_its_own_devices_and_the_next_waits_until_one_is_free(four: list[str]) -> None:
    got = threading.Event()

    def third() -> None:
        with devices.held("third", 2, {}, four.append) as found:
            four.append(found.variables()["CUDA_VISIBLE_DEVICES"])
            got.set()

    with devices.held("first", 3, {}, four.append) as first:
        assert first.variables() == {"CUDA_VISIBLE_DEVICES": "0,1,2"}
        with devices.held("second", 1, {}, four.append) as second:
            assert second.names == ("3",)
        waiting = threading.Thread(target=third)
        waiting.start()
        while not four:
            got.wait(0.01)
        assert not got.is_set() and "waits for 2 of 4 GPUs; held by 0: first (process" in four[0]
    assert got.wait(30)
    waiting.join()
    assert four[1:] == ["0,1"]


def test_a_device_is_free_when_the_last_process_that_inherited_it_is_gone(four: list[str]) -> None:
    with devices.held("first", 4, {}, four.append) as first:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=first.locks)
    with (
        pytest.raises(StageError, match="stopped while it waited"),
        devices.held("b", 1, {}, four.append, lambda: True),
    ):
        pass
    child.communicate(b"\n")
    with devices.held("third", 4, {}, four.append) as third:
        assert len(third.names) == 4


@pytest.mark.parametrize(
    ("visible", "config", "names"),
    [
        (None, {}, ["0", "1", "2", "3"]),
        ("2,3", {}, ["2", "3"]),
        ("GPU-8f2a,GPU-11c0", {}, ["GPU-8f2a", "GPU-11c0"]),
        ("", {}, []),
        ("-1", {}, []),
        (None, {"gpu_ids": "1,3"}, ["1", "3"]),
        (None, {"gpu_ids": "all"}, ["0", "1", "2", "3"]),
    ],
)
def test_the_environment_and_the_accelerate_config_choose(
    visible: str | None, config: dict[str, str], names: list[str], four: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.visible(config) == names


def test_more_than_there_are_is_refused(four: list[str]) -> None:
    with pytest.raises(StageError, match=r"num_processes 8.*4 GPUs are here"), devices.held("a", 8, {}, four.append):
        pass


def test_the_cpu_is_said_in_one_line_where_a_gpu_was_meant(four: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with devices.held("a", 1, {"use_cpu": True}, four.append) as found:
        assert found.variables() == {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"} and four == []
    monkeypatch.setattr(machine, "torch_uses_gpus", lambda: False)
    with devices.held("a", 1, {}, four.append) as found:
        assert found.names == ()
    monkeypatch.setattr(machine, "gpus", lambda: 0)
    with devices.held("a", 1, {"use_cpu": False}, four.append):
        pass
    first, second = four
    assert "4 GPUs, but the installed torch is built without them" in first
    assert "no driver of this machine offers one" in second


def test_only_stages_for_gpus_are_given_one() -> None:
    assert [name for name in GRAPH if devices.wants_gpu(name, GRAPH)] == ["left", "right"]
    assert devices.wants_gpu("not in the graph", GRAPH)


def test_a_folder_of_locks_that_is_a_link_is_not_used(four: list[str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"reel-devices-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StageError, match="is not of this user"), devices.held("a", 1, {}, four.append):
        pass


def test_what_ignores_every_signal_is_gone_in_ten_seconds_unless_somebody_asks_for_more() -> None:
    """A supervisor waits the grace time after SIGINT and a third of it after SIGTERM (docs/reliability.md)."""
    assert machine.DEFAULT_GRACE == dvc_environment.DEFAULT_GRACE
    assert machine.DEFAULT_GRACE * 4 / 3 <= 9


def test_one_setting_of_the_grace_time_is_read_alike_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for stated, seconds in ((None, 6.0), ("300", 300.0), ("", 6.0), ("0", 0.0)):
        monkeypatch.delenv("REEL_GRACE_SECONDS", raising=False)
        if stated is not None:
            monkeypatch.setenv("REEL_GRACE_SECONDS", stated)
        assert machine.grace_seconds() == dvc_environment.grace_seconds() == seconds
    for wrong in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv("REEL_GRACE_SECONDS", wrong)
        for read in (machine.grace_seconds, dvc_environment.grace_seconds):
            with pytest.raises(SystemExit, match=r"REEL_GRACE_SECONDS is .*; write seconds, such as 6\."):
                read()


def note(work: Path, host: str, beats: int) -> None:
    facts = {"pid": 7, "host": host, "since": "2026-01-31 14:02:11", "stage": "a", "beats": beats}
    (work / "owner.partial").write_text(json.dumps(facts))
    (work / "owner.partial").replace(work / "owner.json")


def test_a_living_owner_on_another_host_is_refused_with_words_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "BEAT_SECONDS", 0.05)
    note(tmp_path, "far", 1)
    ended = threading.Event()

    def lives() -> None:
        count = 1
        while not ended.wait(0.05):
            note(tmp_path, "far", count := count + 1)

    thread = threading.Thread(target=lives)
    thread.start()
    try:
        with (
            pytest.raises(StageError, match="being written by process 7 on far since 2026-01-31 14:02:11; wait"),
            ownership.owned("a", tmp_path),
        ):
            pass
    finally:
        ended.set()
        thread.join()
    assert json.loads((tmp_path / "owner.json").read_text())["host"] == "far"


def test_what_a_container_of_this_machine_left_behind_is_taken_over_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its name is another, but one kernel keeps the lock of both, and the lock is free."""
    monkeypatch.setattr(ownership, "BOOT", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("5f2c\n")
    note(tmp_path, "container7", 3)
    (tmp_path / "owner.json").write_text(
        json.dumps({**json.loads((tmp_path / "owner.json").read_text()), "boot": "5f2c"})
    )
    with ownership.owned("a", tmp_path):
        assert json.loads((tmp_path / "owner.json").read_text())["pid"] == os.getpid()
    assert "looks whether" not in capsys.readouterr().out


def test_what_another_host_left_behind_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ownership, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(ownership, "LOOK_ON_SECONDS", 0.2)
    monkeypatch.setenv("REEL_GRACE_SECONDS", "0")
    note(tmp_path, "gone", 3)
    with ownership.owned("a", tmp_path):
        facts = json.loads((tmp_path / "owner.json").read_text())
        assert (facts["host"], facts["pid"]) == (socket.gethostname(), os.getpid())
    assert "process 7 on gone" in capsys.readouterr().out
    assert not (tmp_path / "owner.json").exists()


def test_a_tool_of_reel_has_a_gpu_of_its_own_while_it_runs(
    four: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = "import os, sys\nfrom pipelines import devices\nprint(sys.argv[1:], os.environ.get(devices.VISIBLE))\n"
    (tmp_path / "some_tool.py").write_text(
        f"{tool}print(devices.holders(['0']), devices._take('a', 4, list('0123')))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("CUDA_VISIBLE_DEVICES", "REEL_LAUNCH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assert devices.main(["generate", "some_tool", "--steps", "3"]) == 0
    said = capsys.readouterr().out
    assert "['--steps', '3'] 0" in said and "reel generate (process" in said and said.rstrip().endswith("None")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with devices.held("all of them", 4, {}, four.append):  # nobody waits for help
        assert devices.main(["generate", "some_tool", "--help"]) == 0
    assert "['--help'] None" in capsys.readouterr().out
    (tmp_path / "some_tool.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(SystemExit, match="3"):
        devices.main(["fit", "some_tool"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with devices.held("next", 4, {}, four.append) as free:  # it is given back, however it went
        assert len(free.names) == 4
