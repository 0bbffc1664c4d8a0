"""Write a version's suggestions into Label Studio for tasks nobody has annotated.

The label stream asks for new suggestions by itself, but Quick View shows the prediction that was stored last. So the
suggestions of a promoted version, or of the one that a rollback returns to, must be written there.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from backend.captioning.backend import CaptionBackend
from backend.captioning.services import CaptioningServices
from backend.label_studio.client import LabelStudioClient, Task

logger = logging.getLogger(__name__)

TASKS_AT_ONCE = 25
PART_S = 60.0
"""How long one job may write before what else waits for its worker gets its turn."""


@dataclass(frozen=True, kw_only=True)
class RefreshReport:
    """What one refresh did, in tasks."""

    refreshed: int
    current: int
    """Showed this version already."""
    failed: int
    """Without a suggestion, because their image could not be had or Label Studio did not take it."""
    stopped: str | None = None
    """Why not all tasks were looked at, in words."""
    rest_after: int | None = None
    """Id of the last task that was looked at, when another job is to go on behind it."""


def refresh(
    client: LabelStudioClient,
    services: CaptioningServices,
    project_id: int,
    version: str,
    after_id: int,
    on_progress: Callable[[int, int], None],
) -> RefreshReport:
    """Write what the version suggests for un-annotated tasks that show another one, for PART_S or little longer.

    Args:
        after_id: of the task to go on behind; 0 begins with the first one.
        on_progress: told how many of how many tasks are seen to.

    Raises:
        LabelStudioError: tasks cannot be read or predictions not written; what was written stays.
        LabelConfigError: the project's labeling config has no caption.
    """
    backend = CaptionBackend(project_id, client.project(project_id).label_config, services=services)
    total = client.count_unannotated_tasks(project_id, after_id)
    refreshed = current = failed = 0
    last_id, until = after_id, time.monotonic() + PART_S
    for tasks in _batches(client.unannotated_tasks(project_id, after_id)):
        if last_id > after_id and time.monotonic() >= until:
            stopped = "the rest follows"
            return RefreshReport(
                refreshed=refreshed, current=current, failed=failed, stopped=stopped, rest_after=last_id
            )
        if services.captioners.version_of(project_id) != version:
            stopped = f"{version} no longer serves"
            return RefreshReport(refreshed=refreshed, current=current, failed=failed, stopped=stopped)
        stale = [task for task in tasks if _shown_version(task) != version]
        written = _write(client, backend, project_id, stale) if stale else 0
        current += len(tasks) - len(stale)
        refreshed += written
        failed += len(stale) - written
        last_id = int(tasks[-1]["id"])
        on_progress(refreshed + current + failed, total)
    return RefreshReport(refreshed=refreshed, current=current, failed=failed)


def _shown_version(task: Task) -> str | None:
    """Return the version of the prediction that Quick View shows: the newest."""
    newest = max(task["predictions"], key=lambda prediction: int(prediction["id"]), default=None)
    return None if newest is None else newest["model_version"]


def _write(client: LabelStudioClient, backend: CaptionBackend, project_id: int, tasks: Sequence[Task]) -> int:
    """Caption the tasks and store the predictions; returns how many tasks have one now."""
    predictions = [
        {"task": task["id"], **prediction}
        for task, entry in zip(tasks, backend.predict(tasks), strict=True)
        for prediction in _predictions(entry)
    ]
    if not predictions:
        return 0
    created = client.import_predictions(project_id, predictions)
    suggested = len({prediction["task"] for prediction in predictions})
    # Which one Label Studio refused is in the log; alternatives of one task count together.
    return min(suggested, created)


def _predictions(entry: Any) -> list[dict[str, Any]]:
    """Return the predictions of one task: one, several with ALTERNATIVES, none where it failed."""
    if isinstance(entry, list):
        return entry
    return [entry] if "result" in entry else []


def _batches(tasks: Iterator[Task]) -> Iterator[list[Task]]:
    batch: list[Task] = []
    for task in tasks:
        batch.append(task)
        if len(batch) == TASKS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
