"""The Kubernetes API through dagster-k8s' Pipes client; the extra ``kubernetes``. Loaded only for such a target.

:class:`PipesK8sClient` runs a pod from its creation to its deletion in one call, under a name drawn by lot: whoever
dies in between has lost it. What it is made of is used here one by one, so that a pod outlives who started it: its way
to the cluster, its pods (``build_pod_body``), and its reader of logs, which finds the messages of Dagster Pipes among
them and comes back when a connection breaks. Messages go on to the channel that Dagster opened for the launcher.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dagster_k8s import PipesK8sClient
from dagster_k8s.client import DagsterKubernetesClient
from dagster_k8s.pipes import build_pod_body
from dagster_k8s.utils import detect_current_namespace
from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, DAGSTER_PIPES_MESSAGES_ENV_VAR, decode_param, encode_param
from kubernetes.client import ApiException
from kubernetes.config import ConfigException, list_kube_config_contexts
from urllib3.exceptions import HTTPError

from pipelines.kubernetes import pod
from pipelines.kubernetes.pod import Seen
from pipelines.kubernetes.target import Kubernetes
from pipelines.stage import StageError

PATIENCE_SECONDS = 60.0
AGAIN_SECONDS = 2.0
SHOWN_BEFORE = 40
"""Lines of what a pod has already said that one who takes it up is shown."""


class Unanswered(StageError):
    """The API did not answer, or not that; nothing is known, so nothing may be done on the strength of it."""


@contextlib.contextmanager
def _asked(what: str) -> Iterator[None]:
    """Inside, the API is asked; whatever it answers badly is told in a line."""
    try:
        yield
    except ApiException as error:
        said = str(error.reason or "")
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            said = json.loads(error.body or "")["message"]
        raise Unanswered(f"Kubernetes, {what}: {error.status} {said}") from None
    except (HTTPError, OSError) as error:
        said = str(getattr(error, "reason", None) or error).splitlines()[0]
        raise Unanswered(f"Kubernetes, {what}: does not answer ({said[:200]})") from None


class Pods(PipesK8sClient):
    """The pods of one namespace."""

    def __init__(self, kubeconfig: str | None, context: str | None, namespace: str | None, poll_seconds: float) -> None:
        super().__init__(kubeconfig_file=kubeconfig, kube_context=context, poll_interval=float(poll_seconds))
        try:
            self._load_k8s_config()
            self.namespace = namespace or _namespace(kubeconfig, context)
        except (ConfigException, OSError) as error:
            raise StageError(
                f"Kubernetes: {error}. Name a file in kubernetes.kubeconfig or KUBECONFIG, or say `target: local`."
            ) from None
        self.api: Any = DagsterKubernetesClient.production_client().core_api

    def _plain(self, answer: Any) -> dict[str, Any]:
        return self.api.api_client.sanitize_for_serialization(answer)

    def find(self, name: str) -> Seen | None:
        """The pod of this name; None where there is none.

        Raises:
            Unanswered: the API does not answer.
        """
        with _asked(f"pod {name}"):
            try:
                return pod.seen(self._plain(self.api.read_namespaced_pod(name, self.namespace, **_patient())))
            except ApiException as error:
                if error.status != 404:
                    raise
        return None

    def of_project(self, mark: str) -> list[Seen]:
        """All pods that carry this mark.

        Raises:
            Unanswered: the API does not answer.
        """
        with _asked("pods of this project"):
            found = self.api.list_namespaced_pod(
                self.namespace, label_selector=f"{pod.PROJECT}={mark}", **_patient()
            ).items
            return [pod.seen(self._plain(one)) for one in found]

    def create(self, name: str, image: str, command: list[str], env: Mapping[str, str], meta: Any, spec: Any) -> bool:
        """Create the pod; False where one of this name is there.

        Raises:
            Unanswered: the API refuses it, in its words, or does not answer: whether the pod is there is not known.
        """
        body = build_pod_body(name, image, command, env, meta, spec)
        with _asked(f"create pod {name}"):
            try:
                self.api.create_namespaced_pod(self.namespace, body, **_patient())
            except ApiException as error:
                if error.status != 409:
                    raise
                return False
        return True

    def delete(self, name: str, grace_seconds: int | None = None) -> None:
        """Ask the pod to end, and have it removed; one that is not there is no error.

        Raises:
            Unanswered: the API does not answer.
        """
        words = {} if grace_seconds is None else {"grace_period_seconds": grace_seconds}
        with _asked(f"delete pod {name}"):
            try:
                self.api.delete_namespaced_pod(name, self.namespace, **words, **_patient())
            except ApiException as error:
                if error.status != 404:
                    raise

    def print_log(self, name: str, is_taken_up: bool) -> threading.Thread:
        """Print what the pod says until it has ended, from a thread, and pass its messages on; the end of it is the
        thread's. A log that cannot be read stops nothing.
        """
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)
        thread = threading.Thread(target=self._print, args=(name, is_taken_up), daemon=True, name="pod-log")
        thread.start()
        return thread

    def _print(self, name: str, is_taken_up: bool) -> None:
        begin: dict[str, int] = {"tail_lines": SHOWN_BEFORE} if is_taken_up else {}
        with self.message_reader.read_messages(_Relay(_channel())):  # type: ignore[arg-type]
            while True:
                with contextlib.suppress(Exception):
                    self.message_reader.consume_pod_logs(_Context(), _From(self.api, begin), name, self.namespace)  # type: ignore[union-attr]
                broke = time.monotonic()
                with contextlib.suppress(Unanswered):
                    found = self.find(name)
                    if found is None or found.is_over:
                        return
                time.sleep(AGAIN_SECONDS)  # a log may end before its pod: it was rotated, or a node restarted
                begin = {"since_seconds": int(time.monotonic() - broke) + 1}


def _namespace(kubeconfig: str | None, context: str | None) -> str:
    """Where this process's own pod is, else what the context of the kubeconfig file names."""
    inside = detect_current_namespace(None)
    if inside is None and "KUBERNETES_SERVICE_HOST" not in os.environ:
        contexts: Any = list_kube_config_contexts(kubeconfig)
        known, active = contexts
        chosen = active if context is None else next(one for one in known if one["name"] == context)
        inside = (chosen["context"] or {}).get("namespace")
    return inside or "default"


