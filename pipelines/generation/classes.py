"""What anchored flow reads of the representation: pseudo-classes, and whether the gates let it start."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.stage import StageError, digest, say
from pipelines.written import read_json

REMEDY = (
    "Change what the gate measures (docs/diagnostics.md), or its threshold in params.yaml, and run diagnostics again"
)


def gate(diagnostics: Path) -> None:
    """Refuse to start on a representation whose diagnostics failed; say which gates only warned.

    Raises:
        StageError: naming the failed gate, its number, its threshold and what to do.
    """
    path = diagnostics / "gates.json"
    if not path.is_file():
        raise StageError(f"{path}: no such file; run the stage diagnostics, whose gates this stage waits for.")
    content = json.loads(path.read_text(encoding="utf-8"))
    gates = content["gates"] if isinstance(content, dict) else content
    failed = [item for item in gates if item["verdict"] == "fail"]
    if failed:
        told = "; ".join(
            f"{item['name']} is {item['value']:.4g}, wanted {item['comparison']} {item['threshold']}"
            + (f" ({item['reason']})" if item.get("reason") else "")
            for item in failed
        )
        raise StageError(f"{path}: gate failed: {told}. {REMEDY}.")
    for item in gates:
        if item["verdict"] == "warn":
            value = f"is {item['value']:.4g}" if "value" in item else "is not available"
            say(f"gate {item['name']} warns: {value}, wanted {item['comparison']} {item['threshold']}")


def read_classes(folder: Path, latents: Path) -> tuple[dict[str, int], int]:
    """Class of every key, and the number of classes.

    Raises:
        StageError: the folder holds no classes, they are of other latents, or one is no class of the codebook.
    """
    path, facts_path = folder / "assignments.parquet", folder / "codebook.json"
    for part in (path, facts_path):
        if not part.is_file():
            raise StageError(f"{part}: no such file; run the stage pseudo_classes.")
    facts = read_json(facts_path, "latents")
    if facts["latents"] != digest(latents):
        raise StageError(
            f"{facts_path}: classes of latents {facts['latents'][:16]}, but {latents} is {digest(latents)[:16]}. "
            "Run the stage pseudo_classes again."
        )
    table = pq.read_table(path, columns=["key", "pseudo_class"]).to_pydict()
    classes = dict(zip(table["key"], map(int, table["pseudo_class"]), strict=True))
    count = int(facts["num_classes"])
    if not classes or min(classes.values()) < 0 or max(classes.values()) >= count:
        raise StageError(f"{path}: classes must be 0 to {count - 1}; run the stage pseudo_classes again.")
    return classes, count
