"""Secrets in addresses: refused where they would be committed, cut out of records, in no file that a run leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.credentials import credential, without_credentials
from pipelines.params import Params, ParamsError, Wandb, check, parse_section
from pipelines.training.tracking import WandbRun
from tests.test_launch import dvc, environment, project, write_params  # noqa: F401  the fixture of a launched stage

SIGNED = [
    "https://someone:planted@host.example/a.tar",
    "https://planted@host.example/a.tar",  # a token in the user's place
    "s3://someone:planted@bucket/a.tar",
    "abfss://box:planted@account.example/a.tar",
    "https://host.example/a.tar?sv=2024&sig=planted",
    "https://host.example/a.tar?X-Amz-Credential=planted&X-Amz-Signature=planted",
    "https://host.example/a.tar?x-goog-signature=planted",
    "https://host.example/a.tar?part=1&token=planted",
    "https://host.example/a.tar?access%5Ftoken=planted",
    "https://host.example/a.tar?apiKey=planted",
    "https://host.example/a.tar#access_token=planted",
    "simplecache::https://someone:planted@host.example/a.tar",
    "tar://a.mp4::https://host.example/a.tar?sig=planted",
    "pipe:curl -s 'https://host.example/a.tar?token=planted'",
    "https://host.example/a.tar;token=planted",
    "https://host.example/a.tar?jwt=planted",
    "https://host.example/a.tar?rlkey=planted&dl=1",
    "pipe:curl -s -H 'Authorization: Bearer planted' https://host.example/a.tar",
    "pipe:curl -s -H X-Api-Key:planted https://host.example/a.tar",
    "pipe:curl -s -u someone:planted https://host.example/a.tar",
    "AWS_SECRET_ACCESS_KEY=planted aws s3 cp s3://bucket/a.tar -",
    "wget --password=planted https://host.example/a.tar",
    "https://host.example/a.tar?sign=planted",
    "https://host.example/a.tar?hdnea=planted",
    "https://host.example/a.tar?Policy=abc&Signature=planted&Key-Pair-Id=planted",
    "hf_" + "a1B2" * 9,
    "AIza" + "a1B2" * 8 + "abc",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhMUIyIn0.a1B2planted",
    "-----BEGIN RSA PRIVATE KEY-----planted",
]
OPEN = [
    "https://host.example/clips-{000..012}.tar",
    "https://host.example/a.tar?version=3&part=2",
    "https://host.example/a.tar?sig=",
    "abfss://box@account.example/folder",
    "ssh://git@host.example/a",
    "s3://bucket/monkey/token/a.tar?versionId=7",
    'pipe:curl -s -H "Authorization: Bearer $TOKEN" -u $WHO https://host.example/a.tar',
    "pipe:aws s3 cp s3://bucket/a.tar -",
    "https://host.example/monkey;v=1/a.tar?keyframes=3&author=me",
    "authorization: a man shows a token: red",
    "a sign with the token of love: key=value",
    "me@host.example",
    "C:\\videos\\a.mp4",
    "https://host.example/a.tar?sign_language=asl&signal=2",
    "eyJustWords.of a caption",
]


@pytest.mark.parametrize("address", SIGNED)
def test_an_address_that_lets_in_is_known_and_cut(address: str) -> None:
    told = credential(address)
    assert told is not None and "planted" not in told
    cut = without_credentials(f"cannot read {address}: 403")
    assert "planted" not in cut and "a1B2" not in cut and credential(cut) is None
    assert cut.startswith("cannot read ")


@pytest.mark.parametrize("address", OPEN)
def test_other_addresses_and_texts_stay_as_they_are(address: str) -> None:
    assert credential(address) is None
    assert without_credentials(address) == address


class Source(Params):
    """A section with addresses."""

    urls: list[str]


@pytest.mark.parametrize("address", SIGNED)
def test_params_refuse_it_with_its_place_and_the_remedy_and_never_show_it(address: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump({"source": {"urls": ["https://host.example/b.tar", address]}}))
    with pytest.raises(
        ParamsError, match=r"params.yaml:4: source.urls.1: an address with .* secret; keep it out"
    ) as told:
        parse_section(Source, "source", file)
    assert "planted" not in str(told.value) and "netrc" in str(told.value)


def test_the_graph_refuses_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("{}\n")
    Path("dvc.yaml").write_text("stages:\n  fetch:\n    cmd: curl https://host.example/a?sig=planted\n")
    with pytest.raises(ParamsError, match=r"dvc.yaml:3: stages.fetch.cmd: an address with sig= is a secret"):
        check()


@pytest.mark.parametrize("kind", ["StageError", "ValueError"])
def test_a_stage_whose_error_holds_an_address_shows_it_without_what_lets_in(
    kind: str,
    project: Path,  # noqa: F811
) -> None:
    """As libraries fail: with the whole address in the error."""
    file = project / "pipelines/toy/toy.py"
    error = "stage.StageError" if kind == "StageError" else kind
    said = f'    stage.say("reading {SIGNED[4]}")\n    raise {error}("cannot read {SIGNED[4]} (403)")\n'
    file.write_text(file.read_text().replace('    Path("pid")', said + '    Path("pid")'))
    command = [sys.executable, "-m", "pipelines", "pipelines.toy.toy", "make", "--params", "toy"]
    words = ["--out", "data/toy", "--metrics", "metrics/toy.json"]
    done = subprocess.run(
        [*command, *words], cwd=project, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == (2 if kind == "StageError" else 1), done.stderr
    assert "planted" not in done.stdout + done.stderr
    assert "reading https://host.example/a.tar" in done.stdout
    assert "cannot read https://host.example/a.tar (403)" in done.stderr
    assert ("Traceback" in done.stderr) == (kind == "ValueError")


TOKENS = {
    "WANDB_API_KEY": "planted-wandb-0123456789abcdef0123456789ab",
    "HF_TOKEN": "planted-hf-0123456789",
    "AWS_SECRET_ACCESS_KEY": "planted-aws-0123456789",
    "REEL_SHARDS_URL": "https://someone:planted-shards-0123456789@host.example/latents?sig=planted-shards-0123456789",
}


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True])
def test_no_file_that_a_run_writes_holds_a_secret_of_the_environment_or_of_a_remote(
    project: Path,  # noqa: F811
    fails: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in TOKENS.items():
        monkeypatch.setenv(name, value)
    write_params(project, fails=fails)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.example"]
    remote = "https://someone:planted-git-0123456789@host.example/a.git"
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "a"], ["remote", "add", "origin", remote]):
        subprocess.run([*git, *words], cwd=project, check=True)
    dvc(project, "config", "core.no_scm", "false")
    dvc(project, "remote", "add", "-d", "--local", "far", "https://someone:planted-dvc-0123456789@host.example/dvc")
    known = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    done = dvc(project, "repro", "toy")
    assert (done.returncode != 0) == fails
    log = project / "outer.log"
    command = [sys.executable, "-m", "dagster_project.cli", "run", "--all"]
    env = environment() | {"REEL_PROJECT": str(project), "PYTHONPATH": str(Path(__file__).parents[1])}
    with log.open("w") as stream:
        subprocess.run(command, cwd=project, env={**os.environ, **env}, stdout=stream, stderr=stream, check=False)
    written = [path for path in project.rglob("*") if path.is_file() and known.get(path) != path.read_bytes()]
    assert any(path.name == "record.json" for path in written) and log in written
    assert [path for path in written if b"planted-" in path.read_bytes()] == []


@pytest.mark.slow
def test_no_file_of_wandb_holds_a_secret_of_the_environment_or_of_a_remote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in TOKENS.items():
        monkeypatch.setenv(name, value)
    remote = "https://someone:planted-git-0123456789@host.example/a.git"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.example"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "a"], ["remote", "add", "origin", remote]):
        subprocess.run([*git, *words], check=True)
    run = WandbRun(Wandb(project="test", mode="offline"), "toy", "toy-1", {"steps": 3}, tmp_path / "wandb")
    run.log({"step": 1, "loss/net": 0.5})
    run.close()
    written = [path for path in (tmp_path / "wandb").rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in written)
    assert [path for path in written if b"planted-" in path.read_bytes()] == []
