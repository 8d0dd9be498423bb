"""`reel release`: what is given away loads with diffusers alone, says where it came from in words that the official
tools read, and is audited on any machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from google.protobuf.json_format import ParseDict
from huggingface_hub import ModelCard
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from safetensors.torch import load_file

from pipelines.chain import carry
from pipelines.data.audit import audit
from pipelines.data.audit import main as audit_main
from pipelines.generation import rectified_flow, release
from pipelines.models import lora, lora_names
from pipelines.models.denoiser import VideoDenoiser, averaged
from pipelines.provenance import lineage
from pipelines.stage import digest, write_json
from pipelines.standards import bom, card, signing, statements
from tests.generation.test_generate import write_text_encoder
from tests.generation.toy import rectified, write_latents
from tests.models.tiny_pretrained import block, save, wan, wan_vae
from tests.standards.sample_release import EVAL_RESULT, GATES, NODE

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers, numpy 2


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained adapter with its chain, its run's record, and an evaluation that judged it."""
    root = tmp_path_factory.mktemp("project")
    wan_vae().save_pretrained(root / "vae")
    latents = write_latents(root / "latents", autoencoder=digest(root / "vae"))
    carry(latents, {**NODE, "stage": "raw_video", "path": "data/clips", "facts": {"splits": {"test": 3}}}, {}, {})
    write_text_encoder(latents / "text_encoder")
    params = rectified(steps=2, denoiser=block(save(root / "base", wan())))
    flow = root / "flow"
    rectified_flow.train(params, latents, out=flow, metrics=root / "flow.json", plots=root / "plots")
    told = {**NODE, "stage": "rectified_flow", "path": "checkpoints/flow", "gates": GATES, "step": 2}
    told["params"] = params.model_dump(mode="json")
    carry(flow, told, {"latents": latents}, {"latents": "data/latents"})
    _judge(root, flow)
    _record(root, told, {"latents": {"digest": digest(latents)}})
    return root


def _judge(root: Path, flow: Path) -> None:
    write_json(root / "judged/table.json", {})
    (root / "checkpoints").mkdir()
    shutil.copytree(flow, root / "checkpoints/flow")
    read = {"checkpoints": root / "checkpoints"}
    carry(root / "judged", {**NODE, "stage": "evaluation", "path": "data/evaluation"}, read, {"checkpoints": "c"})
    numbers = {"motion_ratio": 0.75, "motion_ratio_low": 0.69, "motion_ratio_high": 0.8, "agreement": {"color": 0.5}}
    content = {"num_samples": 96, "systems": {"flow": numbers}, "references": {"chance": {"agreement": {"color": 0.2}}}}
    write_json(root / "judged.json", content)


def _record(root: Path, node: dict[str, Any], data: dict[str, Any], dirty: bool = True) -> None:
    (root / "dvc.yaml").write_text("stages: {}\n")
    code = {"identity": node["code"], "commit": "c0ffee" * 6 + "c0ff", "dirty": dirty, "branch": "main"}
    header = {"stage": node["stage"], "code": code, "began_at": "2026-11-01T10:00:00+00:00"}
    header["ended_at"] = "2026-11-01T11:00:00+01:00"
    content = {"status": "finished", "header": header, "data": data, "params": node["params"], "runtime": {}}
    write_json(root / ".work" / node["stage"] / "1/record.json", content)


def run(root: Path, out: Path, *more: str) -> int:
    words = ["--key", root / "key.pem", "--latents", root / "latents", "--autoencoder", root / "vae"]
    words += ["--evaluation", root / "judged", "--metrics", root / "judged.json", "--clips", root / "none"]
    return release.main([str(root / "flow"), "--out", str(out), *map(str, words), *more])


@pytest.fixture(scope="module")
def made(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "toy-release"
    assert run(project, out, "--licence", "apache-2.0") == 0
    return out


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "renamed"))


def bad(folder: Path) -> set[str]:
    return {item.path.partition("/")[2] for item in audit(folder) if item.verdict in ("missing", "does not match")}


ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pipelines", "assets", "dagster_dvc", "dagster_project"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
print(type(pipe).__name__, type(pipe.transformer).__name__, type(pipe.vae).__name__)
try:
    import pipelines
except ImportError:
    print("alone")
