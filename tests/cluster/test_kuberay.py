"""The Kubernetes files: fields, versions, resources, references to secrets, no privileges."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Read = Callable[[str], Any]
FILES = ("raycluster.yaml", "rayjob.yaml")
LABEL = {"app.kubernetes.io/part-of": "gaplab"}


def spec_of(read: Read, name: str) -> Any:
    """Return the specification of the Ray cluster in a file."""
    spec = read(f"kuberay/{name}")["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(read: Read) -> Iterator[tuple[str, Any]]:
    """Yield every pod template with a description of its origin."""
    for name in FILES:
        cluster = spec_of(read, name)
        yield f"{name} head", cluster["headGroupSpec"]["template"]
        for group in cluster["workerGroupSpecs"]:
            yield f"{name} {group['groupName']}", group["template"]
    yield "rayjob.yaml submitter", read("kuberay/rayjob.yaml")["spec"]["submitterPodTemplate"]


def containers(read: Read) -> Iterator[tuple[str, Any]]:
    for where, pod in pods(read):
        for each in pod["spec"]["containers"]:
            yield where, each


@pytest.mark.parametrize(
    ("name", "version", "kind"),
    [
        ("raycluster.yaml", "ray.io/v1", "RayCluster"),
        ("rayjob.yaml", "ray.io/v1", "RayJob"),
        ("storage.yaml", "v1", "PersistentVolumeClaim"),
        ("network-policy.yaml", "networking.k8s.io/v1", "NetworkPolicy"),
    ],
)
def test_version_kind_and_name_of_each_file(read: Read, name: str, version: str, kind: str) -> None:
    found = read(f"kuberay/{name}")
    assert (found["apiVersion"], found["kind"]) == (version, kind)
    assert re.fullmatch(r"[a-z0-9-]{1,47}", found["metadata"]["name"])
    assert found.keys() == {"apiVersion", "kind", "metadata", "spec"}


@pytest.mark.parametrize("name", FILES)
def test_ray_has_the_pinned_version_and_requires_a_token(
    read: Read, name: str, pinned: dict[str, str]
) -> None:
    spec = spec_of(read, name)
    assert spec["rayVersion"] == pinned["ray"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_both_files_contain_the_same_cluster(read: Read) -> None:
    assert spec_of(read, "raycluster.yaml") == spec_of(read, "rayjob.yaml")


def test_group_sizes_are_fixed(read: Read) -> None:
    for group in spec_of(read, "rayjob.yaml")["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"] >= 1


def test_every_container_has_the_image_and_resources(read: Read, image: str) -> None:
    found = list(containers(read))
    assert len(found) == 5
    for where, each in found:
        assert each["image"] == image, where
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= each["resources"][kind].keys(), where


def test_no_pod_has_privileges(read: Read) -> None:
    for where, pod in pods(read):
        outer = pod["spec"]["securityContext"]
        assert outer["runAsNonRoot"] is True, where
        assert outer["runAsUser"] > 0, where
        assert pod["spec"]["automountServiceAccountToken"] is False, where
        assert pod["spec"].keys().isdisjoint({"hostNetwork", "hostPID", "hostIPC"}), where
        assert not [v for v in pod["spec"].get("volumes", []) if "hostPath" in v], where
    for where, each in containers(read):
        inner = each["securityContext"]
        assert inner["allowPrivilegeEscalation"] is False, where
        assert inner["capabilities"] == {"drop": ["ALL"]}, where
        assert "privileged" not in inner, where


def test_only_the_head_receives_the_secret_url_of_the_ledger(read: Read) -> None:
    for where, each in containers(read):
        given = {entry["name"]: entry for entry in each.get("env", [])}
        assert ("GAPLAB_LEDGER" in given) == where.endswith("head"), where
        for name, entry in given.items():
            assert ("value" in entry) == (name == "GAPLAB_HOME"), f"{where}: {name}"
        if "GAPLAB_LEDGER" in given:
            assert given["GAPLAB_LEDGER"]["valueFrom"]["secretKeyRef"]["name"] == "gaplab-ledger"


def test_ray_pods_share_the_home_folder(read: Read) -> None:
    claim = read("kuberay/storage.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for where, pod in pods(read):
        if where.endswith("submitter"):
            continue
        (volume,) = pod["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        (container,) = pod["spec"]["containers"]
        (mount,) = container["volumeMounts"]
        home = next(entry for entry in container["env"] if entry["name"] == "GAPLAB_HOME")
        assert (mount["name"], mount["mountPath"]) == (volume["name"], home["value"])


def test_a_job_is_retried_and_cleaned_up(read: Read) -> None:
    spec = read("kuberay/rayjob.yaml")["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["submissionMode"] == "K8sJobMode"


def test_a_job_runs_a_command_that_exists(
    read: Read, root: Path, check_flags: Callable[[str, str], None]
) -> None:
    program, command, spec, *rest = read("kuberay/rayjob.yaml")["spec"]["entrypoint"].split()
    check_flags(f"{program} {command}", f" {' '.join(rest)}")
    assert (root / Path(spec).relative_to("/opt/gaplab")).is_file()


def test_only_our_pods_and_the_operator_can_reach_our_pods(read: Read) -> None:
    policy = read("kuberay/network-policy.yaml")["spec"]
    assert policy["podSelector"]["matchLabels"] == LABEL
    assert policy["policyTypes"] == ["Ingress"]
    ours, operator = policy["ingress"]
    assert ours["from"] == [{"podSelector": {"matchLabels": LABEL}}]
    assert [port["port"] for port in operator["ports"]] == [8265]
    for source in operator["from"]:
        assert source.keys() == {"namespaceSelector", "podSelector"}
    for where, pod in pods(read):
        assert LABEL.items() <= pod["metadata"]["labels"].items(), where
