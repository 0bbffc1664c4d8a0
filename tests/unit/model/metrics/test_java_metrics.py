"""METEOR and SPICE when their Java programs are missing or fail. tests/integration runs the real programs."""

import importlib.machinery
import importlib.util
import json
import os
from pathlib import Path

import pytest

from model.metrics.java import JavaMetric, java_metrics

CAPTIONS = ("a dog runs", "a café")
REFERENCES = (("the dog runs",), ("one café", "a table"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders of the package pycocoevalcap, without its programs."""
    for folder in ("meteor", "spice/lib"):
        (tmp_path / "pycocoevalcap" / folder).mkdir(parents=True)
    package_spec = importlib.machinery.ModuleSpec("pycocoevalcap", None, is_package=True)
    package_spec.submodule_search_locations = [str(tmp_path / "pycocoevalcap")]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: package_spec)
    return tmp_path / "pycocoevalcap"


def put_java(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `java` be a shell script."""
    (folder / "bin").mkdir()
    (folder / "bin" / "java").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin" / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")


def test_without_java_both_are_missing_with_a_way_out(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(package))

    missing = "needs Java (Debian: apt install default-jre-headless)"
    assert java_metrics(CAPTIONS, REFERENCES) == (
        JavaMetric(name="METEOR", score=None, missing=missing),
        JavaMetric(name="SPICE", score=None, missing=missing),
    )


def test_without_the_package_both_are_missing_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_java(tmp_path, "exit 0", monkeypatch)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    for metric in java_metrics(CAPTIONS, REFERENCES):
        assert metric.score is None
        assert "pip install --no-deps pycocoevalcap==1.2" in metric.missing


def test_spice_is_not_tried_before_its_models_are_there(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_java(package, "exit 0", monkeypatch)
    (package / "spice/lib/stanford-corenlp-3.6.0.jar").touch()

    spice = java_metrics(CAPTIONS, REFERENCES)[1]

    assert spice.score is None
    assert "python -m pycocoevalcap.spice.get_stanford_models" in spice.missing


def test_a_failing_program_is_reported_with_its_last_line(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_java(package, "echo starting >&2; echo 'Could not reserve enough space' >&2; exit 1", monkeypatch)

    meteor = java_metrics(CAPTIONS, REFERENCES)[0]

    assert meteor == JavaMetric(
        name="METEOR", score=None, missing="its program ended too early: Could not reserve enough space"
    )


def test_meteor_is_the_last_number_after_those_of_the_images(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"""
        while read -r line; do
            echo "$line" >> {package}/asked
            case "$line" in
                SCORE*) echo 1.0 2.0 ;;
                EVAL*) echo 0.25; echo 0.75; echo 0.5 ;;
            esac
        done"""
    put_java(package, script, monkeypatch)

    meteor = java_metrics(CAPTIONS, REFERENCES)[0]

    assert meteor == JavaMetric(name="METEOR", score=0.5)
    assert (package / "asked").read_text("utf-8").splitlines() == [
        "SCORE ||| the dog runs ||| a dog runs",
        "SCORE ||| one café ||| a table ||| a café",
        "EVAL ||| 1.0 2.0 ||| 1.0 2.0",
    ]


def test_spice_is_the_mean_of_its_program_s_f_scores(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (package / "spice/lib" / name).touch()
    answer = json.dumps([{"image_id": n, "scores": {"All": {"f": f}}} for n, f in enumerate((0.25, 0.5))])
    script = f"""
        while [ "$1" != "spice-1.0.jar" ]; do shift || exit 3; done
        cp "$2" {package}/asked; test "$3" = -out && echo '{answer}' > "$4" """
    put_java(package, script, monkeypatch)

    spice = java_metrics(CAPTIONS, REFERENCES)[1]

    assert spice == JavaMetric(name="SPICE", score=0.375)
    assert json.loads((package / "asked").read_text("utf-8"))[1] == {
        "image_id": 1,
        "test": "a café",
        "refs": ["one café", "a table"],
    }
