"""Walks over the stage graph. An edge is DVC's: a dependency and an output whose paths overlap, either way round."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any


def overlap(one: str, other: str) -> bool:
    """Whether two relative paths are the same, or one lies inside the other."""
    a, b = _parts(one), _parts(other)
    return a[: len(b)] == b or b[: len(a)] == a


@lru_cache(maxsize=4096)
def _parts(path: str) -> tuple[str, ...]:
    return PurePosixPath(path).parts  # asked for every pair of a dependency and an output


def producers(stages: Iterable[Mapping[str, Any]], with_params: bool = True) -> dict[str, set[str]]:
    """Stage name -> names of the stages whose outputs it reads (itself included, where it reads its own output).

    A params file that a stage makes is read too; without ``with_params`` only data counts.
    """
    stages = list(stages)
    outs = [(out["path"], stage["name"]) for stage in stages for out in stage["outs"]]
    reads = {stage["name"]: [*stage["deps"], *(stage["params"] if with_params else ())] for stage in stages}
    return {name: {maker for path, maker in outs for dep in deps if overlap(dep, path)} for name, deps in reads.items()}


def ordered(upstream: Mapping[str, set[str]]) -> list[str]:
    """Names in an order in which every name follows its upstream ones; ties keep the given order. Needs no cycle."""
    result: list[str] = []
    left = dict(upstream)
    while left:
        free = [name for name, before in left.items() if not before & left.keys()]
        if not free:
            raise ValueError(f"the graph has a cycle through {', '.join(sorted(left))}")
        result += free
        for name in free:
            del left[name]
    return result


def chains(upstream: Mapping[str, set[str]], seconds: Mapping[str, float]) -> dict[str, float]:
    """Name -> seconds of the longest chain that begins with it. What is not known counts as the mean of what is.

    Who starts the longest chain first ends early: the others fill the places beside it.
    """
    usual = sum(seconds.values()) / len(seconds) if seconds else 1.0
    longest = dict.fromkeys(upstream, 0.0)
    for name in reversed(ordered(upstream)):
        longest[name] += seconds.get(name, usual)
        for before in upstream[name] & upstream.keys():
            longest[before] = max(longest[before], longest[name])
    return longest


def closure(start: Iterable[str], edges: Mapping[str, set[str]]) -> set[str]:
    """`start` and everything reachable from it along `edges`."""
    seen, todo = set(), list(start)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += edges.get(name, ())
    return seen


def reaches(start: str, goal: str, edges: Mapping[str, set[str]]) -> bool:
    """Whether at least one step along `edges` leads from `start` to `goal`."""
    return goal in closure(edges.get(start, ()), edges)


def reverse(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same graph with every edge turned round."""
    turned: dict[str, set[str]] = {name: set() for name in edges}
    for name, others in edges.items():
        for other in others:
            turned[other].add(name)
    return turned
