"""A profile is what another size of everything changes in ``params.yaml``: ``reel profile wan2.2-5b`` writes it there.

A profile names only the keys that differ, so a new key of a section is in every profile at once. A block under the tag
``!whole`` takes the place of the present one; every other block is changed key by key.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipelines.params import PARAMS_FILE, ParamsError, check

FOLDER = Path("profiles")


class Whole(dict[str, Any]):
    """A block that replaces the present one."""


class _Loader(yaml.SafeLoader):
    pass


def _whole(loader: Any, node: Any) -> Whole:
    return Whole(loader.construct_mapping(node, deep=True))


_Loader.add_constructor("!whole", _whole)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # a block that two sections share is written out twice
        return True


_Dumper.add_representer(Whole, lambda dumper, data: dumper.represent_dict(data))
_Dumper.add_representer(float, lambda dumper, data: dumper.represent_scalar("tag:yaml.org,2002:float", _number(data)))


def _number(value: float) -> str:
    """A spelling that YAML 1.1 reads as a number: it wants a dot in ``1.0e-05``."""
    text = repr(value)
    return text if "." in text or "e" not in text else text.replace("e", ".0e")


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``changes``: blocks key by key, a :class:`Whole` block and everything else in its place."""
    made = dict(values)
    for key, change in changes.items():
        present = made.get(key)
        deeper = isinstance(change, dict) and not isinstance(change, Whole) and isinstance(present, dict)
        made[key] = merged(present, change) if deeper else change  # type: ignore[arg-type]
    return made


def complete(name: str, folder: Path = FOLDER, params: Path = PARAMS_FILE) -> str:
    """The text of a whole params.yaml: the present one changed by the profile.

    Raises:
        ParamsError: there is no such profile, or what comes out is not valid for the stages of dvc.yaml.
    """
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
        raise ParamsError(f"{path}: no such profile; there are {known}.")
    source = path.read_text(encoding="utf-8")
    changes: Any = yaml.load(source, _Loader)  # a SafeLoader with one tag of our own
    changes = {key: value for key, value in changes.items() if not key.startswith(".")}
    values = merged(yaml.safe_load(params.read_text(encoding="utf-8")), changes)
    notes = "".join(line + "\n" for line in source.splitlines() if line.startswith("#"))
    text = notes + yaml.dump(values, Dumper=_Dumper, sort_keys=False, width=120, default_flow_style=None)
    with tempfile.TemporaryDirectory() as place:
        trial = Path(place) / f"params-{name}.yaml"
        trial.write_text(text, encoding="utf-8")
        try:
            check(trial)
        except ParamsError as error:
            raise ParamsError(str(error).replace(str(trial), f"{params} with {path}")) from None
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="reel profile", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", help=f"of a file in {FOLDER}/")
    parser.add_argument("--out", type=Path, default=PARAMS_FILE, help=f"default: {PARAMS_FILE}; git knows the old one")
    given = parser.parse_args(argv)
    try:
        text = complete(given.name)
    except ParamsError as error:
        print(f"profile: {error}", file=sys.stderr)
        return 2
    given.out.write_text(text, encoding="utf-8")
    print(f"{given.out}: profile {given.name}. Put your footage where raw_video.source says; then `reel plan`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
