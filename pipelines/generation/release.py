"""A checkpoint as a folder to give away: weights, card, record, chain, bill of materials, licences, signature.

``reel release --help``. A flow becomes what ``reel export`` makes of it, so diffusers alone loads it where its
pipelines can; any other checkpoint goes as it is. Everything beside the weights is in the words of a standard
(:mod:`pipelines.standards`), and ``reel audit`` goes over all of it, on any machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines import chain, origin, run_facts, stage
from pipelines.credentials import credentials
from pipelines.generation import export
from pipelines.generation.pipeline import NOT_GIVEN_AWAY
from pipelines.models import lora, lora_names
from pipelines.models.denoiser import averaged
from pipelines.progress import Progress
from pipelines.provenance import lineage
from pipelines.stage import StageError
from pipelines.standards import bom, card, facts, signing, statements
from pipelines.told import plain
from pipelines.training import checkpoint
from pipelines.training.generator import FILE, read_description
from pipelines.written import read_json

LEFT = (*NOT_GIVEN_AWAY, "README.md", *stage.BESIDE, "checkpoint.json")
"""Of a checkpoint that goes as it is: what stays, and what is written anew."""
ADAPTER = "lora"
"""Folder of a release that holds the adapter by itself."""

TASKS = {"flow": "text-to-video", "refiner": "video-to-video", "world_model": "image-to-video"}
"""What the kinds of generators do, as the model hub calls it."""


@dataclass(frozen=True)
class Around:
    """What a release is made with besides the checkpoint: places in the project, key, licence of the weights."""

    latents: Path
    autoencoder: Path
    evaluation: Path
    metrics: Path
    clips: Path
    key: Path
    licence: str | None


def release(folder: Path, out: Path, around: Around) -> facts.Release:
    """Write the release, whole or not at all.

    Raises:
        StageError: it is no checkpoint, parts are missing, something in its record lets a reader in, or ``out`` is
            something else than an earlier release.
    """
    record = checkpoint.read(folder)
    if out.exists() and not (out / signing.SIGNATURE).is_file():
        raise StageError(f"--out {out}: exists and is no release, so it is not replaced; give another folder.")
    key, made = signing.private_key(around.key)
    if made:
        stage.say(f"{around.key}: a new private key to sign with; keep it, and let nobody read it")
    _refuse_secrets(folder, {"checkpoint.json": record, "lineage.json": chain.carried(folder)[0]["nodes"]})
    with stage.whole_folder(out) as place:
        filled = _weights(place, folder, around)
        _forget_places(place)
        told = {**statements.clean(record), "weights": checkpoint.weights(place)}
        stage.write_json(place / "checkpoint.json", told)
        _carry(place, folder, out.name, around)
        found = _known(place, folder, out.name, filled, around)
        _describe(place, found, filled, key)
    return found


def _refuse_secrets(folder: Path, contents: Mapping[str, Any]) -> None:
    for name, content in contents.items():
        for where, told in credentials(content):
            place = ".".join(map(str, where))
            raise StageError(f"{folder}: {name}: {place} holds {told}; nothing was released.")


# ---- weights ------------------------------------------------------------------------------------------------------


def _weights(place: Path, folder: Path, around: Around) -> export.Filled:
    is_flow = (folder / FILE).is_file() and read_description(folder).get("kind", "flow") == "flow"
    if not is_flow:
        shutil.copytree(folder, place, ignore=shutil.ignore_patterns(*LEFT), dirs_exist_ok=True)
        return export.Filled("reelgraph", _as_it_is(folder), "It goes as it is.", "the checkpoint as it is")
    filled = export.fill(place, folder, around.latents, around.autoencoder)
    network = averaged(folder / read_description(folder)["phases"][-1]["network"])
    if filled.kind is None or not (network / lora.FILE).is_file():
        return filled
    (place / ADAPTER).mkdir()
    shutil.copy2(network / lora.FILE, place / ADAPTER / lora.FILE)
    lora_names.write_comfy(network, filled.kind, place / ADAPTER)
    return filled


def _forget_places(place: Path) -> None:
    """Of the folders that networks were loaded from, which diffusers notes in their configs, the name alone."""
    for path in place.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        noted = content.get("_name_or_path") if isinstance(content, dict) else None
        if isinstance(noted, str) and Path(noted).is_absolute():
            told = json.dumps({**content, "_name_or_path": Path(noted).name}, indent=2)
            path.write_text(f"{told}\n", encoding="utf-8")


def _as_it_is(folder: Path) -> str:
    """How the networks of a checkpoint are loaded, as its own card says."""
    text = (folder / "README.md").read_text(encoding="utf-8") if (folder / "README.md").is_file() else ""
    lines = text.partition("## Load\n")[2].partition("\n## ")[0].replace(f'"{origin.inside(folder)}', '"FOLDER')
    return f"{lines.strip()}\n\nOr give the folder to Reelgraph's commands as `--checkpoint`."


ADAPTER_TEXT = f"""

