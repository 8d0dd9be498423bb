"""What a configuration of seed D's guide (FluxFlow) says, whichever of its schemas it is written in.

Optimizers and schedules stand in one of three places: under a step (``optimizers``, ``schedulers``, as the guide
writes them, or inside ``optimization``, as its program reads them), at the top (``optimizer_config``,
``scheduler_config``), or in a JSON file that ``optim_sched_config`` names. A command line is one step.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from pipelines.document import load
from pipelines.fluxflow_keys import ENTRY, ENTRY_NOT_OURS, NOT_OURS, RULES, STEP, TOP, Kind, taken
from pipelines.params import ParamsError

NETWORKS = {
    "vae": "autoencoder",
    "compressor": "autoencoder",
    "expander": "autoencoder",
    "discriminator": "discriminator",
    "D_img": "discriminator",
    "flow": "denoiser",
    "flow_processor": "denoiser",
    "text_encoder": "text_encoder",
}
"""The guide's components, and which network of ours each is."""
METRICS = {
    "loss_recon": "loss/reconstruction",
    "recon": "loss/reconstruction",
    "recon_loss": "loss/reconstruction",
    "loss_kl": "loss/kl",
    "kl": "loss/kl",
    "kl_loss": "loss/kl",
    "loss_gen": "loss/adversarial",
    "generator": "loss/adversarial",
    "loss_disc": "loss/discriminator",
    "discriminator": "loss/discriminator",
    "lpips": "loss/perceptual",
    "vae": "loss/autoencoder",
    "vae_loss": "loss/autoencoder",
    "loss_flow": "loss/denoiser",
    "flow": "loss/denoiser",
    "flow_loss": "loss/denoiser",
}
"""The guide's names of losses, and ours."""
SECTIONS = ("data", "model", "training", "output", "pipeline")


@dataclass
class Config:
    """What a configuration says.

    Attributes:
        top: the keys of data and model.
        steps: each with what it inherits.
        left_out: what has no equivalent, and why.
        wrong: values that no such key can have.
    """

    top: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def check(self, source: str) -> None:
        """Say all that is wrong at once.

        Raises:
            ParamsError: something is, or two steps have one name.
        """
        names = [step["name"] for step in self.steps]
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        wrong = [*self.wrong, *(f"two steps are named {name}; a step's name is its stage's" for name in twice)]
        if wrong:
            raise ParamsError("\n".join(f"{source}: {one}." for one in dict.fromkeys(wrong)))


def number(value: Any) -> Any:
    """A number that YAML 1.1 reads as text (``1e-5`` has no dot) as a number; everything else as it is."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?e[-+]?\d+", value):
        return float(value)
    if isinstance(value, dict):
        return {key: number(one) for key, one in value.items()}
    return [number(one) for one in value] if isinstance(value, list) else value


def guess(key: str, known: Iterable[str]) -> str:
    """That nobody knows a key, and which one it may be."""
    near = difflib.get_close_matches(key, list(known), 1)
    return "no key of the guide or its program" + (f"; did you mean {near[0]}?" if near else "")


def _taken(config: Config, where: str, kind: Kind, value: Any) -> Any:
    """A value as its kind has it; None, with a note, where it is of another."""
    try:
        return taken(kind, number(value))
    except ValueError as error:
        config.wrong.append(f"{where} {error}")
        return None


def _known(config: Config, values: Any, where: str, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """Of a block's values those that are read; the rest is left out with its reason."""
    found = {}
    for key, value in (_taken(config, where, "block", values) or {}).items():
        if key not in kinds:
            config.left_out[f"{where}.{key}"] = ENTRY_NOT_OURS.get(key) or guess(str(key), kinds)
        elif value is not None and (one := _taken(config, f"{where}.{key}", kinds[key], value)) is not None:
            found[key] = one
    return found


def _sort(config: Config, values: Any, where: str) -> dict[str, Any]:
    """Of the values those that a step may have; the rest goes to the top, or is left out with its reason."""
    step = {}
    for key, value in (_taken(config, where.rstrip(".") or "the file", "block", values) or {}).items():
        kind = STEP.get(key) or TOP.get(key)
        if kind == "rules":
            step[key] = None if value is None else _known(config, value, f"{where}{key}", RULES)
        elif kind is not None and value is not None:
            found = _taken(config, f"{where}{key}", kind, value)
            (step if key in STEP else config.top)[key] = found
        elif kind is None and key not in SECTIONS and key != "steps":
            config.left_out[f"{where}{key}"] = NOT_OURS.get(key) or guess(str(key), [*STEP, *TOP, *NOT_OURS])
    return {key: value for key, value in step.items() if value is not None}


