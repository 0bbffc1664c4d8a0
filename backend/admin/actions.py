"""What operators do: each action changes one thing, stands in the audit log, and says in a sentence what it did."""

from collections.abc import Callable, Mapping

from backend.admin.access import current_user, write_down
from backend.admin.job_records import JobRecord
from backend.captioning.promotion import promote_version, roll_back
from backend.captioning.services import CaptioningServices
from model.errors import RequestError
from worker.queue.control import RetrainingControl, cancel_job, retry_job, stop_job
from worker.queue.retraining import enqueue_retraining
from worker.queue.trigger import retrain_when_due

Fields = Mapping[str, str]
ProjectAction = Callable[[CaptioningServices, int, Fields], str]
JobAction = Callable[[CaptioningServices, str], str]


def promote(services: CaptioningServices, project_id: int, fields: Fields) -> str:
    """Let another version serve."""
    return promote_version(services.settings, project_id, _field(fields, "version"), by=who())


def rollback(services: CaptioningServices, project_id: int, _fields: Fields) -> str:
    """Let the version serve that served before."""
    return roll_back(services.settings, project_id, by=who())


def train(services: CaptioningServices, project_id: int, _fields: Fields) -> str:
    """Start a retraining now, however few corrections wait."""
    job_id = enqueue_retraining(services.redis, services.settings, project_id, f"{who()} asked for it")
    return f"training is asked for: job {job_id}"


def pause(services: CaptioningServices, project_id: int, _fields: Fields) -> str:
    """Start no retraining any more."""
    RetrainingControl(services.redis, services.settings).pause(project_id)
    return f"project {project_id} is paused: corrections are kept, no training starts"


def drain(services: CaptioningServices, project_id: int, _fields: Fields) -> str:
    """Train what waits, then pause."""
    RetrainingControl(services.redis, services.settings).drain(project_id)
    return f"project {project_id} is draining: what waits is trained once more, then it pauses"


def resume(services: CaptioningServices, project_id: int, _fields: Fields) -> str:
    """Undo pause and drain."""
    RetrainingControl(services.redis, services.settings).resume(project_id)
    return f"project {project_id} learns again"


def exclude(services: CaptioningServices, project_id: int, fields: Fields) -> str:
    """Keep a correction out of training."""
    name = _field(fields, "correction")
    if not services.inbox.set_aside(project_id, name, f"{who()} excluded it"):
        raise RequestError(f"project {project_id} has no correction {name}, or it is excluded already")
    retrain_when_due(services.redis, services.settings, project_id)
    return f"correction {name} is not trained on any more; the next training learns without it"


def include(services: CaptioningServices, project_id: int, fields: Fields) -> str:
    """Train on a correction again."""
    name = _field(fields, "correction")
    if not services.inbox.use_again(project_id, name):
        raise RequestError(f"correction {name} of project {project_id} is not excluded")
    retrain_when_due(services.redis, services.settings, project_id)
    return f"correction {name} is trained on again"


PROJECT_ACTIONS: dict[str, ProjectAction] = {
    action.__name__: action for action in (promote, rollback, train, pause, drain, resume, exclude, include)
}


def stop(services: CaptioningServices, job_id: str) -> str:
    """Stop a running job."""
    stop_job(services.redis, job_id)
    return f"job {job_id} is being stopped; the serving version stays"


def cancel(services: CaptioningServices, job_id: str) -> str:
    """Cancel a job that waits."""
    cancel_job(services.redis, job_id)
    return f"job {job_id} is cancelled"


def retry(services: CaptioningServices, job_id: str) -> str:
    """Run a failed job again."""
    retry_job(services.redis, job_id)
    return f"job {job_id} waits to run again"


JOB_ACTIONS: dict[str, JobAction] = {action.__name__: action for action in (stop, cancel, retry)}


DONE = {
    "train": "training asked for",
    "pause": "learning paused",
    "drain": "learning drained",
    "resume": "learning resumed",
    "exclude": "correction excluded",
    "include": "correction used again",
    "stop": "job stopped",
    "cancel": "job cancelled",
    "retry": "job run again",
}
"""As the audit log has it; that another version serves is written down where it is done."""


def act_on_project(services: CaptioningServices, project_id: int, action: str, fields: Fields) -> str:
    """Do it, write down who did, and return what to tell the person."""
    said = PROJECT_ACTIONS[action](services, project_id, fields)
    if action in DONE:
        write_down(DONE[action], project_id, **fields)
    return said


def act_on_job(services: CaptioningServices, job: JobRecord, action: str) -> str:
    """Do it, write down who did, and return what to tell the person."""
    said = JOB_ACTIONS[action](services, job.job_id)
    write_down(DONE[action], job.project_id, job=job.job_id)
    return said


def who() -> str:
    """Return the name of the person who asks."""
    user = current_user()
    return user.name if user else "nobody"


def _field(fields: Fields, name: str) -> str:
    if not fields.get(name):
        raise RequestError(f"this action needs {name!r}")
    return fields[name]
