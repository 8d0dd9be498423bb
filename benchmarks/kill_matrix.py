"""Who is killed, with which signal, in which way of running a stage: what is left ten seconds later.

``python -m benchmarks.kill_matrix [--markdown docs/reliability.md]`` starts a training stage of a toy project again and
again, sends one signal to one process, and reports for each case: how many processes survive after ten seconds and when
the last one went, whether DVC's lock is free, what Dagster says of the run, whether `dvc repro` works afterwards and
whether it went on from the saved step. Trainers: a script that saves on SIGINT and SIGTERM; one that ignores both and
has workers in sessions of their own; and the same two behind the real launcher (`benchmarks.launched_toy`), each as one
process and as two gloo processes under torchrun. With `--only`, the page's other rows stay as they are.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import launched_toy
from dagster_dvc.project import DvcProject
from dagster_dvc.repro import Repro
from dagster_dvc.supervise import descendants
from tests.dagster_dvc import toy

REPO = Path(__file__).parents[1]
LIMIT = 10.0
BEGIN, END = "<!-- kill matrix -->", "<!-- /kill matrix -->"
SCRIPTS = {"saves": "saves.py", "stubborn": "stubborn.py"}
LAUNCHED = {"1 launched": 1, "2 launched": 2, "1 launched, stubborn": 1, "2 launched, stubborn": 2}
EXTREMES = ("1 launched", "2 launched, stubborn")
GROUP = "ctrl-C"
"""Not a process: SIGINT to the whole group, as a terminal sends it."""
TRAINER = "python\0s"
LAUNCHER = (("launcher", "-m\0pipelines.launch"),)
WORKING = ("supervise.py", "-m\0dvc", "saves.py", "stubborn.py", "-m\0pipelines", "pipelines-worker")
RANK = (("stage process", "-m\0pipelines\0"),)
RANKS = (("torchrun", "torch.distributed.run"), ("rank", "-u\0-m\0pipelines\0"))
HEADER = ["run by", "trainer", "killed", "signal", "survivors", "all gone after", "DVC's lock", "Dagster", "next run"]
STUBBORN = """
import signal, subprocess, sys
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
if len(sys.argv) == 1 and __import__("os").path.exists("stubborn.on"):
    workers = [subprocess.Popen([sys.executable, __file__, "worker"], start_new_session=True) for _ in range(2)]
if len(sys.argv) > 1:
    __import__("time").sleep(300)
exec(compile(open("train.py").read(), "train.py", "exec"))
"""


@dataclass(frozen=True)
class Style:
    """A way of running the stage: its command and who in the tree can be killed (a word of the command line)."""

    name: str
    command: tuple[str, ...]
    victims: tuple[tuple[str, str], ...]


STYLES = (
    Style(
        "reel run",
        (sys.executable, "-m", "dagster_project.cli", "run", "train"),
        (("reel", ""), ("supervisor", "supervise.py"), ("dvc repro", "-m\0dvc"), ("trainer", TRAINER)),
    ),
    Style(
        "Dagster",
        (
            sys.executable,
            "-m",
            "dagster",
            "asset",
            "materialize",
            "--select",
            "train",
            "-m",
            "dagster_project.definitions",
        ),
        (("run worker", ""), ("step", "forkserver"), ("supervisor", "supervise.py"), ("dvc repro", "-m\0dvc")),
    ),
    Style("dvc repro", (sys.executable, "-m", "dvc", "repro"), (("dvc repro", ""), ("terminal", GROUP))),
)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def main() -> int:
    """Run the whole matrix; exit status 1 when anything survived."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--markdown", type=Path, help="write the table into this page, between its markers")
    parser.add_argument("--only", default="", help="cases in whose name this pattern is found")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        templates = {name: _template(Path(folder) / f"template {name}", name) for name in (*SCRIPTS, *LAUNCHED)}
        for number, (style, trainer, victim, word, sent) in enumerate(_cases()):
            name = f"{style.name}, {trainer}, {victim}, {sent.name}"
            if not re.search(arguments.only, name):
                continue
            root = Path(shutil.copytree(templates[trainer], Path(folder) / str(number)))
            rows.append([style.name, trainer, victim, sent.name, *_case(root, style, trainer, word, sent)])
            print(" | ".join(rows[-1]), flush=True)
            if arguments.markdown:
                _write(arguments.markdown, rows[-1])
    return 1 if any(row[4] not in {"0", "-"} for row in rows) else 0


def _cases():
    for style in STYLES:
        for trainer in (*SCRIPTS, *LAUNCHED):
            for victim, word in _victims(style, trainer):
                for sent in SIGNALS if word != GROUP else SIGNALS[:1]:
                    yield style, trainer, victim, word, sent


def _victims(style: Style, trainer: str) -> tuple[tuple[str, str], ...]:
    """Who is killed: what the style has of its own, and behind the launcher what is below it."""
    if trainer in SCRIPTS:  # a script without the launcher is ended by whoever supervises it; plain DVC does not
        return style.victims if style.name != "dvc repro" else ()
    below = LAUNCHER + (RANK if LAUNCHED[trainer] == 1 else RANKS)
    if style.name == "reel run":
        return tuple(victim for victim in style.victims if victim[0] in {"reel", "dvc repro"}) + below
    if style.name == "Dagster":  # between the step and the launcher, the processes are those of `reel run`
        return style.victims[:1] if trainer not in EXTREMES else style.victims[:2] + LAUNCHER
    return style.victims + LAUNCHER if trainer in EXTREMES else ()


