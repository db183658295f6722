"""The Kubernetes example is YAML with fields that exist, and what it says of us is what we read."""

import ast
import inspect
import os
from pathlib import Path

import yaml

from axolotl_cache.config import load_settings

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/kubernetes/axolotl-cache.yaml"
TOP = {"apiVersion", "kind", "metadata", "data", "spec"}
SPEC = {
    "Service": {"clusterIP", "selector", "ports"},
    "StatefulSet": {"serviceName", "replicas", "selector", "template"},
    "RayService": {"serveConfigV2", "rayClusterConfig"},
}
RAY_CLUSTER = {"rayVersion", "enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs"}
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
POD = {"securityContext", "initContainers", "containers", "volumes"}
CONTAINER = {
    "name", "image", "command", "args", "env", "ports", "readinessProbe", "resources", "volumeMounts"
}  # fmt: skip
APPLICATION = {"name", "import_path", "route_prefix", "runtime_env"}


def documents():
    return {each["kind"]: each for each in yaml.safe_load_all(EXAMPLE.read_text(encoding="utf-8"))}


def pods():
    found = documents()
    cluster = found["RayService"]["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [found["StatefulSet"]["spec"]["template"], *(group["template"] for group in groups)]


def test_every_field_is_known():
    for kind, document in documents().items():
        assert set(document) <= TOP
        assert set(document.get("spec", ())) <= SPEC.get(kind, set())
    cluster = documents()["RayService"]["spec"]["rayClusterConfig"]
    assert set(cluster) == RAY_CLUSTER
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert set(group) <= GROUP
    for pod in pods():
        assert set(pod["spec"]) <= POD
        containers = [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
        assert all(set(container) <= CONTAINER for container in containers)
        mounted = {mount["name"] for each in containers for mount in each.get("volumeMounts", ())}
        assert mounted == {volume["name"] for volume in pod["spec"].get("volumes", ())}


def test_workers_follow_the_number_of_replicas():
    found = documents()
    cluster = found["RayService"]["spec"]["rayClusterConfig"]
    (workers,) = cluster["workerGroupSpecs"]
    tree = ast.parse(found["ConfigMap"]["data"]["serving.py"])
    (scaling,) = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and n.func.id == "Scaling"]
    wants = {word.arg: ast.literal_eval(word.value) for word in scaling.keywords}
    assert cluster["enableInTreeAutoscaling"] is True
    assert (workers["minReplicas"], workers["maxReplicas"]) == (
        wants["min_replicas"],
        wants["max_replicas"],
    )
    (container,) = workers["template"]["spec"]["containers"]
    assert wants["cpus"] + wants["doors"] * 0.1 <= float(workers["rayStartParams"]["num-cpus"])
    assert wants["gpus"] == int(container["resources"]["limits"]["nvidia.com/gpu"])


def test_the_keys_are_readable_by_ray_and_by_nobody_else():
    # Secrets belong to root, and fsGroup opens them to a group, which our file of keys may not be.
    for pod in pods()[1:]:
        copies = pod["spec"]["initContainers"][0]
        sources = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        assert pod["spec"]["securityContext"]["fsGroup"]
        assert copies["command"][:3] == ["install", "-m", "600"]
        assert "emptyDir" in sources["keys"]
        folder = {mount["name"]: mount["mountPath"] for mount in copies["volumeMounts"]}
        assert copies["command"][3].startswith(folder["keys-secret"])
        serving = documents()["ConfigMap"]["data"]["serving.py"]
        assert copies["command"][4] in serving


def test_the_application_is_where_serve_looks_for_it():
    found = documents()
    config = yaml.safe_load(found["RayService"]["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    assert set(application) <= APPLICATION
    module, name = application["import_path"].split(":")
    tree = ast.parse(found["ConfigMap"]["data"][f"{module}.py"])
    assert name in {
        target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
    }


def test_its_calls_are_ones_that_we_take():
    from axolotl_cache.ray_serve.spec import Scaling

    tree = ast.parse(documents()["ConfigMap"]["data"]["serving.py"])
    calls = {node.func.id: node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert {word.arg for word in calls["Scaling"].keywords} <= set(inspect.signature(Scaling).parameters)
    source = (EXAMPLE.parents[2] / "src/axolotl_cache/ray_serve/app.py").read_text(encoding="utf-8")
    (build,) = [n for n in ast.parse(source).body if getattr(n, "name", "") == "build_app"]
    assert {word.arg for word in calls["build_app"].keywords} <= {arg.arg for arg in build.args.kwonlyargs}


def test_its_configuration_is_read(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AXOLOTL_CACHE_REDIS")]:
        monkeypatch.delenv(name)
    path = tmp_path / "inference.yaml"
    path.write_text(documents()["ConfigMap"]["data"]["inference.yaml"], encoding="utf-8")
    settings = load_settings(path)
    assert settings.model.cache_backend == "redis"
    service = documents()["Service"]["metadata"]["name"]
    assert f".{service}:6379" in settings.cluster.connection_string
