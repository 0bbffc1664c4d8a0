"""What the README promises exists: its settings, its commands, its targets, its files."""

import re
from contextlib import nullcontext
from pathlib import Path

import pytest

from backend.cli import build_parser
from worker.settings import setting_rows

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def test_the_table_of_settings_is_that_of_the_code() -> None:
    table = "\n".join(
        f"| `{row.name}` | {f'`{row.default}`' if row.default else '(none)'} | {row.meaning} |"
        for row in setting_rows()
    )

    assert table in README, f"put this into the README:\n{table}"


@pytest.mark.parametrize("line", re.findall(r"^    captioner (.*?)(?: {2,}.*)?$", README, re.MULTILINE))
def test_every_command_line_is_accepted(line: str) -> None:
    asks_for_help = "--help" in line

    with pytest.raises(SystemExit, match=r"^0$") if asks_for_help else nullcontext():
        build_parser().parse_args(line.split())


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_exists(document: str) -> None:
    targets = set(re.findall(r"^([.\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    named = set(re.findall(r"(?:`|^ {4})make ([a-z0-9.-]+)(?:[` ]|$)", (ROOT / document).read_text(), re.MULTILINE))

    assert named
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_linked_file_exists(document: str) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / document).read_text()):
        assert (ROOT / target).exists(), target


def test_every_bench_has_its_place_in_the_results() -> None:
    results = (ROOT / "tests/benchmarks/RESULTS.md").read_text()

    benches = sorted((ROOT / "tests/benchmarks").glob("bench_*.py"))

    missing = [bench.stem for bench in benches if f"`make {bench.stem.replace('_', '-')}`" not in results]
    assert benches
    assert missing == []
