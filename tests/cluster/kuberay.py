"""What KubeRay's resources may hold, written by hand: its schemas are in no package registry.

The fields are those of `ray-operator/apis/ray/v1/raycluster_types.go` and `rayjob_types.go` of ray-project/kuberay, as
far as KubeRay 1.4 has them. A field that is not here is refused, so a misspelt one is found. Pod templates are
Kubernetes' own and are checked by its schema.
"""

from typing import Any

TEXT: dict[str, Any] = {"type": "string"}
FLAG: dict[str, Any] = {"type": "boolean"}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
TEXTS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "string"}}
POD: dict[str, Any] = {"type": "object", "required": ["spec"]}  # see above


def record(required: str = "", **fields: Any) -> dict[str, Any]:
    """An object that has these fields and no others."""
    return {"type": "object", "properties": fields, "required": required.split(), "additionalProperties": False}


HEAD = record(
    "rayStartParams template",
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]}, headService={"type": "object"},
    enableIngress=FLAG, rayStartParams=TEXTS, template=POD,
)  # fmt: skip
WORKERS = record(
    "groupName rayStartParams template",
    groupName=TEXT, replicas=COUNT, minReplicas=COUNT, maxReplicas=COUNT, numOfHosts=COUNT, rayStartParams=TEXTS,
    template=POD, scaleStrategy={"type": "object"}, idleTimeoutSeconds=COUNT, suspend=FLAG,
)  # fmt: skip
AUTOSCALER = record(
    resources={"type": "object"}, image=TEXT, imagePullPolicy=TEXT, env={"type": "array"}, envFrom={"type": "array"},
    volumeMounts={"type": "array"}, securityContext={"type": "object"}, idleTimeoutSeconds=COUNT,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}, version={"enum": ["v1", "v2"]},
)  # fmt: skip
CLUSTER = record(
    "headGroupSpec",
    headGroupSpec=HEAD, workerGroupSpecs={"type": "array", "items": WORKERS}, rayVersion=TEXT, suspend=FLAG,
    autoscalerOptions=AUTOSCALER, enableInTreeAutoscaling=FLAG, headServiceAnnotations=TEXTS, managedBy=TEXT,
    gcsFaultToleranceOptions={"type": "object"},
)  # fmt: skip
JOB = record(
    activeDeadlineSeconds={"type": "integer", "minimum": 1}, backoffLimit=COUNT, rayClusterSpec=CLUSTER,
    submitterPodTemplate=POD, metadata=TEXTS, clusterSelector=TEXTS, submitterConfig=record(backoffLimit=COUNT),
    managedBy=TEXT, deletionStrategy={"type": "object"}, entrypoint=TEXT, runtimeEnvYAML=TEXT, jobId=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]}, entrypointResources=TEXT,
    entrypointNumCpus={"type": "number"}, entrypointNumGpus={"type": "number"}, ttlSecondsAfterFinished=COUNT,
    shutdownAfterJobFinishes=FLAG, suspend=FLAG,
)  # fmt: skip
SPECS = {"RayCluster": CLUSTER, "RayJob": JOB}
