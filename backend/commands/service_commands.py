"""Commands that run the product or manage its users: serve, worker, demo, doctor, user."""

import getpass
import sys
from pathlib import Path
from typing import Literal

import click

from backend.commands import shared_options as shared
from model.errors import SettingsError


@shared.command("PORT=9191 captioner serve")
def serve() -> int:
    """Answer Label Studio at HOST and PORT.

    The backend suggests captions and stores corrections.
    """
    from backend import wsgi

    wsgi.serve(shared.read_settings())
    return 0


@shared.command("captioner worker --queues label-studio retrain --burst")
@shared.option(
    "--queues", multiple=True, metavar="QUEUE...", help="Queues to serve, the first one first: label-studio, retrain."
)
@click.argument("further_queues", nargs=-1, metavar="")
@shared.flag("--burst", help="End when the queues are empty.")
@shared.flag("--alive", help="Run nothing; exit with 0 if a worker runs on this machine, else with 1.")
def worker(queues: tuple[str, ...], further_queues: tuple[str, ...], burst: bool, alive: bool) -> int:
    """Run the queued jobs: retrainings and requests to Label Studio.

    Without --queues both queues are served, label-studio first.
    """
    # An option of click takes a fixed number of words, so the second queue of `--queues A B` arrives as an argument.
    if further_queues and not queues:
        raise click.UsageError(f"Got unexpected extra argument ({further_queues[0]}).")
    if alive:
        from worker.queue.heartbeats import is_worker_alive

        return 0 if is_worker_alive(shared.read_settings().redis_url) else 1
    from worker.__main__ import main

    names = ["--queues", *queues, *further_queues] if queues else []
    return main([*names, *(["--burst"] if burst else [])])


@shared.command("captioner demo --photos my-pictures")
@shared.option("--photos", type=shared.PATH, metavar="DIR", help="Use the pictures of this directory, not drawn ones.")
@shared.flag("--check", help="Play the annotator, print JSON, and exit with 0 if everything worked.")
@shared.option(
    "--no-label-studio",
    is_flag=True,
    help="Run only Redis, backend and worker, for the Label Studio at LABEL_STUDIO_URL. State is kept in .run/.",
)
@shared.option("--setup-seconds", type=int, default=0, metavar="S", help="Time of the installation, for the summary.")
def demo(photos: Path | None, check: bool, no_label_studio: bool, setup_seconds: int) -> int:
    """Run the whole product here, Label Studio included."""
    from backend.demo import product
    from backend.demo.check import check_demo

    shared.refuse_together(photos=photos, check=check, no_label_studio=no_label_studio)
    if check:
        return check_demo(setup_seconds)
    if no_label_studio:
        return product.run_without_label_studio()
    return product.run_demo(photos, setup_seconds)


@shared.command("captioner doctor --repair")
@shared.flag("--repair", help="Repair what can be repaired, such as webhook headers.")
def doctor(repair: bool) -> int:
    """Check everything that the product needs, a line each."""
    from backend.doctor.examination import examine
    from worker.audit import write_once

    settings = shared.read_settings()
    if repair:
        write_once(settings.redis_url, shared.audit_name(), "repair asked for")
    return examine(settings, repair=repair)


@shared.command("captioner config --image photo")
@shared.option("--image", default="image", metavar="FIELD", help="Field of the tasks' data that names the image.")
@shared.option("--caption", default="caption", metavar="NAME", help="Name of the field for captions.")
def config(image: str, caption: str) -> int:
    """Print a labeling config: the picture and its caption side by side.

    Paste it into Settings > Labeling Interface > Code of a project.
    """
    from backend.protocol.label_config import good_label_config

    print(good_label_config(image, caption))
    return 0


@shared.command("captioner user anna --role viewer")
@click.argument("name")
@shared.option(
    "--role",
    type=click.Choice(["viewer", "operator"]),
    help="Viewers read everything. Operators also act.",
)
@shared.flag("--remove", help="Remove this person.")
def user(name: str, role: Literal["viewer", "operator"] | None, remove: bool) -> int:
    """Add or remove a person who may sign in to the admin pages.

    NAME is the name for signing in. An existing NAME gets a new password and role. The password is asked for,
    or read from the first line of standard input. People are kept in ADMIN_USERS_FILE.
    """
    from backend.admin.users import remove_user, write_user
    from worker.audit import write_once

    shared.refuse_together(role=role, remove=remove)
    if role is None and not remove:
        raise click.UsageError("One of --role and --remove is needed.")
    settings = shared.read_settings()
    if role is None:
        remove_user(settings, name)
        write_once(settings.redis_url, shared.audit_name(), "user removed", name=name)
        print(f"{name} can no longer sign in")
        return 0
    is_known = write_user(settings, name, role, _ask_password(name))
    action = "user changed" if is_known else "user added"
    write_once(settings.redis_url, shared.audit_name(), action, name=name, role=role)
    print(f"{name} can sign in at /admin/login as {role}")
    return 0


def _ask_password(name: str) -> str:
    """Ask twice on a terminal; elsewhere read the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass(f"password of {name}: ")
    if getpass.getpass("the same password again: ") != password:
        raise SettingsError("the two passwords differ; nothing was changed")
    return password