def _patient() -> dict[str, float]:
    return {"_request_timeout": PATIENCE_SECONDS}


def pods(kubernetes: Kubernetes) -> Pods:
    """The pods of the machine file's cluster and namespace.

    Raises:
        StageError: how to reach it is not known.
    """
    return Pods(kubernetes.kubeconfig, kubernetes.context, kubernetes.namespace, kubernetes.poll_seconds)


# ---- messages -----------------------------------------------------------------------------------------------------


def channel_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables under which a stage in a pod reports to Dagster by its log; none where no Dagster listens."""
    if DAGSTER_PIPES_CONTEXT_ENV_VAR not in environment:
        return {}
    return {
        DAGSTER_PIPES_CONTEXT_ENV_VAR: environment[DAGSTER_PIPES_CONTEXT_ENV_VAR],
        DAGSTER_PIPES_MESSAGES_ENV_VAR: encode_param({"stdio": "stderr"}),
    }


def _channel() -> Path | None:
    """The file in which Dagster awaits messages of the launcher's stage; None without one."""
    with contextlib.suppress(Exception):
        return Path(decode_param(os.environ[DAGSTER_PIPES_MESSAGES_ENV_VAR])["path"])
    return None


class _Relay:
    """Passes messages on, as they are."""

    def __init__(self, channel: Path | None) -> None:
        self._channel = channel

    def handle_message(self, message: Mapping[str, Any]) -> None:
        if self._channel is not None:
            with self._channel.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(message) + "\n")


class _Context:
    """What the reader of logs asks of a step of Dagster: where to complain."""

    log = logging.getLogger("reel.kubernetes")


class _From:
    """The API, whose logs begin later than with their first line when they are first read."""

    def __init__(self, api: Any, begin: Mapping[str, int]) -> None:
        self._api, self._begin = api, begin

    def read_namespaced_pod_log(self, *names: str, **words: Any) -> Any:
        if words.get("since_seconds") is None:
            words |= self._begin
        return self._api.read_namespaced_pod_log(*names, **words)
