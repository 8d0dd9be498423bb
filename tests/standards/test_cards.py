"""Text of anybody does no harm in cards, licences, statements and the bill of materials, and no token passes."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf.json_format import ParseDict
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1 import statement_pb2

from pipelines.standards import bom, card, statements
from pipelines.standards.facts import Base, EvaluatedNumber, Release, bases, hub_datasets
from tests.standards.sample_release import EVAL_RESULT, GATES, NODE

ARTIFACT = "a" * 64
TOKEN = "hf_" + "Abc1" * 10
HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "| a | b |\n|---|---|\n# heading\n- list\n```\n~~~",
    "[click](javascript:alert(1)) ![x](http://example.org/x.png) https://example.org @somebody",
    "\x00\x1b[31m\u202e\u2028\ud800\r\n\t\x85",
    "---\nlicense: mit\n---\n: {} [] & * ! | > ' \" % @ `",
    "$$\\frac{1}{0}$$ `code` ``more``",
    "x" * 100_000,
]


def release(text: str) -> Release:
    """Every place that text of anybody can reach, filled with it."""
    node = {
        **NODE,
        "stage": text,
        "path": text,
        "params": {text: text, "name": text, "revision": text},
        "command": [text],
    }
    gates = [{**one, "name": text, "reason": text} for one in GATES]
    node |= {"facts": {"splits": {text: 3}}, "environment": {text: text}, "gates": gates, "step": 3}
    node["inputs"] = {text: {"path": text, "digest": "b" * 64}}
    run = {"commit": "c" * 40, "dirty": True, "hardware": {text: text}, "ended_at": "2026-11-01T10:00:00+00:00"}
    return Release(
        name=text,
        artifact=ARTIFACT,
        nodes={ARTIFACT: node, "b" * 64: {**node, "step": None, "inputs": {}}},
        runs={ARTIFACT: run},
        record={"stage": text, "step": 3, "environment": {text: text}},
        results=(EvaluatedNumber(text, 0.5, 0.4, 0.6, None, None),),
        num_samples=3,
        licence=text,
        sources={text: 3, None: 2},
        files={"model.safetensors": "d" * 64},
    )


def body(text: str) -> str:
    return text.partition("\n---\n")[2]


def check_markdown(text: str, tame: str) -> None:
    """No tag, no control character, and the same lines, tables and lists as with a tame word in all places."""
    assert not re.search(r"<[a-zA-Z/!]", re.sub(r"`[^`\n]*`", "", text))
    assert all(c.isprintable() or c == "\n" for c in text)
    assert [line[:2] for line in text.splitlines()] == [line[:2] for line in tame.splitlines()]
    bars = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines()]
    assert bars == [len(re.findall(r"(?<!\\)\|", line)) for line in tame.splitlines()]
    assert len(text) < 20_000
    outside = re.sub(r"`[^`\n]*`", "", text.replace(CALL, ""))
    assert (
        not re.search(r"(?<!\\)\[", outside)
        and "https://example" not in outside
        and "$" not in outside.replace("\\$", "")
    )


CALL = "How it is called."


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_text_in_cards_and_lists_of_licences(text: str) -> None:
    made, tame = release(text), release("tame")
    check_markdown(body(card.card(made, CALL)), body(card.card(tame, CALL)))
    check_markdown(card.licences(made), card.licences(tame))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_the_hub_reads_the_metadata_of_a_card_with_hostile_text(text: str) -> None:
    data = ModelCard(card.card(release(text), CALL)).data
    assert data.license == "other" and data.library_name == "reelgraph" and len(data.eval_results or []) == 1


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_statements_and_bills_hold_hostile_text_as_it_is(text: str) -> None:
    made = release(text)
    written = json.dumps(bom.bill(made, "2026-11-01T10:00:00Z"))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(written) is None
    for statement in statements.statements(made.nodes, made.runs, ARTIFACT, {}):
        again = json.loads(json.dumps(statement))
        assert again == statement
        if "\ud800" not in text:  # half a character is no text for protobuf, in whatever program
            ParseDict(again, statement_pb2.Statement())


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(), max_size=200))
def test_any_text_stays_in_its_line_and_cell(text: str) -> None:
    for told in (card.plain(text), card.code(text)):
        assert "\n" not in told and told.isprintable() and not re.search(r"(?<!\\)\|", told)
    assert "<" not in card.plain(text) and card.code(text).count("`") == 2


def test_no_token_passes_into_anything_that_is_written() -> None:
    made = release(f"https://somebody:{TOKEN}@example.org/x?token={TOKEN}")
    told = [card.card(made, CALL), card.licences(made), json.dumps(bom.bill(made, "2026-11-01T10:00:00Z"))]
    told += [json.dumps(one) for one in statements.statements(made.nodes, made.runs, ARTIFACT, {})]
    assert all(TOKEN not in text for text in told)


def test_gates_become_a_test_result_that_in_toto_reads() -> None:
    nodes: dict[str, Any] = {ARTIFACT: {**NODE, "gates": GATES, "inputs": {}}}
    [_, tested] = statements.statements(nodes, {}, ARTIFACT, {})
    read = ParseDict(tested["predicate"], test_result_pb2.TestResult())
    passed = ["gain >= 0.0", "gain > 0.2"]
    assert (read.result, list(read.passed_tests), list(read.failed_tests)) == ("FAILED", passed, ["force", "absent"])
    told = tested["predicate"]["configuration"][0]["annotations"]
    assert [told[name]["threshold"] for name in passed] == [0.0, 0.2], "one number beside two thresholds keeps both"


DATA = {"b" * 64: {**NODE, "stage": "raw_video", "inputs": {}, "facts": {"splits": {"test": 8}}}}
TRAINED = {**NODE, "gates": GATES, "inputs": {"clips": {"path": "data/clips", "digest": "b" * 64}}}
ENDED = {ARTIFACT: {"ended_at": "2026-11-01T11:00:00+01:00"}}


def evaluated(node: dict[str, Any], runs: dict[str, Any] = ENDED) -> list[dict[str, Any]]:
    found = statements.statements({ARTIFACT: {**TRAINED, **node}, **DATA}, runs, ARTIFACT, {})
    return [one["predicate"] for one in found if one["predicateType"] == statements.EVAL_RESULT]


def test_gates_become_evaluation_results_of_in_totos_draft_one_for_equally_many_samples() -> None:
    found = evaluated({})
    for predicate in found:
        jsonschema.validate(predicate, EVAL_RESULT)
        assert predicate["evaluatedAt"] == "2026-11-01T10:00:00Z"
        assert predicate["model"]["digest"] == {statements.CONTENT: ARTIFACT}
        assert predicate["dataset"] == {"name": "data/clips", "digest": {statements.CONTENT: "b" * 64}}
    claims = {one["sampleSize"]: one["claims"] for one in found}
    assert [(one["metric"], one["comparator"], one["threshold"], one["passed"]) for one in claims[3]] == [
        ("force", "<=", "0.00001", False)
    ]
    assert [(one["metric"], one["passed"]) for one in claims[8]] == [("gain", True), ("spread", False)]


@pytest.mark.parametrize(
    ("node", "runs"), [({}, {}), ({"inputs": {}}, ENDED), ({"gates": [{**GATES[0], "samples": None}]}, ENDED)]
)
def test_what_an_evaluation_result_must_tell_and_nothing_records_is_not_invented(
    node: dict[str, Any], runs: dict[str, Any]
) -> None:
    assert evaluated(node, runs) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": None, "commitments": {"model": {"alg": "sha256", "value": "ab", "salted": False}}},
        {"commitments": {"model": {"alg": "sha256", "value": "ab", "salted": True}}},
        {"dataset": None},
        {"claims": []},
        {"sampleSize": "8"},
    ],
)
def test_the_schema_of_the_draft_refuses_what_the_draft_does(wrong: dict[str, Any]) -> None:
    changed = {**evaluated({})[0], **wrong}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({key: value for key, value in changed.items() if value is not None}, EVAL_RESULT)


def test_what_is_not_recorded_of_a_run_is_absent_and_not_invented() -> None:
    [built] = statements.statements({ARTIFACT: {**NODE, "inputs": {}}}, {}, ARTIFACT, {})
    assert built["predicate"]["runDetails"]["metadata"] == {}
    assert all(
        "gitCommit" not in one["digest"] for one in built["predicate"]["buildDefinition"]["resolvedDependencies"]
    )
    told = card.card(Release("r", ARTIFACT, {ARTIFACT: {**NODE, "inputs": {}}}, {}, {"stage": "flow"}), CALL)
    assert "commit unknown" in told and "No evaluation of these very weights" in told and "license: unknown" in told


def test_published_models_are_found_wherever_the_parameters_name_one(tmp_path: Any) -> None:
    named = {"name": "owner/model", "revision": "1234", "subfolder": "transformer"}
    node = {**NODE, "params": {"denoiser": {"pretrained": named}, "text": {"name": str(tmp_path), "revision": None}}}
    assert list(bases(node)) == [
        Base("flow", "denoiser.pretrained", "owner/model", "1234", None),
        Base("flow", "text", tmp_path.name, None, None),
    ]
    made = Release("r", ARTIFACT, {ARTIFACT: {**node, "inputs": {}}}, {}, {"stage": "flow"}, is_adapter=True)
    data = ModelCard(card.card(made, CALL)).data.to_dict()
    assert data["base_model"] == ["owner/model"] and data["base_model_relation"] == "adapter"
    [base] = [one for one in bom.bill(made, "2026-11-01T10:00:00Z")["components"] if one["name"] == "owner/model"]
    assert base["purl"] == "pkg:huggingface/owner/model@1234"


def test_a_model_in_the_hubs_cache_is_told_by_the_name_of_its_publisher() -> None:
    place = "/home/me/.cache/huggingface/hub/models--Some-Lab--Video-1.3B/snapshots/0123abcd"
    params = {"denoiser": {"pretrained": {"name": place, "revision": None}}}
    node = statements.clean({**NODE, "params": params, "inputs": {}})
    made = Release("r", ARTIFACT, {ARTIFACT: node}, {}, {"stage": "flow"}, is_adapter=True)
    told = card.card(made, CALL)
    assert ModelCard(told).data.base_model == ["Some-Lab/Video-1.3B"] and "/home/me" not in told


def test_data_sets_of_the_hub_are_named_on_the_card() -> None:
    node = {**NODE, "stage": "raw_video", "params": {"source": {"tars": ["hf://datasets/owner/films/a.tar"]}}}
    assert hub_datasets({ARTIFACT: node}) == ["owner/films"]
    made = Release("r", ARTIFACT, {ARTIFACT: {**node, "inputs": {}}}, {}, {"stage": "flow"})
    assert ModelCard(card.card(made, CALL)).data.datasets == ["owner/films"]