The adapter by itself, for who has the base: `pipe.load_lora_weights(folder, subfolder="{ADAPTER}",
weight_name="{lora.FILE}")`; for ComfyUI `{ADAPTER}/{lora_names.COMFY}`, to be put into `models/loras`.
"""


# ---- what is known ------------------------------------------------------------------------------------------------


def _carry(place: Path, folder: Path, name: str, around: Around) -> None:
    read = {"checkpoint": folder}
    if (folder / FILE).is_file():
        read |= {"latents": around.latents, "autoencoder": around.autoencoder}
    told = {"stage": "reel release", "path": name, "environment": origin.environment()}
    chain.carry(place, told, read, {one: origin.inside(path) for one, path in read.items()})
    content = chain.carried(place)[0]
    nodes = chain.carried(folder)[0]["nodes"] | content["nodes"]  # of a checkpoint from before chains: its record
    told_of = {**content, "nodes": statements.clean(nodes)}
    stage.write_json(place / stage.CHAIN, {**told_of, "sha256": chain.seal(told_of)})


def _known(place: Path, folder: Path, name: str, filled: export.Filled, around: Around) -> facts.Release:
    """All facts, and those of the runs written."""
    source, own = lineage(folder), chain.carried(place)[0]
    runs = {digest: dict(run) for digest, run in source.runs.items()}
    if own["artifact"] not in source.nodes:
        runs[own["artifact"]] = _this_run()
    record = read_json(place / "checkpoint.json")
    run_facts.leave(place, statements.clean(runs))
    results, count = facts.evaluated(around.evaluation, around.metrics, source.artifact)
    clips = next((digest for digest, node in own["nodes"].items() if node.get("stage") == "raw_video"), "")
    return facts.Release(
        name=name,
        artifact=own["artifact"],
        nodes=own["nodes"],
        runs=runs,
        record=record,
        results=results,
        num_samples=count,
        licence=around.licence,
        sources=facts.source_licences(around.clips, clips),
        loads_with=filled.library,
        task=_task(folder),
        is_adapter=(place / ADAPTER).is_dir(),
        files=record["weights"],
    )


def _task(folder: Path) -> str:
    return TASKS[read_description(folder).get("kind", "flow")] if (folder / FILE).is_file() else "other"


def _this_run() -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    nothing: dict[str, Any] = {"resumed_at": [], "seconds": None, "hardware": None, "decision": None, "accepted": []}
    return {"began_at": now, "ended_at": now, **nothing, **origin.commit()}


# ---- in the words of standards ------------------------------------------------------------------------------------


def _describe(place: Path, told: facts.Release, filled: export.Filled, key: signing.Private) -> None:
    """Card, licences, bill of materials and statements; the signature over all of it is the last write."""
    how = filled.card.partition("\n")[2] if filled.card.startswith("# ") else filled.card
    how += ADAPTER_TEXT if told.is_adapter else ""
    (place / card.CARD).write_text(card.card(told, how), encoding="utf-8")
    (place / card.LICENCES).write_text(card.licences(told), encoding="utf-8")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    stage.write_json(place / bom.FILE, bom.bill(told, now))
    digests = {name: stage.file_digest(path) for name, path in signing.files(place).items()}
    made = statements.statements(told.nodes, told.runs, told.artifact, digests)
    statements.write(place / statements.FILE, made, key)
    signing.sign(place, key)


def say(told: facts.Release, out: Path, key: Path) -> None:
    """What was made, and what of it a reader will miss."""
    for name in told.dirty:
        stage.say(f"warning: {name} ran from code with local changes that no commit holds; card and statements say so")
    if not told.results:
        stage.say("warning: no evaluation of these very weights is at hand, so the card has no numbers")
    if told.licence is None:
        stage.say("warning: nothing says under which licence the weights are; --licence NAME does")
    if told.loads_with == "diffusers":
        stage.say(f"{out}: diffusers alone loads it")
    elif told.task != "other":
        stage.say(f"{out}: Reelgraph loads it; no pipeline of diffusers drives such a network (`reel export` says why)")
    known = sum(digest in told.runs for digest in told.nodes)
    stage.say(
        f"{out}: {len(told.nodes)} artifacts in its chain, of {known} the run is recorded; signed by {_print(key)}"
    )


def _print(key: Path) -> str:
    return f"the key with fingerprint {signing.fingerprint(signing.private_key(key)[0].public_key())[:16]}"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="reel release", description=plain(__doc__))
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="folder of a checkpoint, e.g. checkpoints/rectified_flow"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; an earlier release is replaced")
    key = signing.own("release.pem")
    parser.add_argument("--key", type=Path, default=key, help=f"private key, made where there is none ({key})")
    parser.add_argument("--licence", metavar="NAME", help="of the weights, as the model hub calls it: apache-2.0")
    parser.add_argument("--latents", type=Path, default=Path("data/latents"), help="that a flow was trained on")
    parser.add_argument("--autoencoder", type=Path, default=Path("checkpoints/autoencoder"), help="of those latents")
    parser.add_argument("--evaluation", type=Path, default=Path("data/evaluation"), help="whose numbers go in")
    parser.add_argument("--metrics", type=Path, default=Path("metrics/evaluation.json"), help="of that evaluation")
    parser.add_argument("--clips", type=Path, default=Path("data/clips"), help="catalog that states licences")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    given = vars(arguments(argv))
    stage.current().progress = Progress("release")
    folder, out = given.pop("checkpoint"), given.pop("out")
    try:
        say(release(folder, out, Around(**given)), out, given["key"])
    except (ValueError, OSError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