def _optimization(
    config: Config, step: dict[str, Any], where: str, folder: Path
) -> dict[str, dict[str, dict[str, Any]]]:
    """Optimizers and schedulers by component, from whichever place has them; the step's own win."""
    found: dict[str, dict[str, dict[str, Any]]] = {"optimizers": {}, "schedulers": {}}
    top = {"optimizers": config.top.get("optimizer_config"), "schedulers": config.top.get("scheduler_config")}
    places: list[tuple[str, Any]] = [("", top)]
    named = step.pop("optim_sched_config", None)
    if named is not None:
        path = folder / named
        try:
            places.append((f"{path}: ", json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            config.wrong.append(f"{where}optim_sched_config: {path} cannot be read: {error}")
    places += [(f"{where}optimization.", step.pop("optimization", None))]
    places += [(where, {kind: step.pop(kind, None) for kind in found})]
    for place, blocks in places:
        held = _taken(config, place.rstrip(".: "), "block", {} if blocks is None else blocks) or {}
        config.left_out |= {f"{place}{key}": guess(str(key), found) for key in held if key not in found}
        for kind, entries in found.items():
            for component, entry in (_taken(config, f"{place}{kind}", "block", held.get(kind) or {}) or {}).items():
                if component not in NETWORKS:
                    known = ", ".join(NETWORKS)
                    config.wrong.append(f"{place}{kind}: {component!r} is no component; one of {known}")
                    continue
                entries[component] = _known(config, entry, f"{place}{kind}.{component}", ENTRY[kind])
    return found


def _step(config: Config, inherited: Mapping[str, Any], own: Any, at: int, folder: Path) -> dict[str, Any]:
    values = {**inherited, **_sort(config, own, f"steps[{at}].")}
    found = _optimization(config, values, f"steps[{at}].", folder)
    return {**values, **found, "name": re.sub(r"\W+", "_", str(values.get("name") or f"step_{at}")).strip("_")}


def _trains(step: Mapping[str, Any]) -> bool:
    return any(step.get(key) for key in ("train_vae", "gan_training", "train_diff", "train_diff_full"))


def read_yaml(path: Path) -> Config:
    """A YAML file of the guide.

    Raises:
        ParamsError: it cannot be read, has no step, or values that its keys cannot have.
    """
    try:
        content = load(path.read_text(encoding="utf-8"))
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: no sections (data, model, training) in it.")
    config = Config()
    _sort(config, {key: value for key, value in content.items() if key not in SECTIONS}, "")
    for section in ("data", "model", "output"):
        _sort(config, content.get(section) or {}, f"{section}.")
    training = content.get("training") or {}
    inherited = _sort(config, training, "training.")
    pipeline = (training.get("pipeline") if isinstance(training, dict) else None) or content.get("pipeline") or {}
    steps = pipeline.get("steps") if isinstance(pipeline, dict) else pipeline
    if steps is not None and (not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps)):
        raise ParamsError(f"{path}: training.pipeline.steps is to be a list of steps.")
    _sort(config, pipeline if isinstance(pipeline, dict) else {}, "training.pipeline.")
    config.steps = [_step(config, inherited, step, at, path.parent) for at, step in enumerate(steps or [{}])]
    config.check(str(path))
    if not steps and not _trains(inherited):
        raise ParamsError(f"{path}: no training.pipeline.steps, and training itself trains nothing.")
    return config


def read_words(words: Sequence[str], folder: Path) -> Config:
    """The words of ``fluxflow-train``: one step; flags without a value are true.

    Raises:
        ParamsError: a word that is no flag, a value that its flag cannot have, or nothing is trained.
    """
    values: dict[str, Any] = {}
    key = None
    for word in words:
        if word.startswith("--"):
            key = word[2:].partition("=")[0].replace("-", "_")
            values[key] = load(word.partition("=")[2]) if "=" in word else True
        elif key is None:
            raise ParamsError(f"{word!r}: expected a flag of fluxflow-train, such as --train_vae.")
        elif values[key] is True:
            values[key] = load(word)
        else:
            values[key] = [*([values[key]] if not isinstance(values[key], list) else values[key]), word]
    if "config" in values:
        config = read_yaml(folder / str(values.pop("config")))
        config.left_out |= {f"--{key}": "beside --config; write it into that file" for key in values}
        return config
    config = Config()
    config.steps = [_step(config, {}, values, 0, folder)]
    config.left_out = {key.replace("steps[0].", "--"): reason for key, reason in config.left_out.items()}
    config.wrong = [one.replace("steps[0].", "--") for one in config.wrong]
    config.check("fluxflow-train")
    if not _trains(config.steps[0]):
        raise ParamsError("fluxflow-train: trains nothing; one of --train_vae, --gan_training, --train_diff_full.")
    return config