def _template(root: Path, trainer: str) -> Path:
    root.mkdir()
    if trainer in LAUNCHED:
        return launched_toy.make(root, LAUNCHED[trainer])
    toy.make(root)
    toy.dvc(root, "repro")
    (root / "stubborn.py").write_text(STUBBORN)
    text = (root / "train.py").read_text()
    hears = "import signal\nfor number in (2, 15):\n    signal.signal(number, lambda *_: sys.exit(143))\n"
    (root / "saves.py").write_text(text.replace("from pathlib import Path\n", f"from pathlib import Path\n{hears}", 1))
    toy.edit(root, "params.yaml", "steps: 0", "steps: 3000")
    return root


def _case(root: Path, style: Style, trainer: str, word: str, sent: signal.Signals) -> list[str]:
    if trainer in SCRIPTS:
        toy.edit(root, "dvc.yaml", "cmd: python train.py", f"cmd: python {SCRIPTS[trainer]}")
    if trainer.endswith("stubborn"):
        (root / "stubborn.on").touch()
    env = {**toy.environment(), "REEL_PROJECT": str(root), "DAGSTER_HOME": str(root / ".dagster")}
    env["PYTHONWARNINGS"] = "ignore"
    (root / ".dagster").mkdir()
    (root / ".dagster/dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with (root / "out.log").open("w") as log:
        process = subprocess.Popen(
            style.command,
            cwd=root if style.name == "dvc repro" else REPO,
            env=env,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's `&` ignores it
        )
    tree, victim = _wait_for_victim(process.pid, word, root)
    os.killpg(process.pid, sent) if word == GROUP else os.kill(victim, sent)
    took, survivors = _wait_gone(tree, process)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(15)
    retries = process.poll() is None and style.name == "Dagster"
    _clean(process, tree)
    step = int((root / ".work/step").read_text())
    dvc_alone = sent == signal.SIGINT and _is_dvc(style, word)
    ignored = dvc_alone or (trainer.endswith("stubborn") and word in {TRAINER, RANK[0][1], RANKS[1][1]})
    if survivors and ignored and sent != signal.SIGKILL:
        return ["-", "goes on: ignores the signal", "in use", _dagster(root, style, env), _again(root, step)]
    state = "retries the step" if retries else _dagster(root, style, env)
    return [str(len(survivors)), f"{took:.1f} s", _lock(root), state, _again(root, step)]


def _is_dvc(style: Style, word: str) -> bool:
    """Whether the signal goes to `dvc repro` alone, which ignores SIGINT while a stage runs."""
    return word == "-m\0dvc" or (style.name == "dvc repro" and word == "")


def _wait_for_victim(pid: int, word: str, root: Path) -> tuple[list[int], int]:
    limit = time.monotonic() + 240
    while time.monotonic() < limit:
        step = root / ".work/step"
        if step.exists() and step.read_text().isdigit() and int(step.read_text()) >= 5:
            tree = descendants(pid)
            found = [pid] if word in {"", GROUP} else [other for other in tree if _matches(other, word)]
            if found:
                return [other for other in tree if _works(other)], found[0]
        time.sleep(0.1)
    raise SystemExit(f"the stage did not start; see {root / 'out.log'}")


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    return ""


def _matches(pid: int, word: str) -> bool:
    if word == "forkserver":  # the step: the process whose child is the supervisor
        below = descendants(pid)
        return any("supervise.py" in _command(child) and _parent(child) == pid for child in below)
    command = _command(pid)
    return word in command and (word == "supervise.py" or "supervise.py" not in command)


def _works(pid: int) -> bool:
    return any(word in _command(pid) for word in WORKING)


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _alive(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found.append(pid)
    return found


def _wait_gone(pids: list[int], process: subprocess.Popen[bytes]) -> tuple[float, list[int]]:
    began = time.monotonic()
    while time.monotonic() - began < LIMIT:
        process.poll()
        if not _alive(pids):
            break
        time.sleep(0.1)
    return time.monotonic() - began, _alive(pids)


def _clean(process: subprocess.Popen[bytes], tree: list[int]) -> None:
    for pid in [*descendants(process.pid), *_alive(tree), process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(10)
    time.sleep(2)  # what was killed here is no longer part of the case


def _lock(root: Path) -> str:
    held = json.loads((root / ".dvc/tmp/rwlock").read_text() or "{}")
    return "left, then released" if held.get("write") else "free"


def _dagster(root: Path, style: Style, env: dict[str, str]) -> str:
    if style.name != "Dagster":
        return "-"
    code = "import dagster; print(dagster.DagsterInstance.get().get_runs(limit=1)[0].status.value)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "-"


def _again(root: Path, step: int) -> str:
    """Run the stage once more, to the end; whether it began after the saved step."""
    (root / "stubborn.on").unlink(missing_ok=True)
    toy.edit(root, "params.yaml", "steps: 3000", f"steps: {step + 2}")
    lines: list[str] = []
    if not Repro(DvcProject(root), "train").result(lines.append).succeeded:
        return f"fails: {lines[-1:]}"
    first = next((line for line in lines if line.startswith("step ")), "")
    return "works, resumed" if first.startswith(f"step {step + 1} of") else f"works, {first or 'nothing to do'}"


def _write(page: Path, row: list[str]) -> None:
    """Put one row into the page's table: in place of the same case measured before, else at the end."""
    text = page.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    lines = text.split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]
    known = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    places = {tuple(cells[:4]): place for place, cells in enumerate(known)}
    place = places.get(tuple(row[:4]), len(known))
    known[place : place + 1] = [row]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in [HEADER, ["---"] * len(HEADER), *known])
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
