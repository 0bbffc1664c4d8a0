"""Commands on a project: its model versions and the feedback of its annotators."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from backend.commands import shared_options as shared
from model.errors import SettingsError


@shared.command("captioner versions 1")
@shared.project_argument
@shared.flag("--json", "as_json", help="Print everything that is recorded about the versions, as JSON.")
def versions(project: int, as_json: bool) -> int:
    """List a project's model versions and the one it uses.

    PROJECT is the number in the project's address in Label Studio.
    """
    from backend.captioning.memory_report import memory_json
    from backend.captioning.promotion import open_registry, serving_memory, version_lines

    settings = shared.read_settings()
    registry = open_registry(settings)
    memory = serving_memory(settings, registry, project)
    if as_json:
        records = [asdict(version) for version in registry.versions(project)]
        serving = registry.serving(project)
        memory_values = None if memory is None else memory_json(memory)
        versions = {"bundle": registry.base_version, "memory": memory_values, "versions": records}
        print(json.dumps({"serving": serving} | versions, indent=1))
    else:
        print("\n".join(version_lines(registry, project, memory)))
    return 0


@shared.command("captioner promote 1 v2-9f8e7d6c")
@shared.project_argument
@click.argument("version")
def promote(project: int, version: str) -> int:
    """Serve another model version to a project.

    PROJECT is the number in the project's address. VERSION is a name that `captioner versions PROJECT` lists.
    """
    from backend.captioning.promotion import promote_version

    print(promote_version(shared.read_settings(), project, version, by=shared.audit_name()))
    return 0


@shared.command("captioner rollback 1")
@shared.project_argument
def rollback(project: int) -> int:
    """Serve the earlier model version to a project again.

    PROJECT is the number in the project's address in Label Studio.
    """
    from backend.captioning.promotion import roll_back

    print(roll_back(shared.read_settings(), project, by=shared.audit_name()))
    return 0


@shared.command("captioner retrain")
@click.argument("project", type=int, required=False)
def retrain(project: int | None) -> int:
    """Train a project on all of its corrections now, or every project.

    PROJECT is the number in the project's address in Label Studio. Without it every project is trained that has
    corrections. After a change of CAPTION_BUNDLE the training starts from the new bundle.
    """
    from backend.captioning.promotion import request_trainings

    refused = 0
    for requested in request_trainings(shared.read_settings(), project, by=shared.audit_name()):
        print(requested.message)
        refused += requested.job_id is None
    return 1 if refused else 0


@shared.command("captioner forget 1")
@shared.project_argument
@shared.option(
    "--annotator", type=int, metavar="ID", help="Only the captions of this person, by Label Studio's user id."
)
@shared.flag("--yes", help="Do not ask first.")
def forget(project: int, annotator: int | None, yes: bool) -> int:
    """Remove a project's captions, features and versions, or one person's captions.

    PROJECT is the number in the project's address in Label Studio. A project that is still connected must be
    disconnected first, because the next pull would bring its captions back. One person's captions stay away.
    """
    from backend.sync.forgetting import forget_by

    settings = shared.read_settings()
    what = "everything that is kept" if annotator is None else f"all captions of person {annotator} that are kept"
    if not (yes or click.confirm(f"Remove {what} of project {project}? This cannot be undone.")):
        print("nothing was removed")
        return 1
    print(forget_by(settings, project, annotator, by=shared.audit_name()))
    return 0


@shared.command("captioner backup captions.tar.gz")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup(file: Path) -> int:
    """Write everything that cannot be made again into a file.

    These are the corrections, the suggestions, the versions and the audit log of all projects. Everything may run
    meanwhile. The file holds people's captions, so keep it as safe as Redis.
    """
    from worker.feedback.backup import write_backup

    keys, files = shared.with_redis_and_store(lambda redis, store: write_backup(redis, store, file))
    print(f"wrote {keys} keys of Redis and {files} files of the model store to {file}")
    return 0


@shared.command("captioner restore captions.tar.gz")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def restore(file: Path) -> int:
    """Put a backup into an empty Redis and into the model store.

    Start Redis first, and backend and worker afterwards. What annotators did since the backup is pulled from Label
    Studio.
    """
    from worker.feedback.backup import restore_backup

    keys, files = shared.with_redis_and_store(lambda redis, store: restore_backup(redis, store, file))
    print(f"restored {keys} keys of Redis and {files} files of the model store")
    return 0


@shared.command("captioner ledger 1 --csv > ledger.csv")
@shared.project_argument
@shared.flag("--json", "as_json", help="Print all numbers, as JSON.")
@shared.flag("--csv", "as_csv", help="Print a line for each annotation, for spreadsheets.")
def ledger(project: int, as_json: bool, as_csv: bool) -> int:
    """Show how annotators judged a project's suggestions.

    Counts by model version and by annotator. PROJECT is the number in the project's address in Label Studio.
    """
    from redis import RedisError

    from backend.commands.ledger_report import csv_lines, ledger_json, ledger_lines
    from model.store import Store
    from worker.feedback.feedback_store import FeedbackStore
    from worker.feedback.layout import open_layout
    from worker.feedback.score_calibration import read_calibration
    from worker.feedback.totals import read_ledger
    from worker.redis_client import connect
    from worker.settings import hide_password

    shared.refuse_together(json=as_json, csv=as_csv)
    settings = shared.read_settings()
    try:
        with connect(settings.redis_url) as redis:
            open_layout(redis)
            if as_csv:
                sys.stdout.writelines(csv_lines(FeedbackStore(redis).records(project)))
                return 0
            totals = read_ledger(redis, project)
    except RedisError as cause:
        raise SettingsError(
            f"no Redis answers at {hide_password(settings.redis_url)} ({cause}); start it, or set REDIS_URL"
        ) from cause
    calibration = read_calibration(Store(settings.model_store), project)
    if as_json:
        print(json.dumps(ledger_json(totals, calibration), indent=1))
    else:
        print("\n".join(ledger_lines(totals, calibration, with_arms=settings.hide_suggestions_share > 0)))
    return 0
