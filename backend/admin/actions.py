"""Actions of operators: each changes one thing, writes an entry into the audit log, and returns a sentence about it."""

from collections.abc import Callable, Mapping

from backend.admin.access import current_user, write_down
from backend.admin.job_records import JobRecord
from backend.captioning.judgement import read_judgements
from backend.captioning.project_style import read_switched_off, switch_rule
from backend.captioning.promotion import promote_version, roll_back
from backend.captioning.services import CaptioningServices
from model.errors import RequestError
from worker.queue.backend_jobs import enqueue_refresh
from worker.queue.control import RetrainingControl, cancel_job, retry_job, stop_job
from worker.queue.retraining import enqueue_retraining
from worker.queue.trigger import retrain_when_due

Fields = Mapping[str, str]
ProjectAction = Callable[[CaptioningServices, int, Fields], str]
JobAction = Callable[[CaptioningServices, str], str]


def promote(services: CaptioningServices, project_id: int, fields: Fields) -> str:
    """Make another version the serving version."""
    return promote_version(services.settings, project_id, _field(fields, "version"), by=current_user_name())


def rollback(services: CaptioningServices, project_id: int, _fields: Fields) -> str:
    """Go back to the version that served before."""
    return roll_back(services.settings, project_id, by=current_user_name())


def train(services: CaptioningServices, project_id: int, _fields: Fields) -> str:
    """Start a training now, even if few corrections wait."""
    job_id = enqueue_retraining(services.redis, services.settings, project_id, f"requested by {current_user_name()}")
    return f"a training was requested: job {job_id}"


def pause(services: CaptioningServices, project_id: int, _fields: Fields) -> str:
    """Start no more trainings; corrections are still stored."""
    RetrainingControl(services.redis, services.settings).pause(project_id)
    return f"project {project_id} is paused: corrections are stored, but no training starts"


def drain(services: CaptioningServices, project_id: int, _fields: Fields) -> str:
    """Train the waiting corrections once more, then pause."""
    RetrainingControl(services.redis, services.settings).drain(project_id)
    return f"project {project_id} is draining: the waiting corrections are trained once more, then it is paused"


def resume(services: CaptioningServices, project_id: int, _fields: Fields) -> str:
    """End a pause or a drain."""
    RetrainingControl(services.redis, services.settings).resume(project_id)
    return f"project {project_id} learns again"


def exclude(services: CaptioningServices, project_id: int, fields: Fields) -> str:
    """Exclude a correction from training and from the memory."""
    name = _field(fields, "correction")
    if not services.feedback.exclude(project_id, name, f"{current_user_name()} excluded it"):
        raise RequestError(f"project {project_id} has no correction {name}, or it is excluded already")
    retrain_when_due(services.redis, services.settings, project_id)
    return f"correction {name} is excluded; the next suggestion and the next training do without it"


def include(services: CaptioningServices, project_id: int, fields: Fields) -> str:
    """Include an excluded correction in training again."""
    name = _field(fields, "correction")
    if not services.feedback.include(project_id, name):
        raise RequestError(f"correction {name} of project {project_id} is not excluded")
    retrain_when_due(services.redis, services.settings, project_id)
    return f"correction {name} is included in training again"


def switch_off(services: CaptioningServices, project_id: int, fields: Fields) -> str:
    """Stop applying a rule of the project's wording."""
    rule = _switch(services, project_id, fields, is_off=True)
    return f"wording rule {rule!r} is switched off; the next suggestion does without it"


def switch_on(services: CaptioningServices, project_id: int, fields: Fields) -> str:
    """Apply a rule of the project's wording again."""
    rule = _switch(services, project_id, fields, is_off=False)
    return f"wording rule {rule!r} is switched on; it is applied whenever the corrections show it"


PROJECT_ACTIONS: dict[str, ProjectAction] = {
    action.__name__: action
    for action in (promote, rollback, train, pause, drain, resume, exclude, include, switch_off, switch_on)
}


def stop(services: CaptioningServices, job_id: str) -> str:
    """Stop a running job."""
    stop_job(services.redis, job_id)
    return f"job {job_id} is being stopped; the serving version stays"


def cancel(services: CaptioningServices, job_id: str) -> str:
    """Cancel a waiting job."""
    cancel_job(services.redis, job_id)
    return f"job {job_id} is cancelled"


def retry(services: CaptioningServices, job_id: str) -> str:
    """Run a failed job again."""
    retry_job(services.redis, job_id)
    return f"job {job_id} is queued again"


JOB_ACTIONS: dict[str, JobAction] = {action.__name__: action for action in (stop, cancel, retry)}

AUDIT_WORDS = {
    "train": "training requested",
    "pause": "learning paused",
    "drain": "learning drained",
    "resume": "learning resumed",
    "exclude": "correction excluded",
    "include": "correction included",
    "switch_off": "wording rule switched off",
    "switch_on": "wording rule switched on",
    "stop": "job stopped",
    "cancel": "job cancelled",
    "retry": "job run again",
}
"""The audit log's words for an action. Promotion and rollback write their own entries."""


def act_on_project(services: CaptioningServices, project_id: int, action: str, fields: Fields) -> str:
    """Do the action, write it into the audit log, and return the sentence about it."""
    outcome = PROJECT_ACTIONS[action](services, project_id, fields)
    if action in AUDIT_WORDS:
        write_down(AUDIT_WORDS[action], project_id, **fields)
    return outcome


def act_on_job(services: CaptioningServices, job: JobRecord, action: str) -> str:
    """Do the action, write it into the audit log, and return the sentence about it."""
    outcome = JOB_ACTIONS[action](services, job.job_id)
    write_down(AUDIT_WORDS[action], job.project_id, job=job.job_id)
    return outcome


def current_user_name() -> str:
    user = current_user()
    return user.name if user else "nobody"


def _switch(services: CaptioningServices, project_id: int, fields: Fields, *, is_off: bool) -> str:
    """Switch the rule that the fields name, let the stored suggestions follow, and return its name."""
    name, version = _field(fields, "rule"), services.captioners.version_of(project_id)
    judgements = read_judgements(services.redis, project_id, version)
    found = {rule.name for judgement in judgements.values() for rule in judgement.style}
    if name not in found | read_switched_off(services.redis, project_id):
        raise RequestError(f"project {project_id} has no wording rule {name!r}")
    switch_rule(services.redis, project_id, name, is_off=is_off)
    enqueue_refresh(services.redis, services.settings, project_id, version)
    return name


def _field(fields: Fields, name: str) -> str:
    if not fields.get(name):
        raise RequestError(f"this action needs {name!r}")
    return fields[name]
