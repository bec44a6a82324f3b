"""The manifests for Kubernetes: its own kinds against its schemas, KubeRay's against what its types say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.cluster.kuberay import SPECS

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
KUBERNETES = "1.34"


def documents() -> list[dict[str, Any]]:
    return [found for path in sorted(FOLDER.glob("*.yaml")) for found in yaml.safe_load_all(path.read_text())]


def of_kind(kind: str) -> dict[str, Any]:
    [found] = [document for document in documents() if document["kind"] == kind]
    return found


def pod_templates(value: Any) -> Iterator[dict[str, Any]]:
    """All of them, wherever they are."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("template", "submitterPodTemplate") and "containers" in inner.get("spec", {}):
                yield inner
            else:
                yield from pod_templates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pod_templates(inner)


@pytest.mark.parametrize("document", documents(), ids=lambda document: document["kind"])
def test_each_manifest_has_the_fields_that_its_kind_knows(document: dict[str, Any]) -> None:
    import kubernetes_validate

    if document["apiVersion"] == "ray.io/v1":
        jsonschema.validate(document["spec"], SPECS[document["kind"]])
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    for template in pod_templates(document):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", **template["metadata"]}}
        kubernetes_validate.validate({**pod, "spec": template["spec"]}, KUBERNETES, strict=True)


def test_a_misspelt_field_is_found() -> None:
    spec = of_kind("RayCluster")["spec"]
    with pytest.raises(jsonschema.ValidationError, match="'workerGroupSpec' was unexpected"):
        jsonschema.validate({**spec, "workerGroupSpec": []}, SPECS["RayCluster"])


def test_every_container_has_the_token_from_the_secret_and_runs_as_a_user_without_rights() -> None:
    templates = [template for document in documents() for template in pod_templates(document)]
    assert len(templates) == 4
    secret = {"secretKeyRef": {"name": "sigmasweep", "key": "auth_token"}}
    for template in templates:
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in template["spec"]["containers"]:
            assert {"name": "RAY_AUTH_TOKEN", "valueFrom": secret} in container["env"]
            plain = {variable["name"]: variable.get("value") for variable in container["env"]}
            assert plain.get("RAY_AUTH_MODE") == "token" or container["envFrom"]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert of_kind("ConfigMap")["data"]["RAY_AUTH_MODE"] == "token"


def test_jobs_are_told_how_far_the_cluster_may_grow() -> None:
    [gpu] = of_kind("RayCluster")["spec"]["workerGroupSpecs"]
    limits = gpu["template"]["spec"]["containers"][0]["resources"]["limits"]
    data = of_kind("ConfigMap")["data"]
    assert int(data["SIGMASWEEP_MAX_CPUS"]) == gpu["maxReplicas"] * int(limits["cpu"])
    assert int(data["SIGMASWEEP_MAX_GPUS"]) == gpu["maxReplicas"] * int(limits["nvidia.com/gpu"])


def test_the_cron_job_forbids_overlap_and_fires_the_schedule() -> None:
    spec = of_kind("CronJob")["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["jobTemplate"]["spec"]["backoffLimit"] == 0
    [container] = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["args"][:4] == ["python", "-m", "jobs.schedule", "fire"]
    service = f"{of_kind('RayCluster')['metadata']['name']}-head-svc"  # as KubeRay names it
    assert f"http://{service}:8265" in container["command"]


def test_the_network_policy_lets_in_the_clusters_pods_and_those_that_submit() -> None:
    [rule] = of_kind("NetworkPolicy")["spec"]["ingress"]
    wanted = [source["podSelector"]["matchLabels"]["app"] for source in rule["from"] if "podSelector" in source]
    labels = {template["metadata"]["labels"]["app"] for document in documents() for template in pod_templates(document)}
    assert set(wanted) == labels