"""


@pytest.mark.costly
def test_diffusers_alone_loads_it_where_nothing_of_ours_can_be_imported(copy: Path) -> None:
    done = subprocess.run([sys.executable, "-P", "-c", ALONE, str(copy)], capture_output=True, text=True, cwd=copy)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["WanPipeline", WanTransformer3DModel.__name__, "AutoencoderKLWan", "alone"]


def test_diffusers_and_comfyui_get_the_same_adapter(made: Path, project: Path) -> None:
    """diffusers reads ComfyUI's names too: loaded onto the base they give what the merged network is."""
    whole = WanPipeline.from_pretrained(made).transformer.state_dict()
    names = set(load_file(made / release.ADAPTER / lora_names.COMFY))
    assert "diffusion_model.blocks.0.self_attn.q.lora_A.weight" in names
    assert "diffusion_model.blocks.1.cross_attn.o.lora_B.weight" in names
    for file in (lora.FILE, lora_names.COMFY):
        pipe = WanPipeline.from_pretrained(made, transformer=wan())
        pipe.load_lora_weights(made / release.ADAPTER, weight_name=file)
        pipe.fuse_lora()
        pipe.unload_lora_weights()
        changed = 0
        for name, value in pipe.transformer.state_dict().items():
            torch.testing.assert_close(value, whole[name], atol=1e-6, rtol=1e-5)
            changed += int(not torch.equal(value, wan().state_dict()[name]))
        assert changed, "an adapter without effect would have passed"
    assert averaged(project / "flow").name == "ema"
    assert VideoDenoiser.from_pretrained(averaged(project / "flow")).base is not None


