"""A real `reel ui` with its web server on loopback, spoken to over GraphQL."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dagster_dvc.supervise import descendants
from tests.dagster_dvc import toy

REPO = Path(__file__).parents[2]
STATES = "query { assetNodes { assetKey { path } staleStatus assetMaterializations(limit: 1) { runId } } }"
LAUNCH = """
mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }
"""
STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
TERMINATE = "mutation($id: String!) { terminateRun(runId: $id) { __typename } }"
LOGS = """
query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events { __typename
  ... on MessageEvent { message stepKey } } } } }
"""


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running web interface of one project."""

    def __init__(self, root: Path, **variables: str) -> None:
        self.root = root
        self.port = free_port()
        token = variables.get("REEL_UI_TOKEN")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        env = {name: value for name, value in toy.environment().items() if name != "DAGSTER_HOME"}
        self._log = (root / "server.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dagster_project.cli", "ui", "--port", str(self.port)],
            cwd=REPO,
            env={**env, "REEL_PROJECT": str(root), "PYTHONWARNINGS": "ignore", **variables},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def query(self, text: str, **variables: Any) -> Any:
        body = json.dumps({"query": text, "variables": variables}).encode()
        headers = {"Content-Type": "application/json", **self._headers}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/graphql", body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        assert "errors" not in found, found["errors"]
        return found["data"]

    def states(self) -> dict[str, str]:
        """Stale status of every asset that has one."""
        nodes = self.query(STATES)["assetNodes"]
        made = {"/".join(node["assetKey"]["path"]): node for node in nodes}
        return {
            key: node["staleStatus"] if node["assetMaterializations"] else "MISSING"
            for key, node in made.items()
            if not key.startswith("source/")
        }

    def launch(self, *keys: str) -> str:
        """Start a run of some assets; returns its id."""
        paths = [{"path": key.split("/")} for key in keys]
        selector = {
            "repositoryLocationName": "reelgraph",
            "repositoryName": "__repository__",
            "pipelineName": "__ASSET_JOB",
            "assetSelection": paths,
            "assetCheckSelection": None,
        }
        answer = self.query(LAUNCH, params={"selector": selector, "runConfigData": "{}", "mode": "default"})[
            "launchRun"
        ]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def status(self, run: str) -> str:
        return self.query(STATUS, id=run)["runOrError"]["status"]

    def finished(self, run: str, seconds: float = 90) -> str:
        """The run's final status."""
        wait_for(lambda: self.status(run) in {"SUCCESS", "FAILURE", "CANCELED"}, f"run {run} to end", seconds)
        return self.status(run)

    def terminate(self, run: str) -> None:
        assert self.query(TERMINATE, id=run)["terminateRun"]["__typename"] == "TerminateRunSuccess"

    def events(self, run: str) -> list[dict[str, Any]]:
        return self.query(LOGS, id=run)["logsForRun"]["events"]

    def messages(self, run: str) -> list[str]:
        return [event.get("message", "") for event in self.events(run)]

    def stop(self) -> None:
        """End it and everything below it."""
        below = descendants(self.process.pid)
        self.process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        for pid in [self.process.pid, *below]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(60)
        self._log.close()


@contextlib.contextmanager
def serving(root: Path, **variables: str) -> Iterator[Server]:
    """The web interface of the project at `root`, ready to answer, ended afterwards."""
    server = Server(root, **variables)
    try:
        wait_for(lambda: server.states(), "the web server", 120, ignore=(OSError, AssertionError, KeyError))
        yield server
    finally:
        server.stop()


def wait_for(
    condition: Callable[[], Any], what: str, seconds: float = 180, ignore: tuple[type[Exception], ...] = ()
) -> float:
    """Wait until the condition holds (sensors tick every 30 s); returns the seconds it took."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        with contextlib.suppress(*ignore):
            if condition():
                return time.monotonic() - began
        time.sleep(0.2)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")


def alive(pids: list[int]) -> list[int]:
    """Those processes that still run."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
    return found


def stage_processes(root: Path) -> list[int]:
    """Processes that work in the project: the supervisor, dvc and the stage."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes()
            inside = (entry / "cwd").readlink() == root
            if inside and any(word in words for word in (b"supervise.py", b"repro", b"train.py")):
                found.append(int(entry.name))
    return alive(found)
