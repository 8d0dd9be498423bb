"""What the machine file sends to Kubernetes, the pod that comes of it, and what its answers are taken to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.document import load
from pipelines.kubernetes import pod
from pipelines.kubernetes.target import Target
from pipelines.stage import StageError
from pipelines.targets import target

FILE = Path("launch.yaml")
KNOWN = {"autoencoder", "rectified_flow", "report"}
SHIPPED = Path(__file__).parents[2] / "profiles" / "launch" / "kubernetes.yaml"
VOLUME = "volume: {claim: lab, mount: /}"


def sent(content: str, stage: str = "rectified_flow") -> Target | None:
    found = target(FILE, load(content), stage, KNOWN)
    assert found is None or isinstance(found, Target)
    return found


def given(resources: str, more: str = "") -> Target:
    found = sent(f"{{target: kubernetes, kubernetes: {{{VOLUME}, {more} resources: {{image: i, {resources}}}}}}}")
    assert found is not None
    return found


def test_a_stage_takes_what_all_are_given_but_for_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "cwd", lambda: Path("/lab/project"))
    own, common = sent(SHIPPED.read_text()), sent(SHIPPED.read_text(), "autoencoder")
    assert own is not None and common is not None
    assert (own.resources.gpus, own.resources.processes, own.resources.memory) == (8, 8, "400Gi")
    assert (common.resources.gpus, common.resources.image) == (1, own.resources.image)
    assert sent(SHIPPED.read_text(), "report") is None


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("{}", "kubernetes.volume: Field required"),
        ("{volume: {mount: /}}", "kubernetes.volume: write `claim` (a PersistentVolumeClaim) or `host_path`"),
        ("{volume: {claim: a, mount: /, size: 3}}", "kubernetes.volume.size: unknown key; known: claim, host_path"),
        (f"{{{VOLUME}}}", "kubernetes.resources.image: missing"),
        (f"{{{VOLUME}, namespce: lab}}", "kubernetes.namespce: unknown key; known: volume, namespace"),
        (f"{{{VOLUME}, resources: {{image: i, memory: 64GB}}}}", "'64GB': write memory as Kubernetes does"),
        (f"{{{VOLUME}, resources: {{image: i, nodes: 2}}}}", "kubernetes.resources.nodes: unknown key"),
        (f"{{{VOLUME}, pod: {{containers: []}}}}", "kubernetes.pod: containers is written from the other keys"),
        (f"{{{VOLUME}, stages: {{rectifed: local}}}}", "kubernetes.stages.rectifed: no stage of dvc.yaml"),
        ("{volume: {claim: a, mount: /nowhere}, resources: {image: i}}", "/nowhere does not hold this project"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_key(block: str, said: str) -> None:
    with pytest.raises(StageError) as caught:
        sent(f"{{target: kubernetes, kubernetes: {block}}}")
    assert said in str(caught.value)


def test_the_pod_is_given_what_its_processes_need_and_is_never_started_twice_by_the_cluster() -> None:
    more = "pod: {tolerations: [{key: gpu}], volumes: [{name: data}]}, secrets: [store],"
    spec = pod.spec(given("processes: 4, cpus: 6, gpus: 4, memory: 64Gi, seconds: 3600", more), 6.0)
    container = spec["containers"][0]
    assert container["resources"]["limits"] == {"cpu": "24", "memory": "64Gi", "nvidia.com/gpu": "4"}
    assert container["workingDir"] == str(Path.cwd())
    assert (spec["restartPolicy"], spec["activeDeadlineSeconds"]) == ("Never", 3600)
    assert spec["terminationGracePeriodSeconds"] > 6
    assert spec["tolerations"] == [{"key": "gpu"}] and container["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert [volume["name"] for volume in spec["volumes"]] == ["data", "project", "shared-memory"]
    assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in spec["volumes"]}


def test_secrets_and_facts_of_this_machine_are_not_among_a_pods_variables() -> None:
    here = {"REEL_CODE": "c", "REEL_POSTGRES_URL": "postgresql://u:p@h/d", "AWS_SECRET_ACCESS_KEY": "s", "PATH": "/bin"}
    told = pod.variables(given("", "env: {HF_HOME: /lab/hub},"), "train", here | {"REEL_LAUNCHER": "12"})
    assert told == {"REEL_CODE": "c", "REEL_STAGE": "train", "HF_HOME": "/lab/hub"}


def test_every_start_of_a_stage_has_one_name_that_dns_takes_and_other_projects_have_others() -> None:
    one, other = (
        given(""),
        sent("{target: kubernetes, kubernetes: {volume: {claim: b, mount: /}, resources: {image: i}}}"),
    )
    assert other is not None
    names = [pod.name(one, "My_Stage.x"), pod.name(one, "my-stage-x"), pod.name(other, "My_Stage.x")]
    assert len(set(names)) == 3 and names[0] == pod.name(given("gpus: 3"), "My_Stage.x")
    long = pod.name(one, "s" * 200)
    assert all(name.strip("-").replace("-", "").isalnum() and name == name.lower() for name in [*names, long])
    assert len(long) <= 63


def answer(phase: str, state: dict | None = None, **status: object) -> pod.Seen:
    containers = [] if state is None else [{"name": pod.CONTAINER, "state": state}]
    return pod.seen({"metadata": {"name": "p"}, "status": {"phase": phase, "containerStatuses": containers, **status}})


def test_a_pod_is_over_when_its_container_is_and_moved_when_the_cluster_took_it() -> None:
    done = answer("Succeeded", {"terminated": {"exitCode": 0, "reason": "Completed"}})
    assert done.is_over and done.code == 0 and not done.is_moved
    evicted = answer("Failed", {"terminated": {"exitCode": 143}}, reason="Evicted", message="low on memory")
    assert evicted.is_over and evicted.is_moved and evicted.why == "Evicted: low on memory"
    drained = answer("Running", {"running": {}}, conditions=[{"type": "DisruptionTarget", "status": "True"}])
    assert drained.is_moved and drained.has_begun and not drained.is_over
    killed = answer("Failed", {"terminated": {"exitCode": 137, "reason": "OOMKilled"}})
    assert killed.reason == "OOMKilled" and not killed.is_moved


def test_what_a_pod_waits_for_is_told_and_only_what_never_comes_ends_the_wait() -> None:
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    waiting = answer("Pending", conditions=[unplaced])
    assert waiting.told() == "pod p is pending (Unschedulable: 0/3 nodes)" and not waiting.is_hopeless
    image = answer("Pending", {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}})
    assert image.is_hopeless and not image.has_begun
    assert not answer("Pending", {"waiting": {"reason": "ContainerCreating"}}).is_hopeless


def test_a_pod_is_told_no_secret_of_this_machine() -> None:
    secrets = {
        name: "planted"
        for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "REEL_UI_TOKEN", "REEL_POSTGRES_URL", "PATH")
    }
    target = given("gpus: 1")
    told = pod.variables(target, "train", {"REEL_CODE": "c", **secrets})
    whole = [told, pod.meta(target, "train", "k", "t"), pod.spec(target, 6.0), pod.command(target, ["m", "f"])]
    assert told["REEL_CODE"] == "c" and "planted" not in repr(whole)
