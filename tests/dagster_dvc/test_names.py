"""Names that Dagster does not take are translated; a mistake in one stage's block stays that stage's and is said."""

import copy
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.utils import is_valid_owner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagster_dvc import meta, names
from dagster_dvc.assets import dvc_assets
from dagster_dvc.doctor import complaints
from dagster_dvc.events import observe_sources, reconcile
from dagster_dvc.project import DvcProject
from dagster_dvc.translator import Assets
from tests.dagster_dvc import toy
from tests.dagster_dvc.dagster_toy import QUIET, RESOURCE, definitions, materialize, stale_keys

pytestmark = QUIET

ODD = ["source/Clips (März)", "source/a b", "source/a_b", "source/@eins/日本", "a-b", "läufe/100% & 'more'"]
STAGES = """
stages:
  a-b:
    meta: {dagster: {group: sehr-gut/März, tags: {tier: raw}, checks: [size-ok]}}
    cmd: python make.py one
    deps: DEPS
    outs: [one]
    metrics: [m.json]
  a_b: {cmd: python make.py two/x-y two/x_y, deps: [one], outs: [two/x-y, two/x_y]}
  each:
    foreach: {größe-1: 1, größe_1: 2}
    do: {cmd: "python make.py 'out ${key}'", deps: [two/x-y], outs: ["out ${key}"]}
"""
MAKE = """
    import json, sys
    from pathlib import Path
    for name in sys.argv[1:]:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    gate = {"name": "size-ok", "verdict": "pass", "value": 1, "threshold": 1, "comparison": ">="}
    Path("m.json").write_text(json.dumps({"gates": [gate]}))
    """


def odd(root: Path) -> Path:
    toy.make(root, STAGES.replace("DEPS", repr(ODD)), make__py=MAKE)
    for path in ODD:
        (root / path).mkdir(parents=True)
        (root / path / "file").write_text(path)
    return root


@pytest.mark.costly
def test_odd_paths_groups_and_stage_names_load_run_and_are_fresh(tmp_path: Path) -> None:
    root = odd(tmp_path)
    project = DvcProject(root)
    assert complaints(project) == []
    assets = Assets(project)
    keys = [*assets.keys.values(), *assets.sources.values()]
    assert len({key.to_python_identifier() for key in keys}) == len(keys) == 5 + len(ODD)
    assert len(set(assets.operations.values())) == 4
    graph = definitions(root).resolve_asset_graph()
    assert graph.get(assets.keys["a-b", "one"]).group_name == "sehr_gut/Marz"
    with dg.DagsterInstance.ephemeral() as instance:
        observe_sources(instance, assets)
        done = materialize(root, instance)
        assert done.success
        assert [found.check_name for found in done.get_asset_check_evaluations() if found.passed].count("size_ok") == 1
        assert stale_keys(root, instance) == set()
    assert toy.dvc(root, "status", "--json").stdout.strip() == "{}"
    with dg.DagsterInstance.ephemeral() as instance:
        now = Assets(DvcProject(root))
        observe_sources(instance, now)
        assert len(reconcile(instance, now)) == 5
        assert stale_keys(root, instance) == set()


MISTAKES: list[tuple[Any, str]] = [
    ({"owners": ["alice", "team:data"]}, "meta.dagster.owners: 'alice' is left out"),
    ({"owners": "team:data"}, "meta.dagster.owners: 'team:data' is no list"),
    ({"tags": {"a b/c d": "x y"}}, "meta.dagster.tags: 'a b/c d': 'x y' is left out"),
    ({"tags": ["a"]}, "meta.dagster.tags: ['a'] is no mapping"),
    ({"retries": "two"}, "meta.dagster.retries: 'two' is no number"),
    ({"retries": -1}, "meta.dagster.retries: -1 is no number"),
    ({"retries": True}, "meta.dagster.retries: True is no number"),
    ({"pool": "one gpu"}, "meta.dagster.pool: 'one gpu' is no name"),
    ({"kinds": "python"}, "meta.dagster.kinds: 'python' is no list"),
    ({"automation": "always"}, "meta.dagster.automation: unknown word 'always'; use eager or on_missing"),
    ({"checks": [{"metric": "psnr"}]}, "meta.dagster.checks: {'metric': 'psnr'} is no gate"),
    ({"checks": [{"metric": "psnr", "min": "25"}]}, "is no gate"),
    ({"checks": ["a-b", "a_b"]}, "'a_b' stands there twice"),
    (["group"], "meta.dagster: ['group'] is no mapping"),
]


def with_meta(root: Path, block: Any) -> DvcProject:
    """The toy project with another ``meta.dagster`` in its stage ``train``, without asking DVC again."""
    project = DvcProject(root)
    manifest = copy.deepcopy(project.manifest)
    [train] = [stage for stage in manifest["stages"] if stage["name"] == "train"]
    train["meta"] = {"dagster": block}
    project.__dict__["manifest"] = manifest
    return project


@pytest.mark.parametrize(("block", "said"), MISTAKES)
def test_a_mistake_stays_its_stages_own_and_is_said(reproduced: Path, block: Any, said: str) -> None:
    project = with_meta(reproduced, block)
    [complaint] = complaints(project)
    assert complaint.startswith("dvc.yaml:23: stage 'train': ") and said in complaint
    graph = dg.Definitions(assets=dvc_assets(project), resources={"dvc": RESOURCE}).resolve_asset_graph()
    assert len(graph.materializable_asset_keys) == 6
    assert complaint in graph.get(dg.AssetKey("train")).metadata["dvc/problem"]


def test_dvc_hands_a_mistake_through_as_it_is_written(root: Path) -> None:
    toy.edit(root, "dvc.yaml", "pool: gpu", "owners: [bob, bob@example.org]")
    [complaint] = complaints(DvcProject(root))
    assert complaint.startswith("dvc.yaml:23: stage 'train': meta.dagster.owners: 'bob'")
    assert definitions(root).resolve_asset_graph().get(dg.AssetKey("train")).owners == ["bob@example.org"]


SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=True) | st.text(max_size=70)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
)
WORDS = st.sampled_from(["group", "kinds", "owners", "tags", "pool", "retries", "automation", "checks", "headline"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(WORDS, VALUES, max_size=5))
def test_whatever_stands_in_the_block_every_asset_is_there(reproduced: Path, block: dict[str, Any]) -> None:
    graph = dg.Definitions(
        assets=dvc_assets(with_meta(reproduced, block)), resources={"dvc": RESOURCE}
    ).resolve_asset_graph()
    assert len(graph.materializable_asset_keys) == 6


@given(st.emails() | st.text(max_size=20) | st.builds("team:{}".format, st.text(max_size=9)))
def test_every_owner_that_is_kept_is_one_for_dagster(owner: str) -> None:
    stage = type("Stage", (), {"meta": {"dagster": {"owners": [owner]}}})()
    assert all(map(is_valid_owner, meta.read(stage).owners))  # type: ignore[arg-type]


@given(st.text())
def test_words_are_letters_that_dagster_takes(text: str) -> None:
    assert names.word(text) and names.identifier(text) and names.group(text)
    assert (names.identifier(text).isascii() and names.identifier(text).isidentifier()) or names.identifier(text)[
        0
    ].isdigit()
    dg.AssetKey([names.word(text)])
