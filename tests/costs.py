"""What tests cost in processor time, of this process and of those it started: quick ones stay quick.

A test over a second is marked ``costly``; `make test` leaves those out. With ``--quick-within SECONDS`` (`make check`)
a run names at its end what took longer without that mark, whoever wrote it. It fails nothing: a slow machine is no
mistake of a test's. Fixtures that tests share do not count.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from typing import Any

import pytest

from tests import forked

LEFT_OUT = ("costly", "slow")
"""Marks of tests that need not be quick."""
NAME = "processor seconds"
BEGAN, SHARED = pytest.StashKey[float](), pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option of the run that checks."""
    text = "name tests that are not marked costly and took more processor time"
    parser.addoption("--quick-within", type=float, metavar="SECONDS", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Costs are gathered where they are asked for, and not in each worker."""
    config.stash[SHARED] = 0.0
    if config.getoption("--quick-within") is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Costs(config))


def spent() -> float:
    """Processor seconds of this process and of those that it started and that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return forked.spent + sum(one.ru_utime + one.ru_stime for one in used)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest) -> Iterator[None]:
    """What is made for several tests is no cost of the one that comes first."""
    began = spent()
    try:
        return (yield)
    finally:
        if fixturedef.scope != "function":
            request.config.stash[SHARED] += spent() - began


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """From here on the test's own."""
    item.stash[BEGAN] = spent() - item.config.stash[SHARED]
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """The last report of a test says what it cost; one with a mark does not."""
    report = yield
    if call.when == "teardown" and not any(item.get_closest_marker(name) for name in LEFT_OUT):
        report.user_properties.append((NAME, spent() - item.config.stash[SHARED] - item.stash[BEGAN]))
    return report


class Costs:
    """Gathers the costs that reports tell, of all workers where there are several."""

    def __init__(self, config: pytest.Config) -> None:
        limit: Any = config.getoption("--quick-within")
        self.limit = float(limit)
        self.found: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Those over the limit."""
        told: dict[str, Any] = dict(report.user_properties) if report.when == "teardown" else {}
        cost = float(told.get(NAME, 0.0))
        if cost > self.limit:
            self.found[report.nodeid] = cost

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Which, and what to do."""
        for name, cost in sorted(self.found.items()):
            terminalreporter.write_line(
                f"NOT QUICK {name}: {cost:.1f} s of processor time; make it cheaper, or mark it @pytest.mark.costly"
            )
