"""Files in `monitoring/`: Prometheus accepts them, and /metrics has every metric that they name."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from backend.demo.child_processes import Services, bare_environment, free_port, start_backend, wait_until
from tests.backend_client import BackendClient
from tests.missing import missing
from tests.scrape import series_names
from tests.workplace import DEADLINE_S, Workplace

MONITORING = Path(__file__).parents[2] / "monitoring"
RULES: list[dict[str, str]] = [
    rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
PANELS: list[dict[str, Any]] = json.loads((MONITORING / "dashboard.json").read_text())["panels"]


def panel_queries() -> list[str]:
    """Return the queries of all panels, with Grafana's variables filled in."""
    queries = [target["expr"] for panel in PANELS for target in panel["targets"]]
    return [query.replace("$project", ".*").replace("$__rate_interval", "1m") for query in queries]


@pytest.fixture
def promtool() -> str:
    return program("promtool")


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments", ["check rules alerts.yml", "check config prometheus.yml", "test rules alerts_test.yml"]
)
def test_promtool_accepts_the_files(promtool: str, arguments: str) -> None:
    result = subprocess.run([promtool, *arguments.split()], cwd=MONITORING, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_a_test_and_says_what_to_do() -> None:
    tested = (MONITORING / "alerts_test.yml").read_text()

    alerts = [rule for rule in RULES if "alert" in rule]

    assert [rule["alert"] for rule in alerts if f"alertname: {rule['alert']}\n" not in tested] == []
    assert all({"summary", "action"} <= set(rule["annotations"]) for rule in alerts)


def test_a_backend_has_every_metric_that_panels_and_rules_name(backend: BackendClient) -> None:
    series = series_names(backend.get("/metrics").text)
    recorded = {rule["record"] for rule in RULES if "record" in rule}

    queries = [*panel_queries(), *(rule["expr"] for rule in RULES)]
    named = {name for query in queries for name in re.findall(r"\bcaptioner_\w+", query)}
    built_on = {name for query in queries for name in re.findall(r"\bcaptioner:[\w:]+", query)}

    assert sorted(named - series) == []
    assert built_on <= recorded


def test_every_metric_is_used_by_a_panel_or_a_rule(backend: BackendClient) -> None:
    declared = re.findall(r"^# TYPE (\w+) ", backend.get("/metrics").text, re.MULTILINE)

    queries = " ".join([*panel_queries(), *(rule["expr"] for rule in RULES)])

    assert [name for name in declared if name not in queries and not name.endswith("_created")] == []


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with Services(tmp_path / "logs") as services:
        yield services


def test_a_real_prometheus_answers_the_queries_of_the_dashboard(
    workplace: Workplace, services: Services, tmp_path: Path
) -> None:
    prometheus = program("prometheus")
    workplace.correct(range(1, 4))
    settings = workplace.environment(HOST="127.0.0.1", PORT=str(free_port()))
    backend = start_backend(services, settings, DEADLINE_S)
    home = configuration(tmp_path / "prometheus", target=f"127.0.0.1:{settings['PORT']}")
    address = f"127.0.0.1:{free_port()}"
    command = [prometheus, f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data"]
    server = services.start(
        "prometheus",
        [*command, f"--web.listen-address={address}"],
        url=f"http://{address}",
        environ=bare_environment(home),
    )

    def ask(path: str, **params: str) -> Any:
        try:
            answer = requests.get(f"{server.url}/api/v1/{path}", params=params, timeout=DEADLINE_S)
        except requests.ConnectionError:
            return None
        return answer.json()["data"] if answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE else None

    def value(query: str) -> float | None:
        answer = ask("query", query=query)
        return float(answer["result"][0]["value"][1]) if answer and answer["result"] else None

    wait_until(server, lambda: value('up{job="captioner"}') == 1, DEADLINE_S, "to scrape the backend")
    wait_until(server, lambda: value('captioner_requests_total{route="/metrics"}') is not None, DEADLINE_S, "again")
    wait_until(server, lambda: all(rule["health"] == "ok" for rule in rules(ask)), DEADLINE_S, "to evaluate the rules")

    assert value('captioner_corrections_waiting{project="1"}') == 3
    assert value('captioner_neighbour_up{neighbour="redis"}') == 1
    assert value("captioner_bundle_loaded") == 1
    assert [query for query in panel_queries() if ask("query", query=query)["resultType"] != "vector"] == []
    assert {rule["name"] for rule in rules(ask)} == {rule.get("alert") or rule["record"] for rule in RULES}
    services.stop(backend)
    wait_until(server, lambda: "BackendAway" in pending(ask), DEADLINE_S, "to notice that the backend is gone")


def rules(ask: Callable[..., Any]) -> list[dict[str, Any]]:
    return [rule for group in ask("rules")["groups"] for rule in group["rules"]]


def pending(ask: Callable[..., Any]) -> set[str]:
    return {alert["labels"]["alertname"] for alert in ask("alerts")["alerts"]}


def configuration(home: Path, target: str) -> Path:
    """Copy our files with another target; scrape and evaluate every second."""
    home.mkdir()
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for group in groups:
        group.pop("interval", None)
    (home / "alerts.yml").write_text(yaml.safe_dump({"groups": groups}))
    ours = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    ours["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    ours["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (home / "prometheus.yml").write_text(yaml.safe_dump(ours))
    return home


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        missing(f"no {name} on PATH (Debian: apt install prometheus)")
    return str(path)
