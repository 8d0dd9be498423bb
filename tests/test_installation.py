"""What is installed: every direct import is declared, the lists are complete, hashed and apart, and late means late."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
OURS = {"assets", "benchmarks", "dagster_dvc", "dagster_project", "pipelines", "tests"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PEERS = {"torchcodec", "torchmetrics", "skimage"}
"""What a script compares our numbers with, where it is installed."""


def declared(*extras: str) -> set[str]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return {canonicalize_name(Requirement(line).name) for line in lines}


@cache
def distributions() -> dict[str, set[str]]:
    return {module: {canonicalize_name(name) for name in names} for module, names in packages_distributions().items()}


def imported(*rooms: str) -> dict[str, str]:
    """Top-level modules that are imported anywhere in the rooms, and a file that does."""
    found: dict[str, str] = {}
    for path in (path for room in rooms for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {name.partition(".")[0]: str(path.relative_to(ROOT)) for name in names}
    return {name: file for name, file in found.items() if name not in OURS | set(sys.stdlib_module_names)}


@pytest.mark.costly
@pytest.mark.parametrize(
    ("rooms", "extras"), [(("pipelines", "assets", "dagster_dvc", "dagster_project"), ()), (("tests",), ("dev",))]
)
def test_every_direct_import_is_declared(rooms: tuple[str, ...], extras: tuple[str, ...]) -> None:
    known = declared(*extras, *(set(PROJECT["optional-dependencies"]) - {"dev"}))
    found = imported(*rooms)
    assert len(found) > 5
    missing = {
        name: file
        for name, file in found.items()
        if not (distributions().get(name, {canonicalize_name(name)}) & (known | PEERS))
    }
    assert missing == {}


def locked(file: str) -> dict[str, tuple[str, str]]:
    """Of a list: package -> (version, marker)."""
    found = {}
    for line in (ROOT / file).read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^ ;\\]+)(?: *; *([^\\]+))?", line):
            found[canonicalize_name(match[1])] = (match[2], (match[3] or "").strip())
    return found


LISTS = ("requirements.lock", "requirements-torch.lock", "requirements-dev.lock")


@pytest.mark.parametrize("file", LISTS)
def test_every_package_of_a_list_has_hashes(file: str) -> None:
    blocks = re.split(r"^(?=[A-Za-z0-9])", (ROOT / file).read_text(), flags=re.MULTILINE)[1:]
    assert len(blocks) == len(locked(file)) and all("--hash=sha256:" in block for block in blocks)


def test_the_lists_are_apart_and_satisfy_what_is_asked_for() -> None:
    run, torch, dev = map(locked, LISTS)
    assert not set(run) & set(dev) and not set(run) & set(torch) and not set(torch) & set(dev)
    assert not [name for name in run if name.startswith(("torch", "nvidia-", "cuda-", "triton"))]
    for lines, known in (
        (PROJECT["dependencies"], run | torch),
        (PROJECT["optional-dependencies"]["dev"], run | dev | torch),
    ):
        for line in lines:
            wanted = Requirement(line)
            assert wanted.specifier.contains(known[canonicalize_name(wanted.name)][0], prereleases=True), line
    assert all("linux" in marker for name, (_, marker) in torch.items() if name != "torch")  # CUDA: nowhere else


def test_this_environment_is_the_lists() -> None:
    from importlib.metadata import PackageNotFoundError, version

    from packaging.markers import Marker

    wrong = {}
    for file in ("requirements.lock", "requirements-dev.lock"):
        for name, (wanted, marker) in locked(file).items():
            if marker and not Marker(marker).evaluate():
                continue
            try:
                found = version(name)
            except PackageNotFoundError:
                found = "not installed"
            if found != wanted:
                wrong[name] = (found, wanted)
    assert wrong == {}


@pytest.mark.costly
def test_what_only_an_option_needs_is_imported_late() -> None:
    """wandb, peft and webdataset's reader cost a second or more each, and most stages need none of them."""
    early = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "pipelines").rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        and re.search(r"\b(wandb|peft|webdataset)\b", ast.unparse(node))
    ]
    assert early == []


RECORDER = """#!/bin/sh
case "$1" in -c) echo "$GPUS"; exit 0;; esac
echo "$*" >> "$CALLS"
for word in $FOUND; do case "$*" in *"$word"*) exit 0;; esac; done
exit 1
"""
"""An interpreter that notes what pip is asked for, and has it where a word of FOUND stands in the request."""


@pytest.mark.skipif(sys.platform != "linux", reason="the registry's torch is a CPU build elsewhere")
@pytest.mark.parametrize(
    ("gpus", "index", "found", "asked"),
    [
        (0, "", "+cpu", ["cpu"]),
        (0, "", "download.pytorch.org", ["cpu", "official"]),
        (0, "", "requirements-torch.lock", ["cpu", "official", "registry"]),
        (0, "https://mirror.example", "mirror.example", ["mirror"]),
        (2, "", "requirements-torch.lock", ["registry"]),
    ],
)
def test_torch_comes_without_cuda_where_no_driver_offers_a_gpu(
    gpus: int, index: str, found: str, asked: list[str], tmp_path: Path
) -> None:
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(RECORDER)
    python.chmod(0o755)
    environment = {**os.environ, "GPUS": str(gpus), "TORCH_INDEX": index, "FOUND": found, "CALLS": str(calls)}
    done = subprocess.run(
        ["bash", ".ci/torch", str(python)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    kinds = {
        "official": "download.pytorch.org",
        "mirror": "mirror.example",
        "cpu": "+cpu",
        "registry": "--require-hashes",
    }
    lines = calls.read_text().splitlines()
    assert [next(kind for kind, word in kinds.items() if word in line) for line in lines] == asked
    assert ("several GB of CUDA" in done.stdout) == (asked[-1] == "registry" and not gpus)
