"""A project's corrections as a captions file for other programs, with or without the images."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

from PIL import Image
from redis import Redis

from backend.images.backfill import find_image_ref
from backend.images.fetcher import ImageFetcher
from backend.images.refusals import shown
from backend.images.task_images import decode_fetched
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.public_address import PublicAddress
from backend.protocol.label_config import INSIDE_TASK
from model.caption_files.image_names import image_names
from model.caption_files.read import LeftOut
from model.caption_files.write import IMAGE_FOLDERS, Layout, write_captions
from model.errors import ImageError, LabelStudioError, SettingsError
from model.progress import OnProgress, Progress
from worker.feedback.feedback_store import FeedbackStore
from worker.feedback.layout import open_layout
from worker.feedback.record import Correction
from worker.settings import Settings

FETCH_THREADS = 4
"""A fetched image is decoded to see that it is one, so as many are held in memory."""

_FORBIDDEN = re.compile(r"[^\w.\- ]")
_LONGEST_NAME = 60
"""In letters, of which each may take four bytes; most disks allow 255."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    file: Path
    images: int
    captions: int
    left_out: LeftOut


def export_captions(
    redis: Redis,
    settings: Settings,
    project_id: int,
    layout: Layout,
    out: Path,
    *,
    with_images: bool,
    on_progress: OnProgress,
) -> Exported:
    """Write a project's corrections, those that people excluded from training left out.

    Args:
        redis: holds the corrections.
        settings: of Label Studio, which has the images.
        project_id: Label Studio's.
        layout: of the file.
        out: directory to write into; it is made, and must be empty.
        with_images: fetch the images and name their files; otherwise the file has their addresses.
        on_progress: is told of fetched images.

    Raises:
        SettingsError: the project has no corrections, or `out` is not empty.
    """
    open_layout(redis)
    left_out = LeftOut()
    of_image = _corrections_by_image(FeedbackStore(redis), project_id, left_out)
    if not of_image:
        raise SettingsError(
            f"project {project_id} has no corrections to export; {left_out.summary()}. `captioner ledger {project_id}` "
            "shows what was recorded"
        )
    folder = out / IMAGE_FOLDERS[layout]
    _make_empty(out)
    if with_images:
        folder.mkdir(exist_ok=True)
        names = _Images(settings, redis, folder).fetch(of_image, left_out, on_progress)
    else:
        names = _references(of_image, left_out)
    captions = {name: [str(correction.caption) for correction in of_image[ref]] for ref, name in names.items()}
    file = write_captions(out, layout, captions)
    return Exported(file=file, images=len(captions), captions=sum(map(len, captions.values())), left_out=left_out)


def _corrections_by_image(feedback: FeedbackStore, project_id: int, left_out: LeftOut) -> dict[str, list[Correction]]:
    excluded = feedback.excluded(project_id)
    of_image: dict[str, list[Correction]] = {}
    for correction in feedback.corrections(project_id):
        if correction.name in excluded:
            left_out.add("excluded corrections", f"annotation {correction.name}")
        else:
            of_image.setdefault(correction.image_ref, []).append(correction)
    return of_image


def _make_empty(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        is_empty = not any(out.iterdir())
    except OSError as cause:
        raise SettingsError(f"--out {out}: no directory can be made there ({cause})") from cause
    if not is_empty:
        raise SettingsError(f"--out {out}: the directory is not empty; name a new one")


def _references(image_refs: Mapping[str, Sequence[Correction]], left_out: LeftOut) -> dict[str, str]:
    """Return the name of each image in the file, which is its address."""
    for ref, corrections in image_refs.items():
        if ref.startswith(INSIDE_TASK):
            left_out.add("images inside of their tasks (--images fetches them)", f"task {corrections[0].task_id}")
    return {ref: ref for ref in image_refs if not ref.startswith(INSIDE_TASK)}


class _Images:
    """Fetches images into a directory."""

    def __init__(self, settings: Settings, redis: Redis, folder: Path) -> None:
        self.client = LabelStudioClient.from_settings(settings)
        self.fetcher = ImageFetcher.from_settings(settings, PublicAddress(redis))
        self.folder = folder

    def fetch(
        self, image_refs: Mapping[str, Sequence[Correction]], left_out: LeftOut, on_progress: OnProgress
    ) -> dict[str, str]:
        """Return the file name of each image that was written; the others are added to `left_out`."""
        names: dict[str, str] = {}
        with ThreadPoolExecutor(FETCH_THREADS) as threads:
            outcomes = threads.map(self._fetch, [corrections[0] for corrections in image_refs.values()])
            for done, (ref, outcome) in enumerate(zip(image_refs, outcomes, strict=True), start=1):
                if isinstance(outcome, bytes):
                    names[ref] = self._write(ref, outcome)
                else:
                    left_out.add("images that cannot be fetched", f"{shown(ref)}: {outcome}")
                on_progress(Progress(phase="fetch images", done=done, total=len(image_refs)))
        return names

    def _fetch(self, correction: Correction) -> bytes | ImageError | LabelStudioError:
        try:
            content = self.fetcher.fetch(find_image_ref(self.client, correction), correction.task_id)
            decode_fetched(content)
        except (ImageError, LabelStudioError) as problem:
            return problem
        return content

    def _write(self, image_ref: str, content: bytes) -> str:
        name = file_name_of(image_ref, content)
        if (self.folder / name).exists():
            name = f"{hashlib.sha256(image_ref.encode()).hexdigest()[:8]}-{name}"
        (self.folder / name).write_bytes(content)
        return name


def file_name_of(image_ref: str, content: bytes) -> str:
    """Return a file name for an image: that of its address, with the extension of its content if it has none."""
    digest = hashlib.sha256(content).hexdigest()[:16]
    # All names but an upload's last one end as the address does.
    names = image_names(image_ref)[:2]
    name = _FORBIDDEN.sub("_", PurePosixPath(names[-1]).name if names else digest).strip(". ") or digest
    stem, suffix = PurePosixPath(name).stem, PurePosixPath(name).suffix
    if suffix.lower() not in {*Image.registered_extensions(), ".heic", ".heif"}:
        stem, suffix = name, _suffix_of(content)
    return stem[:_LONGEST_NAME] + suffix


def _suffix_of(content: bytes) -> str:
    try:
        with Image.open(BytesIO(content)) as image:
            return f".{str(image.format).lower().replace('jpeg', 'jpg')}"
    except OSError:  # a form that only our own reader knows
        return ".img"
