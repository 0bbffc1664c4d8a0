"""requirements*.txt pin what pyproject.toml asks for. pip installs them without resolution and does not check that."""

import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.installation import ROOT

PINNED = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
}
PINNED_FOR_S3 = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements-s3.txt").read_text(), re.MULTILINE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = [*PROJECT["dependencies"], *EXTRAS["demo"], *EXTRAS["s3"]]


@pytest.mark.parametrize("line", DECLARED)
def test_every_dependency_is_pinned_within_its_bounds(line: str) -> None:
    requirement = Requirement(line)

    assert requirement.specifier.contains((PINNED | PINNED_FOR_S3)[canonicalize_name(requirement.name)])


def test_of_the_pinned_packages_only_label_studio_ml_asks_for_others() -> None:
    report = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False).stdout

    complaining = {
        canonicalize_name(line.split()[0]) for line in report.splitlines() if " requires " in line or " has " in line
    }

    assert complaining & set(PINNED) == {"label-studio-ml"}
