"""The whole product on this machine, for a person to try: Redis, backend, worker and a real Label Studio.

pictures -> processes -> project with the backend connected -> what to try -> Ctrl-C -> nothing is left running
"""

import itertools
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from backend.demo.child_processes import (
    LOOPBACK,
    LabelStudioAccount,
    Service,
    Services,
    captioner_command,
    free_port,
    our_environment,
    start_backend_and_worker,
    start_label_studio,
    start_redis,
)
from backend.demo.user import LabelStudioUser
from model.errors import ServiceError
from worker.settings import setting_rows

DEMO_HOME = Path(".demo")
RUN_HOME = Path(".run")
PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
HOUSE_STYLE_OF_SCENES = 'call every circle a "ball"'
HOUSE_STYLE_OF_PHOTOS = 'call every dog a "puppy"'
SCENES = 90
FIRST_SCENE = 7_000_000
CHOSEN_BY_PERSON = (
    "ADMIN_USERS_FILE",
    "CAPTION_BUNDLE",
    "BEAM_SIZE",
    "ALTERNATIVES",
    "RETRAIN_AFTER",
    "RETRAIN_IDLE_S",
    "RETRAIN_BUDGET_S",
    "GATE_CONFIDENCE",
    "GATE_TOLERANCE",
    "ROLLBACK_MARGIN",
    "KEEP_VERSIONS",
    "KEEP_FEATURES_GB",
    "RECONCILE_EVERY_S",
    "REFRESH_PREDICTIONS",
    "HIDE_SUGGESTIONS_SHARE",
    "DECODER_ALONE_SHARE",
    "ALLOWED_IMAGE_HOSTS",
    "LOG_FORMAT",
)
"""Settings that the demo takes from the environment; it sets the others itself."""


@dataclass(frozen=True, kw_only=True)
class DemoProduct:
    """The running processes and their addresses."""

    directory: Path
    services: Services
    worker: Service
    settings: Mapping[str, str]
    """The environment of backend and worker."""
    account: LabelStudioAccount
    label_studio_url: str
    user: LabelStudioUser
    project_id: int
    backend_id: int

    @property
    def backend_url(self) -> str:
        return f"http://{self.settings['HOST']}:{self.settings['PORT']}"


class Narrator:
    """Prints what happens, with the seconds since `make` began."""

    def __init__(self, setup_s: float) -> None:
        self._began = time.monotonic() - setup_s

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def say(self, line: str) -> None:
        print(f"[{self.elapsed_s:5.1f} s] {line}", flush=True)


def run_demo(photos: Path | None, setup_s: float) -> int:
    """Show the product until Ctrl-C; returns the exit code."""
    narrator = Narrator(setup_s)
    with demo_product(photos, narrator) as product:
        print(what_to_try(product, HOUSE_STYLE_OF_PHOTOS if photos else HOUSE_STYLE_OF_SCENES), flush=True)
        wait_for_end(product.services)
    return 0


def run_without_label_studio() -> int:
    """Run Redis, backend and worker for a Label Studio that already exists; state is kept in `.run/`."""
    directory = RUN_HOME.resolve()
    with stopped_by_signals(), Services(directory / "logs") as services:
        redis = start_redis(services, directory / "redis")
        port = free_port(int(os.environ.get("PORT") or 9090))
        defaults = {
            "HOST": LOOPBACK,
            "MODEL_STORE": str(directory / "store"),
            "LABEL_STUDIO_URL": "http://localhost:8080",
        }
        settings = defaults | _given([row.name for row in setting_rows()]) | {"REDIS_URL": redis.url, "PORT": str(port)}
        backend, _ = start_backend_and_worker(services, settings)
        print(f"Connect {backend.url} in Label Studio: project > Settings > Model > Connect Model", flush=True)
        print("Then run `captioner doctor --repair` with the same settings. Ctrl-C stops everything.", flush=True)
        wait_for_end(services)
    return 0


@contextmanager
def demo_product(
    photos: Path | None, narrator: Narrator, changes: Mapping[str, str] | None = None
) -> Iterator[DemoProduct]:
    """Start everything in a new directory, which is deleted at the end unless something went wrong.

    Args:
        photos: directory of pictures, or None for drawn scenes.
        narrator: prints every step.
        changes: settings that replace those of the demo.
    """
    DEMO_HOME.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=DEMO_HOME.resolve()))
    pictures = photo_files(photos) if photos else draw_pictures(directory / "pictures")
    narrator.say(f"{len(pictures)} pictures are ready")
    with stopped_by_signals(), Services(directory / "logs") as services:
        yield _start(services, directory, pictures, chosen_bundle(photos) | dict(changes or {}), narrator)
    shutil.rmtree(directory, ignore_errors=True)


def chosen_bundle(photos: Path | None) -> dict[str, str]:
    """Return CAPTION_BUNDLE from the environment, or else the built-in one for these pictures."""
    return {"CAPTION_BUNDLE": "photos" if photos else "scenes"} | _given(["CAPTION_BUNDLE"])


