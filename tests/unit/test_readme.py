"""README, docs/ and CONTRIBUTING promise nothing that is missing: settings, commands, targets, files, sections."""

import re
import shlex
import textwrap
import tomllib
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml
from click.exceptions import Exit

from backend.cli import main
from backend.protocol.label_config import good_label_config
from tests.command_line import parse
from tests.payloads import load_payload, payload_names
from worker.settings import Settings, setting_rows

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
MANUAL = [README, *PAGES]
DOCUMENTS = [*MANUAL, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
SETTINGS_OF_OTHERS = {
    "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED",
    "LABEL_STUDIO",
    "LABEL_STUDIO_HOST",
    "ML_BLOCK_LOCAL_IP",
    "SSRF_PROTECTION_ENABLED",
    "ORT_DISABLE_TELEMETRY",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "PROMETHEUS_MULTIPROC_DIR",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL_S3",
    "PHOTOS",
    "HOME",
}
"""Variables of Label Studio, ONNX Runtime, OpenTelemetry, prometheus_client, clients of S3, make and the shell."""
WEBHOOK_ACTIONS = {load_payload(name)["body"]["action"] for name in payload_names("*_webhook_*")}


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def lines_of(pattern: str, documents: list[Path]) -> list[tuple[str, str]]:
    """Return every match of the pattern, with the name of its document."""
    return [
        (name_of(document), match.strip())
        for document in documents
        for match in re.findall(pattern, document.read_text(), re.MULTILINE)
    ]


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_table_of_settings_is_that_of_the_code() -> None:
    table = "\n".join(
        f"| `{row.name}` | {f'`{row.default}`' if row.default else '(none)'} | {row.meaning} |"
        for row in setting_rows()
    )

    assert table in (ROOT / "docs/settings.md").read_text(), f"put this into docs/settings.md:\n{table}"


@pytest.mark.parametrize(
    ("document", "line"), lines_of(r"^ {4,7}(?:captioner|torchrun .*-m backend\.cli) (.*)$", MANUAL)
)
def test_every_command_line_is_accepted(document: str, line: str) -> None:
    words = shlex.split(line, comments=True)

    with pytest.raises(Exit, match=r"^0$") if "--help" in words else nullcontext():
        parse(words)


@pytest.mark.parametrize(("document", "line"), lines_of(r"`captioner ([a-z][^`]*)`", DOCUMENTS))
def test_every_command_that_a_sentence_names_exists_with_its_options(
    document: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *words = line.split()

    assert main([command, "--help"]) == 0

    explained = capsys.readouterr().out
    assert [word for word in words if word.startswith("--") and word not in explained] == []


@pytest.mark.parametrize("document", MANUAL, ids=name_of)
def test_every_setting_that_is_named_exists(document: Path) -> None:
    names = re.findall(r"(?<![/\w])[A-Z]+(?:_[A-Z0-9]+)+\b", document.read_text())

    assert set(names) <= {row.name for row in setting_rows()} | SETTINGS_OF_OTHERS | WEBHOOK_ACTIONS


@pytest.mark.parametrize(("document", "line"), lines_of(r"(?:`|^ {4}|export )([A-Z_]+=[^`\n]+)", MANUAL))
def test_every_value_of_a_setting_is_accepted(document: str, line: str) -> None:
    values = dict(word.split("=", 1) for word in line.split())
    names = {row.name for row in setting_rows()}

    Settings.from_env({name: value for name, value in values.items() if name in names})

    assert values.keys() <= names | SETTINGS_OF_OTHERS


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_make_target_exists(document: Path) -> None:
    targets = set(re.findall(r"^([.\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    benches = {path.stem.replace("_", "-") for path in (ROOT / "tests/benchmarks").glob("bench_*.py")}

    commands = re.findall(r"(?:`|^ {4})make ([a-z0-9.-]+(?: [a-z-]+)*)(?:[` ]|$)", document.read_text(), re.MULTILINE)

    assert {target for command in commands for target in command.split()} <= targets | benches


@pytest.mark.parametrize("document", MANUAL, ids=name_of)
def test_every_extra_that_is_installed_exists(document: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    assert set(re.findall(r"pip install \"\S*\[(\w+)\]\"", document.read_text())) <= extras.keys()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_leads_to_a_file_and_a_section_of_it(document: Path) -> None:
    for link in re.findall(r"\]\((?!https?://)([^)]+)\)", document.read_text()):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document

        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = README.read_text()

    assert len(text.splitlines()) <= 120
    assert len(text.split()) <= 1100
    assert [name_of(page) for page in PAGES if f"({name_of(page)})" not in text] == []


def test_the_admin_manual_names_the_buttons_of_the_pages() -> None:
    manual = (ROOT / "docs/admin.md").read_text()
    pages = "".join(page.read_text() for page in (ROOT / "backend/templates/admin").glob("*.html"))
    table = re.search(r"\| Button \|.*?\n\n", manual, re.DOTALL)
    assert table is not None

    buttons = re.findall(r"^\| ([^|-]+) \|", table[0], re.MULTILINE)[1:]

    assert buttons
    assert [button for button in buttons if f'"{button}"' not in pages and f">{button}<" not in pages] == []


def test_the_monitoring_manual_names_every_alert() -> None:
    manual = (ROOT / "docs/monitoring.md").read_text()

    groups = yaml.safe_load((ROOT / "monitoring/alerts.yml").read_text())["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]

    assert [alert for alert in alerts if alert not in manual] == []


def test_every_bench_has_its_place_in_the_results() -> None:
    results = (ROOT / "tests/benchmarks/RESULTS.md").read_text()

    benches = sorted((ROOT / "tests/benchmarks").glob("bench_*.py"))

    missing = [bench.stem for bench in benches if f"`make {bench.stem.replace('_', '-')}`" not in results]
    assert benches
    assert missing == []


@pytest.mark.parametrize("page", ["README.md", "docs/owner.md"])
def test_the_docs_show_the_config_that_the_command_prints(page: str) -> None:
    assert textwrap.indent(good_label_config(), " " * 7) in (ROOT / page).read_text()
