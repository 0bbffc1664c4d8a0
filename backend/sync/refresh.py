"""Refresh of the predictions that Label Studio stores for tasks nobody has annotated.

The label stream asks for new suggestions, but Quick View shows the prediction that was stored last. So when another
version serves, its suggestions must be written into Label Studio.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.captioning.services import CaptioningServices
from backend.captioning.suggest import Suggester
from backend.label_studio.client import LabelStudioClient, Task
from backend.protocol.label_config import parse_caption_controls
from backend.protocol.predictions import make_predictions, texts_of
from backend.sync.refresh_progress import RefreshProgress, read_refreshes
from model.errors import CaptionerError
from model.vision.files import in_batches
from worker.feedback.caption_changes import read_generation
from worker.feedback.suggestions import Label
from worker.queue.backend_jobs import enqueue_refresh

logger = logging.getLogger(__name__)

CHOSEN = "the owner chose the predictions of {version!r} in Settings > Annotation"
NO_LONGER = "{version} no longer serves"
TASKS_AT_ONCE = 25
TURN_S = 60.0
"""How long one job writes before other jobs of its worker get their turn."""
REST_IN_S = 3
"""Delay of the next turn. Meanwhile the worker is free for a retraining, which waits in its second queue."""


@dataclass(frozen=True, kw_only=True)
class RefreshReport:
    """Counts of the tasks in one turn of a refresh."""

    refreshed: int = 0
    current: int = 0
    """Tasks that showed this version already."""
    failed: int = 0
    """Tasks without a suggestion: their image could not be read, or Label Studio refused the prediction."""
    stopped: str | None = None
    """Why the turn ended before the last task, in words."""
    rest_after: int | None = None
    """Id of the last task of this turn, where another turn follows."""


def refresh(
    client: LabelStudioClient,
    services: CaptioningServices,
    project_id: int,
    version: str,
    after_id: int,
    on_progress: Callable[[int, int], None],
    *,
    turn_s: float = TURN_S,
) -> RefreshReport:
    """Write the version's suggestions for one turn, and enqueue another turn for the rest.

    Args:
        after_id: id of the last refreshed task; 0 begins with the first task.
        on_progress: is called with the number of tasks done and the number of all tasks.
        turn_s: the turn ends with the batch in which this time is over.

    Raises:
        LabelStudioError: tasks cannot be read or predictions not written; what was written stays.
        LabelConfigError: the project's labeling config has no caption.
        RedisError: Redis does not answer.
    """
    if services.captioners.version_of(project_id) != version:
        stopped = NO_LONGER.format(version=version)
        unfinished = read_refreshes(services.redis, [project_id]).get(project_id)
        if unfinished is not None and unfinished.version == version and not unfinished.is_over:
            unfinished.ended(stopped, None).write(services.redis, project_id)
        return RefreshReport(stopped=stopped)
    until = time.monotonic() + turn_s
    progress = RefreshProgress.begin(services.redis, project_id, version, after_id)

    def note(report: RefreshReport, left: int) -> None:
        nonlocal progress
        done = report.refreshed + report.current + report.failed
        on_progress(done, done + left)
        progress = progress.after(done, report.refreshed, report.failed, left)
        progress.write(services.redis, project_id)

    try:
        report = _take_turn(client, services, project_id, version, after_id, note, until)
    except CaptionerError as problem:  # RQ tries again, and the page says why for as long as that fails
        progress.ended(str(problem), None).write(services.redis, project_id)
        raise
    if report.rest_after is not None:
        enqueue_refresh(services.redis, services.settings, project_id, version, report.rest_after, delay_s=REST_IN_S)
    progress.ended(report.stopped, report.rest_after).write(services.redis, project_id)
    outcome = (report.refreshed, report.current, report.failed, report.stopped)
    message = "predictions refreshed project=%s version=%s refreshed=%s current=%s failed=%s stopped=%s"
    logger.info(message, project_id, version, *outcome)
    return report


def _take_turn(
    client: LabelStudioClient,
    services: CaptioningServices,
    project_id: int,
    version: str,
    after_id: int,
    note: Callable[[RefreshReport, int], None],
    until: float,
) -> RefreshReport:
    """Write suggestions for tasks that nobody has annotated and that show another version, until a monotonic time.

    Args:
        note: is called after each batch, with the counts of this turn and the number of tasks that are left.
    """
    project = client.project(project_id)
    if chosen := client.chosen_predictions(project):
        return RefreshReport(stopped=CHOSEN.format(version=chosen))
    suggester = Suggester(services, project_id, parse_caption_controls(project.label_config))
    left = client.count_unannotated_tasks(project_id, after_id)
    report, last_id = RefreshReport(), after_id
    note(report, left)
    for tasks in in_batches(client.unannotated_tasks(project_id, after_id), TASKS_AT_ONCE):
        if last_id > after_id and time.monotonic() >= until:
            return replace(report, stopped="the rest follows", rest_after=last_id)
        if services.captioners.version_of(project_id) != version:
            return replace(report, stopped=NO_LONGER.format(version=version))
        label = Label.parse(services.label_of(project_id, suggester.form))
        since = read_generation(services.redis, project_id).reworded
        stale = [task for task in tasks if not _is_current(suggester, task, label, since)]
        written = _write(client, suggester, stale) if stale else 0
        report = RefreshReport(
            refreshed=report.refreshed + written,
            current=report.current + len(tasks) - len(stale),
            failed=report.failed + len(stale) - written,
        )
        last_id, left = int(tasks[-1]["id"]), left - len(tasks)
        note(report, left)
    return report


def refresh_look_alikes(
    client: LabelStudioClient,
    services: CaptioningServices,
    project_id: int,
    on_progress: Callable[[int, int], None],
) -> RefreshReport:
    """Write suggestions again for the tasks that look like images whose corrections changed.

    Args:
        on_progress: is called with the number of tasks done and the number of all tasks.

    Raises:
        LabelStudioError: tasks cannot be read or predictions not written; the next such refresh begins where this did.
        LabelConfigError: the project's labeling config has no caption.
        RedisError: Redis does not answer.
    """
    project = client.project(project_id)
    if chosen := client.chosen_predictions(project):
        return RefreshReport(stopped=CHOSEN.format(version=chosen))
    captioner = services.captioners.captioner_for(project_id)
    memory = services.memories.open(project_id, captioner)
    if memory is None:
        return RefreshReport(stopped="the memory cannot be read")
    task_ids, generation = memory.look_alikes(captioner.version)
    suggester = Suggester(services, project_id, parse_caption_controls(project.label_config))
    found: set[int] = set()
    refreshed = failed = 0
    for tasks in in_batches(client.tasks(project_id, task_ids), TASKS_AT_ONCE):
        open_tasks = [task for task in tasks if not task["annotations"]]
        found |= {int(task["id"]) for task in open_tasks}
        written = _write(client, suggester, open_tasks, only_changed=True)
        refreshed += written
        on_progress(len(found), len(task_ids))
    memory.tasks.mark(generation, set(task_ids) - found)
    logger.info("look-alikes refreshed project=%s looked_at=%s refreshed=%s", project_id, len(found), refreshed)
    return RefreshReport(refreshed=refreshed, current=len(found) - refreshed, failed=failed)


def _is_current(suggester: Suggester, task: Task, label: Label, since: int) -> bool:
    """Say whether Quick View shows a suggestion as it would be made now.

    Suggestions of earlier generations of the memory count as current: `refresh_look_alikes` renews those that are
    concerned. But they must be of the generation `since` or later.
    """
    newest = _newest(task)
    shown = Label.parse(str(newest["model_version"])) if newest else None
    if shown is None or (shown.version, shown.form) != (label.version, label.form):
        return False
    if (shown.generation is None) != (label.generation is None) or suggester.has_another_image(task):
        return False
    # A switched rule of wording may concern every suggestion. The label says whether a suggestion is older than the
    # switch. This refresh takes turns, so it reaches every task; that of look-alikes stops at LookAlikes' AT_ONCE.
    return shown.generation is None or shown.generation >= since


def _newest(task: Task) -> Mapping[str, Any] | None:
    """Return the prediction that Quick View shows."""
    return max(task["predictions"], key=lambda prediction: int(prediction["id"]), default=None)


def _write(
    client: LabelStudioClient, suggester: Suggester, tasks: Sequence[Task], *, only_changed: bool = False
) -> int:
    """Store suggestions as predictions in Label Studio; return how many tasks have a new prediction.

    Args:
        only_changed: leave out tasks whose newest prediction has the same captions.
    """
    shown = {int(task["id"]): _texts(_newest(task)) for task in tasks} if only_changed else {}
    suggested = [task for task in suggester.suggest(tasks) if task.error is None]
    of_tasks = {task.task_id: make_predictions(task.shown, task.model_version) for task in suggested}
    of_tasks = {task_id: made for task_id, made in of_tasks.items() if shown.get(task_id) != _texts(made[-1])}
    predictions = [{"task": task_id, **prediction} for task_id, made in of_tasks.items() for prediction in made]
    # Label Studio counts the alternatives of one task one by one. The log names the predictions that it refused.
    return min(len(of_tasks), client.import_predictions(suggester.project_id, predictions)) if predictions else 0


def _texts(prediction: Mapping[str, Any] | None) -> list[Any] | None:
    """Return the captions of a prediction."""
    return None if prediction is None else [texts_of(region) for region in prediction["result"]]
