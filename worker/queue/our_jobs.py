"""The jobs that a worker runs: our own functions by name, and no others, whatever somebody writes into Redis."""

from collections.abc import Callable
from typing import Any

from rq.job import Job
from rq.utils import import_attribute

from model.errors import JobError

OUR_FUNCTIONS = {
    "backend.jobs.collect_corrections",
    "backend.jobs.connect_project",
    "backend.jobs.pull_projects",
    "backend.jobs.refresh_look_alikes",
    "backend.jobs.refresh_predictions",
    "worker.idle.retrain_if_idle",
    "worker.jobs.retrain",
    "worker.jobs.roll_back_if_accepted_less",
}


class OurJob(Job):
    """A job as Redis describes it, which runs only if it calls one of our functions. Callbacks are never run."""

    @property
    def func(self) -> Callable[..., Any]:
        """The function to call.

        Raises:
            JobError: it is not ours.
        """
        if self.func_name not in OUR_FUNCTIONS:
            raise JobError(f"a worker runs no job that calls {self.func_name!r}, only its own: {sorted(OUR_FUNCTIONS)}")
        function: Callable[..., Any] = import_attribute(self.func_name)
        return function

    @property
    def success_callback(self) -> None:
        return None

    @property
    def failure_callback(self) -> None:
        return None

    @property
    def stopped_callback(self) -> None:
        return None
