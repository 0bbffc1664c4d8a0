"""The functions that RQ calls by name. Queued jobs hold these names, so they must not change."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from rq.utils import import_attribute

import worker
from backend.admin.job_records import WORK
from worker import idle, jobs
from worker.queue import trigger

WITHOUT_TORCH = ("worker.jobs", "worker.idle", "worker.__main__", "worker.queue.trigger", "worker.queue.job_process")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("worker.jobs.retrain", ["project_id", "reason"]),
        ("worker.jobs.roll_back_if_accepted_less", ["project_id"]),
        ("worker.idle.retrain_if_idle", ["project_id"]),
        ("backend.jobs.collect_corrections", ["project_id"]),
        ("backend.jobs.connect_project", ["project_id"]),
        ("backend.jobs.pull_projects", []),
        ("backend.jobs.refresh_predictions", ["project_id", "version", "after_id"]),
    ],
)
def test_a_job_that_was_queued_before_an_update_finds_its_function(name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(import_attribute(name)).parameters) == parameters


@pytest.mark.parametrize(
    ("door", "function", "arguments"),
    [
        (jobs.retrain, "worker.learning.training_run.retrain", (7, "20 corrections wait")),
        (jobs.roll_back_if_accepted_less, "worker.learning.rollback.look_back", (7,)),
    ],
)
def test_a_door_calls_its_function_with_the_same_arguments_and_returns_its_result(
    monkeypatch: pytest.MonkeyPatch, door: object, function: str, arguments: tuple[object, ...]
) -> None:
    monkeypatch.setattr(function, lambda *received: {"received": received})

    assert callable(door)
    assert door(*arguments) == {"received": arguments}


def test_the_check_for_quiet_is_the_triggers() -> None:
    assert idle.retrain_if_idle is trigger.retrain_if_idle


def test_the_admin_pages_say_the_purpose_of_every_job() -> None:
    functions = [*vars(jobs).values(), idle.retrain_if_idle]

    assert {function.__name__ for function in functions if inspect.isfunction(function)} <= set(WORK)


@pytest.mark.parametrize("door", [jobs.retrain, jobs.roll_back_if_accepted_less])
def test_a_door_is_short(door: object) -> None:
    assert len(inspect.getsource(door).splitlines()) <= 15  # type: ignore[arg-type]


def modules_of(package: str) -> list[str]:
    [folder] = worker.__path__
    files = sorted(Path(folder, package).glob("*.py"))
    return [f"worker.{package}.{file.stem}" for file in files if file.stem != "__init__"]


@pytest.mark.parametrize("module", [*WITHOUT_TORCH, "the whole queue"])
def test_the_doors_and_the_queue_load_no_torch(module: str) -> None:
    """Torch takes 2 s to import, and each job has a process of its own."""
    names = modules_of("queue") if module == "the whole queue" else [module]
    program = f"import sys, {', '.join(names)}; print('torch' in sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert loaded.stdout == "False\n"
