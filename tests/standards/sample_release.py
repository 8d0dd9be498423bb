"""What releases are made of in tests: a node of a chain, gates of every verdict, and in-toto's draft of evaluations."""

from __future__ import annotations

from typing import Any

NODE: dict[str, Any] = {
    "stage": "flow",
    "path": "checkpoints/flow",
    "params": {},
    "seed": {},
    "code": "c" * 32,
    "command": ["pipelines.generation.rectified_flow", "train"],
    "environment": {"python": "3.11", "torch": "2.13.0+cpu"},
    "step": None,
    "segments": None,
    "facts": {},
    "gates": [],
}
GATES = [
    {
        "name": "gain",
        "value": 0.3,
        "comparison": ">=",
        "threshold": 0.0,
        "verdict": "pass",
        "reason": "better",
        "samples": 8,
    },
    {
        "name": "spread",
        "value": 0.1,
        "comparison": ">=",
        "threshold": 0.3,
        "verdict": "warn",
        "reason": "narrow",
        "samples": 8,
    },
    {
        "name": "force",
        "value": 2.0,
        "comparison": "<=",
        "threshold": 1e-05,
        "verdict": "fail",
        "reason": "strong",
        "samples": 3,
    },
    {
        "name": "absent",
        "comparison": "<=",
        "threshold": 1.0,
        "verdict": "fail",
        "reason": "not available",
        "samples": 8,
    },
    {"name": "gain", "value": 0.3, "comparison": ">", "threshold": 0.2, "verdict": "pass", "reason": "than the parent"},
]


def _strict(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": True}


TEXT = {"type": "string", "minLength": 1}
DIGEST = {"type": "object", "minProperties": 1, "additionalProperties": TEXT}
COMMITMENT = _strict(alg=TEXT, value={"type": "string", "pattern": "^[0-9a-f]+$"}, salted={"const": True})
CLAIM = _strict(
    metric=TEXT,
    comparator={"enum": [">=", ">", "<=", "<"]},
    threshold={"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?$"},
    passed={"type": "boolean"},
)


def _once(name: str) -> dict[str, Any]:
    """A commitment (private) or a descriptor (public), never both and never neither."""
    private = {"properties": {"commitments": {"required": [name]}}, "required": ["commitments"]}
    return {"oneOf": [{"required": [name]}, private]}


EVAL_RESULT: dict[str, Any] = {
    **_strict(
        evaluator=_strict(id={"type": "string", "pattern": "^[a-z][a-z0-9+.-]*:"}),
        evaluatedAt={"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"},
        suite=_strict(name=TEXT, version=TEXT),
        claims={"type": "array", "minItems": 1, "items": CLAIM},
        sampleSize={"type": "integer", "minimum": 1},
        assuranceLevel={"enum": ["self_attested", "third_party", "reproduced", "enclave_attested"]},
        subjectProfile={"enum": ["receipt", "public-model", "release-gate"]},
    ),
    "allOf": [_once("model"), _once("dataset")],
}
EVAL_RESULT["properties"] |= {
    "commitments": {"type": "object", "properties": {"model": COMMITMENT, "dataset": COMMITMENT}},
    "model": _strict(digest=DIGEST),
    "dataset": _strict(digest=DIGEST),
}
"""The predicate of in-toto's draft ``eval-result`` v0.1 (attestation#575 as revised in September 2026) as a schema."""
