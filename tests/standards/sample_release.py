"""What releases are made of in tests: a node of a chain, and gates of every verdict."""

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
    {"name": "gain", "value": 0.3, "comparison": ">=", "threshold": 0.0, "verdict": "pass", "reason": "better"},
    {"name": "spread", "value": 0.1, "comparison": ">=", "threshold": 0.3, "verdict": "warn", "reason": "narrow"},
    {"name": "force", "value": 2.0, "comparison": "<=", "threshold": 1.0, "verdict": "fail", "reason": "strong"},
    {"name": "absent", "comparison": "<=", "threshold": 1.0, "verdict": "fail", "reason": "not available"},
]