def _start(
    services: Services, directory: Path, pictures: Sequence[Path], changes: Mapping[str, str], narrator: Narrator
) -> DemoProduct:
    account = LabelStudioAccount(
        username="demo@example.com", password=secrets.token_urlsafe(9), token=secrets.token_hex(20)
    )
    label_studio = start_label_studio(services, directory / "label-studio", account, port=free_port(8080))
    narrator.say(f"Label Studio is up at {label_studio.url}")
    redis = start_redis(services, directory / "redis")
    narrator.say(f"Redis is up at {redis.url}")
    settings = demo_settings(directory / "store", redis.url, label_studio.url, account.token)
    settings |= changes
    backend, worker = start_backend_and_worker(services, settings)
    narrator.say(f"the backend is up at {backend.url}, and the worker too")
    user = LabelStudioUser(label_studio.url, account)
    project_id = user.create_project("Image captions")
    user.upload(project_id, pictures)
    backend_id = user.connect_backend(project_id, backend.url, settings["BASIC_AUTH_USER"], settings["BASIC_AUTH_PASS"])
    narrator.say("the project has its pictures and its backend")
    repair(settings)
    narrator.say("captioner doctor finds no problem")
    return DemoProduct(
        directory=directory,
        services=services,
        worker=worker,
        settings=settings,
        account=account,
        label_studio_url=label_studio.url,
        user=user,
        project_id=project_id,
        backend_id=backend_id,
    )


def demo_settings(store: Path, redis_url: str, label_studio_url: str, api_key: str) -> dict[str, str]:
    """Return the environment of backend and worker, with new secrets: the variables docker-compose.yml sets."""
    defaults = {row.name: row.default for row in setting_rows() if row.name in CHOSEN_BY_PERSON}
    return (
        defaults
        | _given(CHOSEN_BY_PERSON)
        | {
            "HOST": LOOPBACK,
            "PORT": str(free_port(9090)),
            "REDIS_URL": redis_url,
            "MODEL_STORE": str(store),
            "LABEL_STUDIO_URL": label_studio_url,
            "LABEL_STUDIO_API_KEY": api_key,
            "BASIC_AUTH_USER": "captioner",
            "BASIC_AUTH_PASS": secrets.token_urlsafe(9),
            "WEBHOOK_SECRET": secrets.token_urlsafe(24),
        }
    )


def repair(settings: Mapping[str, str]) -> None:
    """Run `captioner doctor --repair`, which adds the password to the webhook and switches prelabeling on.

    Raises:
        ServiceError: something is wrong that it cannot repair; with its findings.
    """
    command = [*captioner_command("doctor"), "--repair"]
    findings = subprocess.run(command, env=our_environment(settings), capture_output=True, text=True, check=False)
    if findings.returncode != 0:
        raise ServiceError(f"captioner doctor found problems:\n{findings.stdout}{findings.stderr}")


def photo_files(directory: Path) -> list[Path]:
    """Return the pictures of a directory, by name."""
    if not directory.is_dir():
        raise ServiceError(f"PHOTOS must be a directory, got {directory}")
    pictures = sorted(path for path in directory.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    if not pictures:
        raise ServiceError(
            f"no pictures in {directory}; their names must end with {', '.join(sorted(PICTURE_SUFFIXES))}"
        )
    return pictures


def draw_pictures(directory: Path) -> list[Path]:
    """Draw scenes that no training has seen into the directory; `scene-7.png` is the picture of scene 7.

    At least two of three show a circle, so that a new word for circles is soon learned.
    """
    from backend.demo.scenes import draw_scene, sample_scene

    directory.mkdir(parents=True)
    paths: list[Path] = []
    for seed in itertools.count(FIRST_SCENE):
        scene = sample_scene(seed)
        if len(paths) % 3 == 2 or any(group.shape == "circle" for group in scene.groups):
            paths.append(directory / f"scene-{seed}.png")
            draw_scene(scene).save(paths[-1])
        if len(paths) == SCENES:
            return paths
    raise AssertionError("seeds never end")


def what_to_try(product: DemoProduct, house_style: str) -> str:
    settings = product.settings
    return f"""
  Label Studio   {product.label_studio_url}/projects/{product.project_id}/data
  login          {product.account.username}   {product.account.password}
  admin          {product.backend_url}/admin/   {settings["BASIC_AUTH_USER"]}   {settings["BASIC_AUTH_PASS"]}

  1. Sign in and press "Label All Tasks". A caption is already there.
  2. Submit it. Or click on it, correct it and submit. Try words of your own: {house_style}.
  3. After a few corrections, choose Start Training in Settings > Model > the menu of the backend.
     (A training also starts by itself after {settings["RETRAIN_AFTER"]} corrections.) It takes about a minute.
  4. Go on labeling. The next suggestions come from the new version.

  Logs are in {product.services.logs}. Ctrl-C stops everything.
"""


def wait_for_end(services: Services) -> None:
    """Return at Ctrl-C or SIGTERM.

    Raises:
        ServiceError: a process ended by itself.
    """
    try:
        while True:
            for service in services.running:
                try:
                    service.process.wait(0.5)
                except subprocess.TimeoutExpired:
                    continue
                raise ServiceError(f"{service.name} ended; {service.log} says:\n{service.last_lines()}")
    except KeyboardInterrupt:
        print("\nstopping", flush=True)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Treat SIGTERM and a closed terminal like Ctrl-C."""
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _given(names: Sequence[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if os.environ.get(name)}
