"""Run many stages through DVC: producers first, the longest chain before others, side by side. No Dagster needed."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from dagster_dvc.environment import grace_seconds
from dagster_dvc.graph import chains
from dagster_dvc.lock import read_lock
from dagster_dvc.project import DvcProject
from dagster_dvc.refresh import options, prepared
from dagster_dvc.repro import Repro, Result, checkout, expected_seconds
from dagster_dvc.status import reasons


@dataclass
class Summary:
    """What a run of several stages did, in the order in which stages ended."""

    results: dict[str, Result] = field(default_factory=dict)
    not_started: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> list[Result]:
        """Results of the stages that did not succeed."""
        return [result for result in self.results.values() if not result.succeeded]


@dataclass
class Options:
    """At most `jobs` stages at once; `keep_going` starts what a failure does not touch; `force` runs everything.

    `pull` takes from the DVC remote what it has before anything is computed.
    `env` are further environment variables of a stage, by its name.
    """

    jobs: int = 2
    keep_going: bool = False
    force: bool = False
    pull: bool = False
    grace: float = field(default_factory=grace_seconds)
    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class Runner:
    """Runs the named stages of a project. `on_line(stage, line)` gets output, `on_end(result)` every ended stage."""

    def __init__(
        self,
        project: DvcProject,
        names: Iterable[str],
        options: Options | None = None,
        on_line: Callable[[str, str], None] = lambda stage, line: None,
        on_end: Callable[[Result], None] = lambda result: None,
    ) -> None:
        chosen = set(names)
        self.project = project
        self.options = options or Options()
        length = chains(project.upstream, expected_seconds(project))
        self.waiting = sorted((name for name in project.stages if name in chosen), key=length.__getitem__, reverse=True)
        self.running: dict[str, Repro | None] = {}
        self.summary = Summary()
        self._on_line = on_line
        self._on_end = on_end
        self._ended: queue.Queue[Result] = queue.Queue()

    def run(self) -> Summary:
        """Run to the end. On KeyboardInterrupt everything running is stopped, then the interrupt goes on."""
        began = time.time()
        try:
            self._start_ready()
            while self.running:
                self._finish(self._next())
                self._start_ready()
        except BaseException:
            self.stop()
            raise
        finally:
            self.summary.seconds = time.time() - began
            self.summary.not_started = list(self.waiting)
        return self.summary

    def stop(self) -> None:
        """Stop every running stage and wait until all are gone."""
        for process in filter(None, self.running.values()):
            process.stop()
        while self.running:
            self._finish(self._next())

    def _next(self) -> Result:
        while True:
            try:
                return self._ended.get(timeout=0.5)
            except queue.Empty:
                continue  # wakes up so that a signal handler can run

    def _start_ready(self) -> None:
        if self.summary.failed and not self.options.keep_going:
            return
        for name in list(self.waiting):
            if len(self.running) >= self.options.jobs:
                return
            if self._is_ready(name):
                self.waiting.remove(name)
                self._start(name)

    def _is_ready(self, name: str) -> bool:
        before = self.project.upstream[name]
        blocked = before & {*self.waiting, *self.running}
        return not blocked and all(self.summary.results[up].succeeded for up in before if up in self.summary.results)

    def _start(self, name: str) -> None:
        if not self.options.force and self._is_unchanged(name):
            self.running[name] = None
            self._ended.put(Result(name, "unchanged", 0.0, 0))
            return

        def line(text: str) -> None:
            self._on_line(name, text)

        ended = prepared(self.project, name, pull=self.options.pull, on_line=line)
        if ended is not None:
            self.running[name] = None
            self._ended.put(ended)
            return
        words = options(
            DvcProject(self.project.root), name, force=self.options.force, pull=self.options.pull, on_line=line
        )
        env = self.options.env.get(name)
        process = Repro(self.project, name, grace=self.options.grace, options=words, env=env)
        self.running[name] = process
        threading.Thread(target=self._watch, args=(name, process), name=name, daemon=True).start()

    def _is_unchanged(self, name: str) -> bool:
        """Whether the files say what dvc.lock says: asking DVC itself would take half a second a stage.

        It is asked where a stage reads or makes what lies at an address.
        """
        now = DvcProject(self.project.root)
        stage, entry = now.stages.get(name), read_lock(now).get(name)
        if stage is None or now.problems or any("://" in path for path in stage.written):
            return False
        fresh = not reasons(now, stage, entry)
        now.hashes.save()
        return fresh

    def _watch(self, name: str, process: Repro) -> None:
        try:
            self._ended.put(process.result(lambda line: self._on_line(name, line)))
        except Exception as error:
            process.stop()
            self._ended.put(Result(name, "failed", 0.0, 1, f"{type(error).__name__}: {error}"))

    def _finish(self, result: Result) -> None:
        del self.running[result.stage]
        self.summary.results[result.stage] = result
        frozen = self.project.stages[result.stage].frozen  # what lies there may be a person's own
        if result.outcome in {"failed", "stopped"} and not frozen and checkout(self.project, result.stage):
            self.summary.restored.append(result.stage)
        self._on_end(result)
