"""deploy/kubernetes follows the schemas of Kubernetes, the code's settings, docker-compose.yml and the Dockerfile."""

import json
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tests.command_line import parse
from worker.settings import Settings, setting_rows

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
SCHEMAS = Path(
    str(
        distribution("kubernetes-validate").locate_file(
            "kubernetes_validate/kubernetes-json-schema/v1.37.0-local-strict"
        )
    )
)
SHARED = Registry().with_resource(
    "https://kubernetes.io/api/_definitions.json",
    Resource.from_contents(json.loads((SCHEMAS / "_definitions.json").read_text())),
)
OURS = ("backend", "worker")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())

Json = dict[str, Any]


def objects_of(path: Path) -> list[Json]:
    return [it for it in yaml.safe_load_all(path.read_text()) if it is not None]


MANIFESTS = {
    f"{path.name}: {it['kind']} {it['metadata']['name']}": it
    for path in sorted(FOLDER.iterdir())
    for it in objects_of(path)
}


def the(kind: str, name: str) -> Json:
    [found] = [it for it in MANIFESTS.values() if (it["kind"], it["metadata"]["name"]) == (kind, name)]
    return found


def pod_of(workload: Json) -> Json:
    pod: Json = workload["spec"]["template"]
    return pod


def container_of(part: str) -> Json:
    [container] = pod_of(the("Deployment", f"captioner-{part}"))["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def workloads() -> list[Json]:
    return [it for it in MANIFESTS.values() if it["kind"] in {"Deployment", "StatefulSet"}]


def problems_of(manifest: Json) -> list[str]:
    """Return where a manifest breaks the strict schema, which knows every field that there is."""
    group, _, version = manifest["apiVersion"].rpartition("/")
    name = "-".join(filter(None, [manifest["kind"].lower(), group, version]))
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    errors = Draft202012Validator(schema, registry=SHARED).iter_errors(manifest)
    return [f"{error.json_path}: {error.message}" for error in errors]


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_manifest_follows_the_schema_of_kubernetes(name: str) -> None:
    assert problems_of(MANIFESTS[name]) == []


def test_the_schema_refuses_a_field_that_does_not_exist() -> None:
    manifest = json.loads(json.dumps(the("Deployment", "captioner-worker")))
    pod_of(manifest)["spec"]["containers"][0]["livenesProbe"] = {}

    [problem] = problems_of(manifest)

    assert "'livenesProbe' was unexpected" in problem


@pytest.mark.parametrize("name", MANIFESTS)
def test_no_manifest_names_a_namespace(name: str) -> None:
    assert "namespace" not in MANIFESTS[name]["metadata"]


@pytest.mark.parametrize("part", OURS)
def test_every_variable_is_a_setting_and_is_accepted(part: str) -> None:
    environment = environment_of(part)

    settings = Settings.from_env({**environment, "BASIC_AUTH_PASS": "of-the-secret"})

    assert environment.keys() - {row.name for row in setting_rows()} == {"REDIS_PASSWORD"}
    assert settings.redis_url == "redis://:@captioner-redis:6379/0"


def test_backend_and_worker_have_the_same_settings_and_the_same_volume() -> None:
    backend, worker = (pod_of(the("Deployment", f"captioner-{part}"))["spec"] for part in OURS)

    assert environment_of("backend") == environment_of("worker")
    assert backend["volumes"] == worker["volumes"]
    [volume] = backend["volumes"]
    assert the("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])


def environment_of(part: str) -> dict[str, str]:
    """Return the variables of a container, as Kubernetes puts them together."""
    container, environment = container_of(part), dict[str, str]()
    for source in container["envFrom"]:
        if "configMapRef" in source:
            environment |= the("ConfigMap", source["configMapRef"]["name"])["data"]
        else:
            environment |= the("Secret", source["secretRef"]["name"])["stringData"]
    for variable in container["env"]:
        value = re.sub(r"\$\((\w+)\)", lambda match: environment[match[1]], variable["value"])
        environment[variable["name"]] = value
    return environment


def test_the_example_of_the_secret_contains_no_secret_and_is_not_applied_with_the_folder() -> None:
    secrets = {row.name for row in setting_rows() if row.is_secret} | {"REDIS_PASSWORD"}
    [example] = [path for path in FOLDER.iterdir() if objects_of(path)[0]["kind"] == "Secret"]
    [secret] = objects_of(example)

    assert {name: value for name, value in secret["stringData"].items() if name in secrets} == dict.fromkeys(
        secrets, ""
    )
    assert example.suffix not in {".yaml", ".yml", ".json"}
    assert secrets.isdisjoint(the("ConfigMap", "captioner")["data"])


@pytest.mark.parametrize("part", OURS)
def test_image_and_command_are_those_of_docker_compose(part: str) -> None:
    container, service = container_of(part), COMPOSE["services"][part]

    assert (container["image"], container["command"]) == (service["image"], service["command"])
    assert parse(container["command"][1:])


def test_the_probe_of_the_worker_is_that_of_docker_compose() -> None:
    probe = container_of("worker")["livenessProbe"]["exec"]["command"]

    assert ["CMD", *probe] == COMPOSE["services"]["worker"]["healthcheck"]["test"]


def test_redis_has_image_and_options_of_docker_compose() -> None:
    [redis] = pod_of(the("StatefulSet", "captioner-redis"))["spec"]["containers"]
    service = COMPOSE["services"]["redis"]

    assert redis["image"] == service["image"]
    assert redis["command"][:-1] == service["command"][:-1]
    assert redis["command"][-1] == "$(REDIS_PASSWORD)"
    assert redis["readinessProbe"]["exec"]["command"][-1] == service["healthcheck"]["test"][-1]


def test_ports_agree_from_the_setting_to_the_service() -> None:
    port = int(the("ConfigMap", "captioner")["data"]["PORT"])
    container = container_of("backend")
    [service] = the("Service", "captioner")["spec"]["ports"]

    assert f"\nEXPOSE {port}\n" in (ROOT / "Dockerfile").read_text()
    assert [it["containerPort"] for it in container["ports"]] == [port] == [service["port"]]
    assert container["ports"][0]["name"] == service["targetPort"] == container["readinessProbe"]["httpGet"]["port"]
    assert f"'127.0.0.1', {port}" in container["livenessProbe"]["exec"]["command"][-1]
    assert pod_of(the("Deployment", "captioner-backend"))["metadata"]["annotations"]["prometheus.io/port"] == str(port)


def test_services_and_workloads_select_the_pods_that_they_mean() -> None:
    labels = {it["metadata"]["name"]: pod_of(it)["metadata"]["labels"] for it in workloads()}

    for workload in workloads():
        assert workload["spec"]["selector"]["matchLabels"] == labels[workload["metadata"]["name"]]
    for service, expected in (("captioner", "captioner-backend"), ("captioner-redis", "captioner-redis")):
        selector = the("Service", service)["spec"]["selector"].items()
        assert [name for name in labels if selector <= labels[name].items()] == [expected]


def test_the_user_is_that_of_the_image() -> None:
    [user] = re.findall(r"useradd --uid (\d+) --create-home captioner", (ROOT / "Dockerfile").read_text())

    for part in OURS:
        security = pod_of(the("Deployment", f"captioner-{part}"))["spec"]["securityContext"]
        assert security == {"runAsNonRoot": True} | dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), int(user))


@pytest.mark.parametrize("workload", workloads(), ids=lambda it: it["metadata"]["name"])
def test_every_pod_has_a_probe_and_resources_and_gives_up_privileges(workload: Json) -> None:
    pod = pod_of(workload)["spec"]
    [container] = pod["containers"]

    assert container.keys() & {"readinessProbe", "livenessProbe"}
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
