"""`make compose-check`: docker-compose.yml follows the schema, the code's settings and the command line."""

import json
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from backend.demo.child_processes import LabelStudioAccount, label_studio_variables
from backend.demo.product import demo_settings
from tests.command_line import parse
from worker.settings import Settings, setting_rows

COMPOSE_FILE = Path(__file__).parents[2] / "docker-compose.yml"
OURS = ("backend", "worker")
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*)|:\?[^}]*)\}")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
    return content


@pytest.fixture(scope="module")
def demo_environment() -> dict[str, str]:
    return demo_settings(Path("store"), "redis://127.0.0.1:1/0", "http://127.0.0.1:2", "token")


def test_the_file_follows_the_compose_specification(compose: dict[str, Any]) -> None:
    carrier = distribution("check-jsonschema")
    schema = carrier.locate_file("check_jsonschema/builtin_schemas/vendor/compose-spec.json")

    jsonschema.validate(compose, json.loads(Path(str(schema)).read_text()))


@pytest.mark.parametrize("service", OURS)
def test_every_variable_is_a_setting_and_every_setting_a_variable(compose: dict[str, Any], service: str) -> None:
    assert set(compose["services"][service]["environment"]) == {row.name for row in setting_rows()}


@pytest.mark.parametrize("service", OURS)
def test_the_demo_sets_the_same_variables(
    compose: dict[str, Any], demo_environment: dict[str, str], service: str
) -> None:
    assert set(compose["services"][service]["environment"]) == set(demo_environment)


@pytest.mark.parametrize("service", OURS)
def test_the_values_are_accepted_by_the_code(compose: dict[str, Any], service: str) -> None:
    environment = compose["services"][service]["environment"]

    settings = Settings.from_env({name: filled_in(value) for name, value in environment.items()})

    assert settings.redis_url == "redis://:from-dot-env@redis:6379/0"
    assert settings.model_store.startswith("/data")


def test_optional_variables_have_the_defaults_of_the_code(compose: dict[str, Any]) -> None:
    defaults = {row.name: row.default for row in setting_rows()}
    environment = compose["services"]["backend"]["environment"]

    optional = {name: VARIABLE.fullmatch(value) for name, value in environment.items() if ":-" in value}

    assert {name: match["default"] for name, match in optional.items() if match and name != "BASIC_AUTH_USER"} == {
        name: defaults[name] for name in optional if name != "BASIC_AUTH_USER"
    }


@pytest.mark.parametrize("service", OURS)
def test_captioner_accepts_the_command(compose: dict[str, Any], service: str) -> None:
    program, *arguments = compose["services"][service]["command"]

    assert program == "captioner"
    assert parse(arguments)


def test_captioner_accepts_the_worker_s_health_check(compose: dict[str, Any]) -> None:
    kind, program, *arguments = compose["services"]["worker"]["healthcheck"]["test"]

    assert (kind, program) == ("CMD", "captioner")
    assert parse(arguments).params["alive"]


def test_label_studio_gets_the_variables_the_demo_gives_it(compose: dict[str, Any]) -> None:
    account = LabelStudioAccount(username="name", password="password", token="token")
    secret = {"LABEL_STUDIO_USERNAME", "LABEL_STUDIO_PASSWORD", "LABEL_STUDIO_USER_TOKEN"}

    variables = compose["services"]["label-studio"]["environment"]

    expected = label_studio_variables(account)
    assert set(variables) == set(expected)
    assert {name: variables[name] for name in variables if name not in secret} == {
        name: value for name, value in expected.items() if name not in secret
    }


def test_label_studio_is_the_version_that_demo_and_tests_use(compose: dict[str, Any]) -> None:
    pinned = (COMPOSE_FILE.parent / "requirements-label-studio.txt").read_text()

    version = compose["services"]["label-studio"]["image"].partition(":")[2]

    assert f"\nlabel-studio=={version}\n" in pinned


def test_redis_keeps_every_write_in_a_volume(compose: dict[str, Any]) -> None:
    redis = compose["services"]["redis"]

    assert redis["command"][:3] == ["redis-server", "--appendonly", "yes"]
    assert redis["volumes"] == ["redis:/data"]


def test_redis_has_the_password_that_backend_and_worker_send(compose: dict[str, Any]) -> None:
    words = compose["services"]["redis"]["command"]

    password = filled_in(words[words.index("--requirepass") + 1])

    assert all(f":{password}@" in filled_in(compose["services"][of]["environment"]["REDIS_URL"]) for of in OURS)


def test_every_service_has_a_health_check_and_does_not_run_as_root(compose: dict[str, Any]) -> None:
    dockerfile = (COMPOSE_FILE.parent / "Dockerfile").read_text()

    for name, service in compose["services"].items():
        assert service["healthcheck"]["test"], name
        runs_as = service.get("user") or ("captioner" if "\nUSER captioner\n" in dockerfile else "root")
        assert runs_as.split(":")[0] not in {"root", "0"}, name


def test_the_file_contains_no_secret(compose: dict[str, Any]) -> None:
    secrets = {row.name for row in setting_rows() if row.is_secret} | {"LABEL_STUDIO_PASSWORD"}

    for service in compose["services"].values():
        for name in secrets & set(service.get("environment", {})):
            assert VARIABLE.fullmatch(service["environment"][name]), name


def filled_in(value: str) -> str:
    """Return a value as Compose would pass it on, with an .env file that holds the secrets only."""
    return VARIABLE.sub(lambda match: match["default"] if match["default"] is not None else "from-dot-env", value)
