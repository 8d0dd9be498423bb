"""A profile is what another size of everything changes in ``params.yaml``: ``reel profile wan2.2-5b`` writes it there.

A profile names only the keys that differ, so a new key of a section is in every profile at once. A block under the tag
``!whole`` takes the place of the present one; every other block is changed key by key. Comments stay, those of a block
that gives way too: it stays as a comment.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError

from pipelines.document import Whole
from pipelines.editing import edited
from pipelines.params import PARAMS_FILE, ParamsError, check
from pipelines.told import plain

FOLDER = Path("profiles")


class _Constructor(SafeConstructor):
    """YAML as DVC reads it, with one tag of our own."""


_Constructor.add_constructor("!whole", lambda reader, node: Whole(reader.construct_mapping(node, deep=True)))


def changes(path: Path) -> dict[str, Any]:
    """What a profile changes; names that begin with a dot only hold what is used several times.

    Raises:
        ParamsError: it cannot be read.
    """
    reader = YAML(typ="safe")
    reader.Constructor = _Constructor
    try:
        found = reader.load(path.read_text(encoding="utf-8"))
    except (YAMLError, ValueError) as error:
        raise ParamsError(f"{path}: not readable as YAML: {getattr(error, 'problem', error)}.") from None
    return {key: value for key, value in (found or {}).items() if not str(key).startswith(".")}


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
    notes = "".join(line + "\n" for line in source.splitlines() if line.startswith("#"))
    text = notes + edited(params.read_text(encoding="utf-8"), changes(path))
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
    parser = argparse.ArgumentParser(prog="reel profile", description=plain(__doc__).splitlines()[0])
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
