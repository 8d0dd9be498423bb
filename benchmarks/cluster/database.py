"""Dagster's history in a Postgres of our own, and a daemon that is killed with a run in its queue."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cluster import packages
from benchmarks.cluster.objects import environment_with
from benchmarks.cluster.training import Failed, Row
from tests.dagster_dvc import toy

UNPRIVILEGED = "nobody"
PATIENCE = 150.0


def programs(folder: Path) -> Path:
    """Where Postgres' programs are: installed, else unpacked from the distribution's packages.

    Raises:
        Failed: neither.
    """
    found = shutil.which("pg_ctl")
    if found:
        return Path(found).parent
    if not _below(Path("/")):
        try:
            packages.fetch(folder, ["postgresql"])
        except packages.NotFetched as error:
            raise Failed(f"not tried: Postgres is not installed, and cannot be fetched: {error}") from None
    places = _below(packages.place(folder)) or _below(Path("/"))
    if not places:
        raise Failed("not tried: Postgres is not in the packages of this system")
    return places[-1]


def _below(root: Path) -> list[Path]:
    return sorted(root.glob("usr/lib/postgresql/*/bin"))


@contextlib.contextmanager
def running(folder: Path, place: Path) -> Iterator[str]:
    """A Postgres on loopback, as a user without rights where we are root; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = folder / "postgres"
    data.mkdir()
    before, environment = [], {**os.environ, **packages.variables(folder)}
    if os.geteuid() == 0:
        user = pwd.getpwnam(UNPRIVILEGED)
        os.chown(data, user.pw_uid, user.pw_gid)
        before = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]

    def run(*words: str) -> None:
        done = subprocess.run(
            [*before, *words], cwd=data, env=environment, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            raise Failed(f"{words[0]}: {done.stderr[-400:]}")

    files = data / "data"
    run(str(place / "initdb"), "-D", str(files), "-U", "dagster", "--auth=trust", "-E", "UTF8")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data}"
    command = [str(place / "pg_ctl"), "-D", str(files), "-l", str(data / "log"), "-o", options, "-w", "start"]
    done = subprocess.run(
        [*before, *command], cwd=data, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"Postgres does not start: {(data / 'log').read_text()[-400:]}")
    try:
        yield f"postgresql+psycopg2://dagster@127.0.0.1:{port}/postgres"
    finally:
        run(str(place / "pg_ctl"), "-D", str(files), "-m", "immediate", "stop")


class Platform:
    """A toy project with Dagster on that database."""

    def __init__(self, folder: Path, url: str) -> None:
        self.root = toy.make(folder / "platform")
        self.python, environment = environment_with(folder)
        home = self.root / ".dagster"
        self.environment = environment | {"REEL_PROJECT": str(self.root), "REEL_POSTGRES_URL": url}
        self.environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "DAGSTER_HOME": str(home)}
        self.run("-m", "dagster_project.cli", "status")  # makes dagster.yaml

    def run(self, *words: str) -> str:
        """Run Python in the project; what it prints."""
        done = subprocess.run(
            [str(self.python), *words], cwd=self.root, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Failed(f"{' '.join(words)[:80]}: {(done.stderr + done.stdout)[-600:]}")
        return done.stdout

    def daemon(self) -> subprocess.Popen[bytes]:
        """Dagster's daemon, which starts what is queued."""
        log = (self.root / "daemon.log").open("ab")
        words = ["-m", "dagster._daemon", "run", "-m", "dagster_project.definitions"]
        return subprocess.Popen(
            [str(self.python), *words], cwd=self.root, env=self.environment, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip

    def states(self) -> list[str]:
        """The state of every run that the database knows."""
        text = "from dagster import DagsterInstance as I; print([r.status.value for r in I.get().get_runs()])"
        return self.run("-c", text).strip().strip("[]").replace("'", "").split(", ")

    def wait(self, state: str) -> bool:
        """Whether the newest run comes to this state."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if self.states()[0] == state:
                return True
            time.sleep(1)
        return False


def daemon_killed(folder: Path, url: str) -> Row:
    """A run is queued while the daemon is dead; the next daemon starts it."""
    platform = Platform(folder, url)
    platform.run("-m", "dagster", "job", "launch", "-m", "dagster_project.definitions", "-j", "everything")
    first = platform.daemon()
    try:
        platform.wait("STARTED")
        first.send_signal(signal.SIGKILL)
        first.wait()
        platform.run("-m", "dagster", "job", "launch", "-m", "dagster_project.definitions", "-j", "everything")
        queued = platform.states()
        second = platform.daemon()
        try:
            is_well = platform.wait("SUCCESS")
        finally:
            second.terminate()
            second.wait(30)
    finally:
        if first.poll() is None:
            first.kill()
    states, files = platform.states(), [path.name for path in (platform.root / ".dagster").rglob("*.db")]
    is_well = is_well and set(states) == {"SUCCESS"} and not files
    text = f"killed with runs {' and '.join(sorted(queued))}; the next daemon: {' and '.join(states)}, in Postgres"
    return Row(
        "kill -9 of Dagster's daemon, a run queued", text, "nothing" if is_well else f"{states} {files}", is_well
    )


def rows(folder: Path, only: list[str]) -> Iterator[Row]:
    """What goes wrong with the database."""
    if only and "daemon_killed" not in only:
        return
    try:
        place = programs(folder)
    except Failed as error:
        yield Row("Postgres", str(error), "not known", True)
        return
    try:
        with running(folder, place) as url:
            yield daemon_killed(folder, url)
    except (Failed, OSError, subprocess.SubprocessError) as error:
        yield Row("Postgres", str(error)[-600:], "not known", False)
