"""A Kubernetes of one node on loopback, as far as a stage's pod needs one.

An HTTP server that speaks the API's calls for pods (create, read, list, delete, log) and runs a container's command as
processes of this machine.

Images, volumes and networks are this machine's own: a container sees the project where it lies. What it keeps of
Kubernetes is what a launcher relies on: one pod of a name, states and their reasons, conditions, SIGTERM and a time of
grace before a pod goes, logs with time stamps that can be followed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import yaml

PODS = re.compile(r"/api/v1/namespaces/(?P<namespace>[^/]+)/pods(/(?P<name>[^/]+))?(?P<log>/log)?")
NODE = "node-1"
DNS = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Pod:
    """One pod, and the processes of its only container."""

    def __init__(self, body: dict[str, Any], path: str) -> None:
        self.body = body
        about = body["metadata"]
        about |= {"uid": str(uuid.uuid4()), "creationTimestamp": _now()}
        self.container = body["spec"]["containers"][0]
        self.status: dict[str, Any] = {"phase": "Pending", "conditions": []}
        self.lines: list[tuple[str, str]] = []
        self.heard = threading.Condition()
        self.is_over = False
        self.process: subprocess.Popen[str] | None = None
        self._path, self._ended_by = path, ""

    @property
    def name(self) -> str:
        return self.body["metadata"]["name"]

    def shown(self) -> dict[str, Any]:
        """As the API answers."""
        return {"apiVersion": "v1", "kind": "Pod", **self.body, "status": self.status}

    def _say(self, state: dict[str, Any], ready: bool = False) -> None:
        about = {"image": self.container["image"], "imageID": "", "restartCount": 0}
        one = {"name": self.container["name"], "ready": ready, "started": ready, "state": state, **about}
        self.status["containerStatuses"] = [one]

    def schedule(self, labels: dict[str, str], gpus: int) -> None:
        """Find it a node and an image, and start its container."""
        spec = self.body["spec"]
        limits = (self.container.get("resources") or {}).get("limits") or {}
        fits = (spec.get("nodeSelector") or {}).items() <= labels.items()
        if not fits or int(limits.get("nvidia.com/gpu", 0)) > gpus:
            why = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu." if fits else "0/1 nodes match the selector."
            said = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why}
            self.status["conditions"] = [said]
            return
        spec["nodeName"] = NODE
        self.status["conditions"] = [{"type": "PodScheduled", "status": "True"}]
        if self.container["image"].startswith("missing"):
            self._say({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}})
            return
        self._say({"waiting": {"reason": "ContainerCreating"}})
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        stated = {one["name"]: one.get("value", "") for one in self.container.get("env") or []}
        self.process = subprocess.Popen(
            self.container["command"], cwd=self.container["workingDir"], env={"PATH": self._path, **stated},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, bufsize=1,
            start_new_session=True,
        )  # fmt: skip
        began = _now()
        self.status["phase"] = "Running"
        self._say({"running": {"startedAt": began}}, ready=True)
        deadline = self.body["spec"].get("activeDeadlineSeconds")
        if deadline:
            threading.Timer(deadline, self.end, ("DeadlineExceeded",)).start()
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for line in said:
                with self.heard:
                    self.lines.append((datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z"), line.rstrip("\n")))
                    self.heard.notify_all()
        code = self.process.wait()
        code = code if code >= 0 else 128 - code
        ended = {"exitCode": code, "reason": "Completed" if code == 0 else "Error"}
        self._say({"terminated": {**ended, "startedAt": began, "finishedAt": _now()}})
        self.status["phase"] = "Succeeded" if code == 0 and not self._ended_by else "Failed"
        if self._ended_by:
            self.status["reason"] = self._ended_by
        with self.heard:
            self.is_over = True
            self.heard.notify_all()

    def processes(self) -> list[psutil.Process]:
        """What runs in it."""
        with contextlib.suppress(psutil.Error):
            if self.process is not None:
                return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return []

    def end(self, reason: str = "", grace: float | None = None) -> None:
        """SIGTERM to the first process; when the time of grace is over, SIGKILL to all."""
        if self.process is None or self.is_over:
            return
        self._ended_by = reason
        seconds = self.body["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        until = time.monotonic() + seconds
        while not self.is_over and time.monotonic() < until:
            time.sleep(0.05)
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def log(self, follow: bool, tail: int | None) -> Iterator[bytes]:
        """Its lines with their times, as they come."""
        at = max(0, len(self.lines) - tail) if tail is not None else 0
        while True:
            with self.heard:
                while follow and at >= len(self.lines) and not self.is_over:
                    self.heard.wait(1.0)
                new = self.lines[at:]
                is_end = self.is_over or not follow
            at += len(new)
            yield "".join(f"{when} {line}\n" for when, line in new).encode()
            if is_end and at >= len(self.lines):
                return


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed leaves its connection: what the tests do to it is no error of the server's."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Api:
    """The server. ``created`` counts what was ever created; ``is_away`` has it answer nothing but 503."""

    def __init__(self, path: str = os.environ["PATH"], labels: dict[str, str] | None = None, gpus: int = 0) -> None:
        self.path, self.labels, self.gpus = path, labels or {}, gpus
        self.pods: dict[tuple[str, str], Pod] = {}
        self.created: list[dict[str, Any]] = []
        self.is_away = False
        self.before_answer: Callable[[], None] | None = None
        self.lock = threading.Lock()
        owner = self

        class Handler(_Handler):
            api = owner

        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def kubeconfig(self, path: Path) -> Path:
        """A file by which clients find it."""
        named = {
            "clusters": [{"name": "toy", "cluster": {"server": f"http://127.0.0.1:{self._server.server_port}"}}],
            "users": [{"name": "me", "user": {"token": "none"}}],
            "contexts": [{"name": "toy", "context": {"cluster": "toy", "user": "me", "namespace": "lab"}}],
        }
        path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "toy", **named}))
        return path

    def create(self, namespace: str, body: dict[str, Any]) -> Pod | None:
        """A new pod; None where one of its name is there."""
        with self.lock:
            key = (namespace, body["metadata"]["name"])
            if key in self.pods:
                return None
            made = self.pods[key] = Pod(body, self.path)
            made.body["metadata"]["namespace"] = namespace
            self.created.append(body)
        made.schedule(self.labels, self.gpus)
        return made

    def delete(self, namespace: str, name: str, grace: float | None) -> None:
        """It is gone when its processes are."""
        pod = self.pods[namespace, name]
        pod.body["metadata"]["deletionTimestamp"] = _now()

        def go() -> None:
            pod.end(grace=grace)
            while pod.process is not None and not pod.is_over:
                time.sleep(0.05)
            self.pods.pop((namespace, name), None)

        threading.Thread(target=go, daemon=True).start()

    def wait(self, name: str) -> None:
        """Until the pod's container has ended."""
        pod = next(pod for pod in list(self.pods.values()) if pod.name == name)
        with pod.heard:
            assert pod.heard.wait_for(lambda: pod.is_over, 60)

    def evict(self, name: str) -> None:
        """As a drained node does it: told as a condition, then deleted."""
        namespace = next(space for space, known in self.pods if known == name)
        said = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
        self.pods[namespace, name].status["conditions"].append(said)
        self.delete(namespace, name, None)

    def stop(self) -> None:
        """End every process and the server."""
        for pod in list(self.pods.values()):
            pod.end(grace=0)
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    api: Api
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on the terminal."""

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _status(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": message}
        self._answer(code, {**status, "code": code})

    def _asked(self) -> tuple[re.Match[str], dict[str, str]] | None:
        """The path's parts and the query; None where an error was answered."""
        length = int(self.headers.get("Content-Length") or 0)
        self.content = self.rfile.read(length)
        parts = urlsplit(self.path)
        found = PODS.fullmatch(parts.path)
        if self.api.is_away:
            self._status(503, "ServiceUnavailable", "the server is currently unable to handle the request")
        elif found is None:
            self._status(404, "NotFound", f"the server could not find the requested resource {parts.path}")
        else:
            return found, {name: values[0] for name, values in parse_qs(parts.query).items()}
        return None

    def do_POST(self) -> None:
        asked = self._asked()
        if asked is None:
            return
        body = json.loads(self.content)
        name = body["metadata"]["name"]
        if not DNS.fullmatch(name) or len(name) > 63 or not body["spec"]["containers"][0].get("image"):
            self._status(422, "Invalid", f'Pod "{name}" is invalid')
            return
        made = self.api.create(asked[0]["namespace"], body)
        if made is None:
            self._status(409, "AlreadyExists", f'pods "{name}" already exists')
            return
        if self.api.before_answer is not None:
            self.api.before_answer()
        self._answer(201, made.shown())

    def do_GET(self) -> None:
        asked = self._asked()
        if asked is None:
            return
        path, query = asked
        if path["name"] is None:
            self._answer(200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self._listed(query)})
            return
        pod = self.api.pods.get((path["namespace"], path["name"]))
        if pod is None:
            self._status(404, "NotFound", f'pods "{path["name"]}" not found')
        elif path["log"]:
            self._log(pod, query)
        else:
            self._answer(200, pod.shown())

    def _listed(self, query: dict[str, str]) -> list[dict[str, Any]]:
        wanted = query.get("fieldSelector", "").partition("metadata.name=")[2]
        key, _, value = query.get("labelSelector", "").partition("=")
        return [
            pod.shown()
            for pod in list(self.api.pods.values())
            if wanted in ("", pod.name) and (not key or (pod.body["metadata"].get("labels") or {}).get(key) == value)
        ]

    def _log(self, pod: Pod, query: dict[str, str]) -> None:
        if pod.process is None:
            self._status(400, "BadRequest", "container is waiting to start: ContainerCreating")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        tail = int(query["tailLines"]) if "tailLines" in query else None
        with contextlib.suppress(OSError):
            for data in pod.log(query.get("follow", "").lower() == "true", tail):
                if data:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                    self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

    def do_DELETE(self) -> None:
        asked = self._asked()
        if asked is None:
            return
        path, query = asked
        pod = self.api.pods.get((path["namespace"], path["name"]))
        if pod is None:
            self._status(404, "NotFound", f'pods "{path["name"]}" not found')
            return
        told = json.loads(self.content or b"{}") or {}
        grace = query.get("gracePeriodSeconds", told.get("gracePeriodSeconds"))
        self.api.delete(path["namespace"], path["name"], None if grace is None else float(grace))
        self._answer(200, pod.shown())
