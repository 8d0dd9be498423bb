"""The launcher: inputs checked first, one writer, no orphans, no false lineage, earlier results kept."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines import recording
from pipelines.processes import descendants
from tests.dagster_dvc.test_supervise import CAN_HIDE, HIDE

ROOT = Path(__file__).parents[1]

STAGE = '''
"""A toy stage in the shape of a real one."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from pipelines import stage
from pipelines.toy.params import ToyParams


def make(params: ToyParams, out: Path, metrics: Path) -> None:
    Path("pid").write_text(str(os.getpid()))
    Path("threads").write_text(os.environ["OMP_NUM_THREADS"])
    if params.child:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    if params.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    until = time.monotonic() + params.seconds
    while time.monotonic() < until:
        time.sleep(0.05)
    if params.fails:
        raise stage.StageError("shard 3, member x.npy: not what the index says; run it again.")
    with stage.whole_folder(out) as folder:
        (folder / "value.txt").write_text(str(params.value))
    stage.write_metrics(metrics, {"value": params.value})
'''

PARAMS = '''
from pipelines.params import NonNegative, Params, Whole

class ToyParams(Params):
    """Values of the toy."""
    value: Whole
    seconds: NonNegative
    fails: bool
    child: bool
    stubborn: bool
'''

CMD = "python -m pipelines.launch --alone pipelines.toy.toy make --params toy --out data/toy --metrics metrics/toy.json"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A DVC project of one stage that uses our real launcher."""
    package = tmp_path / "pipelines"
    package.mkdir()
    for module in [found for part in ("", "code", "slurm") for found in (ROOT / "pipelines" / part).glob("*.py")]:
        copy = tmp_path / module.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(module.read_text())
    (package / "toy").mkdir()
    (package / "toy" / "__init__.py").write_text("")
    (package / "toy" / "toy.py").write_text(STAGE)
    (package / "toy" / "params.py").write_text(PARAMS)
    code = {"cmd": "python -m pipelines.code", "deps": ["pipelines", "graph.yaml"], "outs": ["code.json"]}
    graph = {
        "cmd": CMD,
        "params": ["toy", {"code.json": ["toy"]}],
        "outs": ["data/toy"],
        "metrics": ["metrics/toy.json"],
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"code": code, "toy": graph}}))
    (tmp_path / "graph.yaml").symlink_to("dvc.yaml")
    (tmp_path / ".dvcignore").write_text("__pycache__\n*.pyc\n.work\n")
    write_params(tmp_path)
    dvc(tmp_path, "init", "--no-scm", "-q")
    return tmp_path


def write_params(project: Path, **changes: object) -> None:
    values = {"value": 1, "seconds": 0, "fails": False, "child": False, "stubborn": False, **changes}
    (project / "params.yaml").write_text(yaml.safe_dump({"toy": values}))


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"REEL_GRACE_SECONDS": "1", **os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}


def dvc(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", *words]
    return subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, timeout=100)


def start(project: Path, *words: str, ignored: signal.Signals = signal.SIGINT) -> subprocess.Popen[str]:
    """Start the launcher, or other words; a script's `&` hands down an ignored SIGINT, `nohup` an ignored SIGHUP."""
    command = list(words) or [sys.executable, *CMD.split()[1:]]
    return subprocess.Popen(
        command,
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(ignored, signal.SIG_IGN),
    )


def wait_for(path: Path, seconds: float = 60) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if path.is_file() and path.read_text():
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{path.name} did not appear in {seconds} s")


def gone(pids: list[int], seconds: float = 20) -> list[int]:
    """Those of the processes that still live after at most ``seconds``."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        left = [pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in state_of(pid)]
        if not left:
            return []
        time.sleep(0.1)
    return left


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.fixture
def no_survivors() -> Iterator[list[int]]:
    pids: list[int] = []
    yield pids
    for pid in pids:
        if state_of(pid) != "Z":
            os.kill(pid, signal.SIGKILL)


@pytest.mark.costly
def test_a_stage_runs_through_dvc_and_is_up_to_date_after(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "37")
    done = dvc(project, "repro")
    assert done.returncode == 0, done.stderr
    assert (project / "threads").read_text() == "37"  # what the user says wins
    assert (project / "data/toy/value.txt").read_text() == "1"
    assert "up to date" in dvc(project, "repro").stdout


@pytest.mark.costly
def test_a_stage_notes_how_long_it_took_unless_its_starter_does(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dvc(project, "repro").returncode == 0
    (times,) = json.loads((project / ".work/times.json").read_text()).values()
    monkeypatch.setenv("DVC_REPRO_TIMED", "1")
    assert dvc(project, "repro", "--force").returncode == 0
    assert list(json.loads((project / ".work/times.json").read_text()).values()) == [times] and len(times) == 1


@pytest.mark.costly
def test_mistakes_in_params_leave_earlier_results_in_place(project: Path) -> None:
    assert dvc(project, "repro").returncode == 0
    write_params(project, value=2, secnods=3)
    failed = dvc(project, "repro")
    assert failed.returncode != 0
    assert "params.yaml:" in failed.stderr and "did you mean seconds?" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (project / "data/toy/value.txt").read_text() == "1"
    assert (project / "metrics/toy.json").is_file()


@pytest.mark.costly
def test_a_stage_that_fails_puts_its_earlier_outputs_back(project: Path) -> None:
    assert dvc(project, "repro").returncode == 0
    write_params(project, value=2, fails=True)
    failed = dvc(project, "repro")
    assert "toy: shard 3, member x.npy" in failed.stderr and "back in place" in failed.stderr
    assert (project / "data/toy/value.txt").read_text() == "1"
    write_params(project, value=2)
    assert dvc(project, "repro").returncode == 0
    assert (project / "data/toy/value.txt").read_text() == "2"


@pytest.mark.costly
def test_an_edit_during_the_run_fails_the_stage_and_records_nothing(project: Path) -> None:
    assert dvc(project, "repro").returncode == 0
    lock = (project / "dvc.lock").read_text()
    (project / "pid").unlink()
    write_params(project, value=2, seconds=2)
    running = start(project, sys.executable, "-m", "dvc", "repro")
    wait_for(project / "pid")
    write_params(project, value=3, seconds=2)
    _, errors = running.communicate(timeout=60)
    assert running.returncode != 0
    assert "params.yaml: toy changed while the stage was running" in errors
    assert (project / "dvc.lock").read_text() == lock
    assert (project / "data/toy/value.txt").read_text() == "1"


def test_an_edit_that_is_taken_back_in_time_is_only_warned_of(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr(recording, "LOOK_EVERY_SECONDS", 0.0)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), recording.unchanged_inputs("toy") as look:
        look()
        assert said.getvalue() == ""
        write_params(project, value=3)
        look()
        look()
        (project / "pipelines/toy/toy.py").write_text(STAGE.replace("params.fails", "not params.fails"))
        look()
        (project / "pipelines/toy/toy.py").write_text(STAGE)
        write_params(project)
        look()
    first, second, last = said.getvalue().splitlines()
    assert first.startswith("toy: warning: params.yaml: toy changed while the stage is running; put it back before")
    assert second.startswith("toy: warning: params.yaml: toy, code: toy/toy.py make changed")
    assert last == "toy: its inputs are again what they were at the start"


@pytest.mark.costly
@pytest.mark.skipif(not CAN_HIDE, reason="needs root to hide /proc")
def test_ctrl_c_lets_a_stage_save_where_the_system_tells_no_processes(project: Path, no_survivors: list[int]) -> None:
    write_params(project, seconds=90)
    running = start(project, *HIDE, sys.executable, *CMD.split()[1:])
    pid = int(wait_for(project / "pid"))
    no_survivors.append(pid)
    running.send_signal(signal.SIGINT)
    output, errors = running.communicate(timeout=60)
    assert "toy: asked to stop; it has 1 s to save (REEL_GRACE_SECONDS)" in output
    assert "toy: stopped by SIGTERM" in errors and "Traceback" not in errors
    assert running.returncode == 143 and not gone([pid])


@pytest.mark.costly
def test_a_stage_that_does_not_end_is_ended_after_the_grace_time_and_the_stop_is_told(
    project: Path, no_survivors: list[int]
) -> None:
    write_params(project, seconds=90, stubborn=True)
    running = start(project)
    pid = int(wait_for(project / "pid"))
    no_survivors.append(pid)
    running.terminate()
    output, _ = running.communicate(timeout=60)
    assert "toy: asked to stop; it has 1 s to save" in output and "did not end within 1 s; is ended now" in output
    assert running.returncode != 0 and not gone([pid])


@pytest.mark.costly
def test_a_second_writer_is_refused_with_pid_and_since(project: Path, no_survivors: list[int]) -> None:
    write_params(project, seconds=90)
    first = start(project)
    no_survivors.append(int(wait_for(project / "pid")))
    second = start(project)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 2
    assert re.search(rf"process {first.pid} of \S+ on \S+ since 20", errors)
    first.terminate()
    first.communicate(timeout=60)


@pytest.mark.costly
def test_a_killed_launcher_whose_stage_lives_still_owns_the_output(
    project: Path, no_survivors: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REEL_GRACE_SECONDS", "6")
    write_params(project, seconds=90, stubborn=True)
    first = start(project)
    pid = int(wait_for(project / "pid"))
    no_survivors.append(pid)
    first.kill()
    first.wait(60)
    refused = start(project)
    assert refused.communicate(timeout=60)[1].count("being written by") == 1
    assert not gone([pid], seconds=20)
    first.communicate(timeout=60)
    write_params(project)
    last = start(project)
    last.communicate(timeout=60)
    assert last.returncode == 0


@pytest.mark.costly
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_stopping_the_launcher_leaves_no_process(project: Path, no_survivors: list[int], number: int) -> None:
    write_params(project, seconds=60, child=number != signal.SIGKILL)
    first = start(project)
    wait_for(project / "pid")
    time.sleep(0.5)
    pids = descendants(first.pid)
    no_survivors.extend(pids)
    assert len(pids) >= 1
    first.send_signal(number)
    first.communicate(timeout=60)
    assert gone(pids) == []


@pytest.mark.costly
def test_a_terminal_that_closes_stops_nothing_under_nohup(project: Path, no_survivors: list[int]) -> None:
    write_params(project, seconds=1.5)
    running = start(project, ignored=signal.SIGHUP)
    no_survivors.append(int(wait_for(project / "pid")))
    running.send_signal(signal.SIGHUP)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors


@pytest.mark.costly
def test_killing_dvc_stops_its_stage(project: Path, no_survivors: list[int]) -> None:
    write_params(project, seconds=60)
    running = start(project, sys.executable, "-m", "dvc", "repro")
    wait_for(project / "pid")
    pids = descendants(running.pid)
    no_survivors.extend(pids)
    running.kill()
    running.communicate(timeout=60)
    assert gone(pids) == []


@pytest.mark.costly
def test_a_missing_input_says_who_makes_it(project: Path) -> None:
    words = [sys.executable, *CMD.split()[1:], "--latents", "data/latents"]
    failed = start(project, *words)
    _, errors = failed.communicate(timeout=60)
    assert failed.returncode == 2
    assert "--latents data/latents: not there" in errors


@pytest.mark.costly
def test_a_flag_that_the_stage_does_not_take_is_one_line(project: Path) -> None:
    (project / "data").mkdir()
    failed = start(project, sys.executable, *CMD.split()[1:], "--latnets", "data")
    _, errors = failed.communicate(timeout=60)
    assert failed.returncode == 2 and "latnets" in errors and "Traceback" not in errors


@pytest.mark.costly
def test_several_processes_close_their_communication_before_they_end(project: Path) -> None:
    write_params(project)
    (project / "launch.yaml").write_text("num_processes: 2\nuse_cpu: true\n")
    code = project / "pipelines/toy/toy.py"
    meets = """
    import atexit
    import torch.distributed as processes
    processes.init_process_group("gloo")
    processes.barrier()
    atexit.register(lambda: Path(f"open-{os.environ['RANK']}").write_text(str(processes.is_initialized())))
    if processes.get_rank():
        return
"""
    head = "def make(params: ToyParams, out: Path, metrics: Path) -> None:"
    code.write_text(code.read_text().replace(head, head + meets))
    command = [word for word in [sys.executable, *CMD.split()[1:]] if word != "--alone"]
    running = start(project, *command)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    assert [(project / f"open-{rank}").read_text() for rank in (0, 1)] == ["False", "False"]


@pytest.mark.costly
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 143), (signal.SIGKILL, 1)])
def test_several_processes_that_were_asked_to_stop_end_with_143_and_broken_ones_do_not(
    project: Path, number: signal.Signals, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REEL_GRACE_SECONDS", "30")
    write_params(project, seconds=50)
    (project / "launch.yaml").write_text("num_processes: 2\nuse_cpu: true\n")
    code = project / "pipelines/toy/toy.py"
    code.write_text(code.read_text().replace('Path("pid")', "Path(f\"pid-{os.environ['RANK']}\")"))
    running = start(project, *[word for word in [sys.executable, *CMD.split()[1:]] if word != "--alone"])
    pids = [int(wait_for(project / f"pid-{rank}")) for rank in (0, 1)]
    os.kill(running.pid if number == signal.SIGTERM else pids[1], number)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == expected, errors
    assert not gone(pids)


# ---- the identity of code -----------------------------------------------------------------------------------------

COUNTED = STAGE.replace("    until = time", '    print("the toy runs", flush=True)\n    until = time')


def toy(project: Path, old: str, new: str) -> None:
    path = project / "pipelines/toy/toy.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.costly
def test_a_docstring_runs_no_stage_an_edit_does_and_taking_it_back_brings_both_results_back(project: Path) -> None:
    (project / "pipelines/toy/toy.py").write_text(COUNTED)
    assert "the toy runs" in dvc(project, "repro").stdout
    toy(project, "A toy stage", "A toy")
    toy(project, "def make(", "# why\ndef make(")
    said = dvc(project, "repro").stdout
    assert "Running stage 'code'" in said and "Stage 'toy' didn't change, skipping" in said
    toy(project, "str(params.value)", "str(params.value + 1)")
    assert "the toy runs" in dvc(project, "repro").stdout and (project / "data/toy/value.txt").read_text() == "2"
    toy(project, "str(params.value + 1)", "str(params.value)")
    said = dvc(project, "repro").stdout
    assert "the toy runs" not in said and said.count("is cached - skipping run") == 2
    assert (project / "data/toy/value.txt").read_text() == "1"


@pytest.mark.costly
def test_one_stage_alone_is_recorded_with_the_code_on_disk_and_says_that_the_file_was_not_of_it(project: Path) -> None:
    assert dvc(project, "repro").returncode == 0
    toy(project, "str(params.value)", "str(params.value + 1)")
    done = dvc(project, "repro", "--single-item", "--force", "toy")
    assert done.stdout.count("toy: code.json was not of the code on disk and is written anew") == 1
    assert "Running stage 'code'" in dvc(project, "repro").stdout
    assert "up to date" in dvc(project, "repro").stdout


@pytest.mark.costly
@pytest.mark.parametrize("content", ["{}", "no json", '{"toy": "0"}', None])
def test_a_code_json_that_was_edited_by_hand_is_made_again_and_nothing_else_runs(
    project: Path, content: str | None
) -> None:
    (project / "pipelines/toy/toy.py").write_text(COUNTED)
    assert dvc(project, "repro").returncode == 0
    path = project / "code.json"
    whole = path.read_text()
    path.unlink()
    if content is not None:
        path.write_text(content)
    done = dvc(project, "repro")
    assert done.returncode == 0 and "the toy runs" not in done.stdout, done.stderr
    assert path.read_text() == whole and "up to date" in dvc(project, "repro").stdout


BROKEN = {
    "a syntax error": ("def make(", "def make((", "pipelines/toy/toy.py:13: Function parameters"),
    "an import of nothing": (
        "from pipelines import stage",
        "from pipelines import stge",
        "from pipelines import stge: pipelines/__init__.py has no stge",
    ),
    "no such module": (
        "from pipelines.toy.params",
        "from pipelines.toy.parms",
        "there is no module pipelines.toy.parms",
    ),
    "no function": ("def make(", "def mak(", "no make in it"),
}


@pytest.mark.costly
@pytest.mark.parametrize("what", BROKEN)
def test_code_that_cannot_be_followed_is_one_line_and_costs_no_result(project: Path, what: str) -> None:
    assert dvc(project, "repro").returncode == 0
    old, new, said = BROKEN[what]
    toy(project, old, new)
    before = (project / "code.json").read_text()
    for words in (("repro",), ("repro", "--single-item", "--force", "toy")):
        failed = dvc(project, *words)
        assert failed.returncode != 0 and "Traceback" not in failed.stderr
        lines = [line for line in failed.stderr.splitlines() if said in line]
        assert len(lines) == 1, failed.stderr
        assert (project / "data/toy/value.txt").read_text() == "1"
        assert (project / "code.json").read_text() == before


@pytest.mark.costly
def test_a_stage_whose_module_is_missing_is_told_before_anything_is_deleted(project: Path) -> None:
    assert dvc(project, "repro").returncode == 0
    graph = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(graph.replace("pipelines.toy.toy make", "pipelines.toy.gone make"))
    failed = dvc(project, "repro")
    assert "code: pipelines.toy.gone: no such module; put it there or correct `cmd` in dvc.yaml" in failed.stderr
    assert (project / "data/toy/value.txt").read_text() == "1" and (project / "metrics/toy.json").is_file()


@pytest.mark.costly
def test_a_stage_that_tracks_the_code_of_another_is_told(project: Path) -> None:
    graph = yaml.safe_load((project / "dvc.yaml").read_text())
    graph["stages"]["toy"]["params"] = ["toy", {"code.json": ["other"]}]
    (project / "dvc.yaml").write_text(yaml.safe_dump(graph))
    failed = dvc(project, "repro", "code")
    assert "code: dvc.yaml: stage toy: params: code.json: ['other']: a stage tracks its own code" in failed.stderr
