"""``reel import-fluxflow``: a configuration of FluxFlow as a profile of params.yaml, and stages of dvc.yaml.

    reel import-fluxflow config.yaml > profiles/mine.yaml        # then: reel profile mine
    reel import-fluxflow -- fluxflow-train --data_path images --captions_file captions.txt --train_vae --n_epochs 5

What it prints is a profile (:mod:`pipelines.profile`): the keys that differ. What has no equivalent is named with the
reason, never dropped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.document import Whole, read_document, written
from pipelines.fluxflow_config import Config, read_words, read_yaml
from pipelines.fluxflow_sections import Import
from pipelines.params import PARAMS_FILE, ParamsError
from pipelines.profile import complete
from pipelines.told import plain


def count_captions(config: Config, folder: Path) -> int | None:
    """Lines of the captions file, which are pictures; None where it is not on this machine."""
    named = config.top.get("captions_file")
    path = folder / str(named) if named else None
    if path is None or not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as lines:
        return sum(1 for line in lines if line.strip()) or None


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``changes``: blocks key by key, a :class:`Whole` block and everything else in its place."""
    made = dict(values)
    for key, change in changes.items():
        present = made.get(key)
        deeper = isinstance(change, dict) and not isinstance(change, Whole) and isinstance(present, dict)
        made[key] = merged(present, change) if deeper else change  # type: ignore[arg-type]
    return made


def _check(sections: dict[str, Any], params: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "fluxflow.yaml").write_text(written(sections), encoding="utf-8")
        try:
            complete("fluxflow", Path(place), params)
        except ParamsError as error:
            raise ParamsError(str(error).replace(f"{place}/fluxflow.yaml", "the imported configuration")) from None


def profile_text(made: Import, params: Path) -> str:
    """The profile, with the stages to add and what was left out as comments; checked against the stages' own rules.

    Raises:
        ParamsError: what came out is not valid for the stages.
    """
    present, _ = read_document(params)
    sections = dict(made.sections)
    for name, kind in made.kinds.items():
        if name in present and name != kind:
            raise ParamsError(f"step {name}: there is a stage {name} already; give the step another name.")
        if name not in present:  # a stage of its own has a whole section
            sections[name] = merged(present[kind], sections[name])
    known = {name: section for name, section in sections.items() if name in present}
    _check(known, params)
    for name in sections.keys() - known.keys():  # dvc.yaml has no stage of that name yet: by the rules of its kind
        _check({made.kinds[name]: sections[name]}, params)
    notes = ["# Imported from a FluxFlow configuration. To be saved as profiles/NAME.yaml; then `reel profile NAME`."]
    notes += [f"# Step {step}: {' and '.join(stages)}." for step, stages in made.placed.items()]
    if made.left_out:
        notes += ["# Without an equivalent:", *(f"#   {key}: {reason}" for key, reason in made.left_out.items())]
    if made.stages:
        notes.append("# Stages to add to dvc.yaml, each with a page docs/NAME.md:")
        notes += [f"#   {line}" for stage in made.stages for line in stage.splitlines()]
    return "\n".join(notes) + "\n" + written(sections)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 2 with a line on stderr when it cannot be done."""
    parser = argparse.ArgumentParser(prog="reel import-fluxflow", description=plain(__doc__).splitlines()[0])
    parser.add_argument("--images", type=int, help="pictures in the data set; default: lines of captions_file")
    parser.add_argument("--params", type=Path, default=PARAMS_FILE, help=argparse.SUPPRESS)
    parser.add_argument("config", nargs="+", help="a YAML file of the guide; or, after --, the words of fluxflow-train")
    given = parser.parse_args(arguments)
    try:
        words = given.config[1:] if given.config[0] == "fluxflow-train" else given.config
        is_file = len(words) == 1 and not words[0].startswith("--")
        config = read_yaml(Path(words[0])) if is_file else read_words(words, Path())
        folder = Path(words[0]).parent if is_file else Path()
        images = given.images if given.images is not None else count_captions(config, folder)
        if images is not None and images < 1:
            raise ParamsError(f"--images {images}: at least 1.")
        print(profile_text(Import(config, images), given.params), end="")
    except ParamsError as error:
        print(f"import-fluxflow: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