@pytest.mark.costly
def test_the_tool_of_openssf_verifies_it_and_a_changed_card_breaks_the_signature(copy: Path) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(copy), "--signature"]
    command += [str(copy / signing.SIGNATURE), "--public_key", str(copy / signing.PUBLIC)]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0
    text = (copy / card.CARD).read_text()
    (copy / card.CARD).write_text(text.replace("0.75", "0.99"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and card.CARD in done.stdout + done.stderr
    assert bad(copy) == {card.CARD}


def test_whatever_a_release_holds_is_verified_and_not_told_as_unknown_too(copy: Path) -> None:
    for quick in (False, True):
        unknown = [item.path for item in audit(copy, quick) if item.verdict == "unknown"]
        assert not [name for name in unknown if name.endswith((".md", ".json", ".jsonl", ".pub", ".sig"))], unknown
    (copy / "more.txt").write_text("")
    assert [item.path for item in audit(copy, quick=True) if item.verdict == "does not match"] == ["renamed/more.txt"]


def test_the_card_tells_the_chain_from_the_release_back_to_the_clips(made: Path) -> None:
    text = (made / card.CARD).read_text().partition("## Where it came from")[2]
    places = [text.index(f"made `{name}`") for name in ("toy-release", "checkpoints/flow", "data/clips")]
    assert places == sorted(places)


def test_audit_passes_anywhere_and_says_that_the_tree_was_dirty(copy: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(copy.parent)
    assert audit_main([copy.name]) == 0
    told = capsys.readouterr().out
    assert "code of rectified_flow: ran from commit c0ffeec0ffee with local changes that no commit holds" in told
    assert "with local changes" in (copy / card.CARD).read_text() and bad(copy) == set()
    assert audit_main([copy.name, "--quick"]) == 0 and audit_main([copy.name, "--key", f"{copy.name}/model.pub"]) == 0


def test_a_bit_that_is_turned_in_any_file_is_found_and_the_file_named(copy: Path) -> None:
    for number, path in enumerate(sorted(path for path in copy.rglob("*") if path.is_file())):
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) * 2 // 3] ^= 1 << number % 8
        path.write_bytes(bytes(damaged))
        name = path.relative_to(copy).as_posix()
        assert name in bad(copy) or bad(copy) == {signing.SIGNATURE}, name
        assert name != signing.SIGNATURE or bad(copy) == {signing.SIGNATURE}
        path.write_bytes(whole)
    assert bad(copy) == set()


def test_who_signs_what_he_changed_with_a_key_of_his_own_is_found_by_the_key_that_is_trusted(
    copy: Path, made: Path, tmp_path: Path
) -> None:
    (copy / card.CARD).write_text("# better than it is\n")
    (copy / signing.SIGNATURE).unlink()
    key, _ = signing.private_key(tmp_path / "other.pem")
    signing.sign(copy, key)
    assert signing.SIGNATURE not in bad(copy) and statements.FILE in bad(copy)
    assert audit_main([str(copy), "--key", str(made / signing.PUBLIC)]) == 1


def test_a_file_that_was_added_or_taken_away_is_named(copy: Path) -> None:
    (copy / "more.txt").write_text("")
    (copy / card.LICENCES).unlink()
    assert bad(copy) == {"more.txt", card.LICENCES}


def signed(made: Path) -> list[dict[str, Any]]:
    return statements.read(made / statements.FILE, signing.public_key(made / signing.PUBLIC))


def test_statements_are_what_in_toto_and_slsa_take_and_tell_all_stages(made: Path) -> None:
    kinds = {statements.SLSA: provenance_pb2.Provenance, statements.TEST_RESULT: test_result_pb2.TestResult}
    for statement in signed(made):
        Statement.copy_from_pb(ParseDict(statement, statement_pb2.Statement())).validate()
        if statement["predicateType"] == statements.EVAL_RESULT:
            jsonschema.validate(statement["predicate"], EVAL_RESULT)
        else:
            ParseDict(statement["predicate"], kinds[statement["predicateType"]]())
    built = [one for one in signed(made) if one["predicateType"] == statements.SLSA]
    assert {one["subject"][0]["digest"][statements.CONTENT] for one in built} == set(lineage(made).nodes)
    [flow] = [one for one in built if one["subject"][0]["name"] == "checkpoints/flow"]
    read = flow["predicate"]["buildDefinition"]["resolvedDependencies"]
    commit = next(one for one in read if "gitCommit" in one["digest"])
    assert commit["annotations"] == {"dirty": True} and any(one["name"] == "data/latents" for one in read)
    times = flow["predicate"]["runDetails"]["metadata"]
    assert times == {"startedOn": "2026-11-01T10:00:00Z", "finishedOn": "2026-11-01T10:00:00Z"}  # one given in +01:00
    [tested] = [one for one in signed(made) if one["predicateType"] == statements.TEST_RESULT]
    assert tested["predicate"]["result"] == "FAILED" and tested["predicate"]["warnedTests"] == ["spread"]
    judged = [one["predicate"] for one in signed(made) if one["predicateType"] == statements.EVAL_RESULT]
    assert {one["sampleSize"]: len(one["claims"]) for one in judged} == {8: 2, 3: 1}
    assert all(one["dataset"]["name"] == "data/latents" for one in judged)


def test_the_bill_of_materials_is_valid_cyclonedx_and_names_all_that_went_in(made: Path) -> None:
    text = (made / bom.FILE).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    content = json.loads(text)
    model = content["metadata"]["component"]
    metrics = {one["type"]: one for one in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    assert metrics["motion_ratio"]["confidenceInterval"] == {"lowerBound": "0.69", "upperBound": "0.8"}
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    names = {one["name"] for one in content["components"]}
    assert {"base", "torch", "data/clips", "checkpoints/flow"} <= names
    refs = {one["ref"] for one in content["dependencies"]}
    assert refs <= {model["bom-ref"], *(one["bom-ref"] for one in content["components"])}


def test_the_hub_reads_the_card(made: Path) -> None:
    read = ModelCard.load(made / card.CARD)
    assert read.data.license == "apache-2.0" and read.data.library_name == "diffusers"
    results = {one.metric_type: one for one in read.data.eval_results}
    assert results["motion_ratio"].metric_value == 0.75
    assert results["motion_ratio"].metric_args == {"confidence": 0.95, "low": 0.69, "high": 0.8}
    assert "| `agreement/color` | 0.5 |  | 0.2 |  |" in read.text


def test_numbers_of_other_weights_are_not_taken(project: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "judged/x.json", {})
    (tmp_path / "checkpoints/flow").mkdir(parents=True)
    write_json(tmp_path / "checkpoints/flow/checkpoint.json", {"weights": {"a.safetensors": "of another training"}})
    carry(tmp_path / "checkpoints/flow", NODE, {}, {})
    carry(tmp_path / "judged", NODE, {"checkpoints": tmp_path / "checkpoints"}, {"checkpoints": "checkpoints"})
    assert run(project, tmp_path / "out", "--evaluation", str(tmp_path / "judged")) == 0
    assert ModelCard.load(tmp_path / "out" / card.CARD).data.eval_results is None


def test_a_token_anywhere_in_what_is_known_is_refused_and_not_repeated(project: Path, tmp_path: Path, capsys) -> None:
    token = "hf_" + "Abc1" * 10
    shutil.copytree(project / "flow", tmp_path / "flow")
    shutil.rmtree(tmp_path / "flow/lineage.json", ignore_errors=True)
    (tmp_path / "flow/lineage.json").unlink()
    told = {**NODE, "stage": "rectified_flow", "params": {"source": f"https://{token}@example.org/clips"}}
    carry(tmp_path / "flow", told, {}, {})
    words = [str(tmp_path / "flow"), "--out", str(tmp_path / "out"), "--key", str(project / "key.pem")]
    words += ["--latents", str(project / "latents"), "--autoencoder", str(project / "vae")]
    assert release.main(words) == 2 and not (tmp_path / "out").exists()
    told_of = capsys.readouterr().err
    assert token not in told_of and "params.source" in told_of and "nothing was released" in told_of


def holding(folder: Path, text: bytes) -> Iterator[Path]:
    yield from (path for path in folder.rglob("*") if path.is_file() and text in path.read_bytes())


def test_the_private_key_stays_where_it_is_and_places_of_this_machine_do_too(made: Path, project: Path) -> None:
    secret = (project / "key.pem").read_bytes().splitlines()[1]
    assert list(holding(made, secret)) == []
    assert list(holding(made, str(project).encode())) == []


def test_something_else_is_never_replaced(project: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "mine.txt").write_text("dear to me")
    assert run(project, tmp_path) == 2
    assert "is no release" in capsys.readouterr().err and (tmp_path / "mine.txt").exists()
