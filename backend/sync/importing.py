"""Captions of a file become annotations of a project's tasks in Label Studio, which stays the source of truth.

The backend hears of them by webhook or by the pull, as of any annotation. They belong to the user of the API key.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from backend.label_studio.client import LabelStudioClient, Task
from backend.protocol.annotations import parse_annotation
from backend.protocol.label_config import CaptionControl, parse_caption_controls, read_image_ref
from model.caption_files.image_names import image_names, is_address, plain_name, upload_name
from model.caption_files.read import LeftOut, captions_by_image
from model.caption_files.row import Row
from model.errors import RequestError, SettingsError, TaskError
from model.progress import OnProgress, Progress


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of the captions of a file."""

    added: int
    """New annotations; with a dry run those that would be added."""
    present: int
    """Captions that their task has already."""
    left_out: LeftOut


def import_captions(
    client: LabelStudioClient,
    project_id: int,
    rows: Iterable[Row],
    *,
    control: str | None = None,
    dry_run: bool = False,
    on_progress: OnProgress,
) -> Imported:
    """Add an annotation for each caption of a file whose image is that of one task. It can be repeated.

    A task that has other annotations, or that somebody skipped, is left as it is.

    Args:
        client: of Label Studio.
        project_id: Label Studio's.
        rows: of the file.
        control: name of the TextArea; needed if the labeling config has several.
        dry_run: add nothing.
        on_progress: is told of added annotations.

    Raises:
        CaptionFileError: the file cannot be read; nothing was added.
        LabelConfigError, SettingsError: it is not certain which TextArea is meant.
        LabelStudioError: Label Studio does not do it; what was added stays, and the next import adds the rest.
    """
    left_out = LeftOut()
    captions = captions_by_image(rows, left_out)
    chosen = _choose_control(parse_caption_controls(client.project(project_id).label_config), control)
    tasks = _TasksByName(client.all_tasks(project_id), chosen)
    wanted = _captions_by_task(captions, tasks, left_out)
    missing: list[tuple[int, str]] = []
    present = 0
    for task_id, texts in wanted.items():
        there = _captions_of(tasks.by_id[task_id], chosen)
        if there is None or not there <= set(texts):
            left_out.add("tasks with other annotations", f"task {task_id}")
            continue
        missing += [(task_id, text) for text in dict.fromkeys(texts) if text not in there]
        present += len(there)
    for done, (task_id, text) in enumerate([] if dry_run else missing, start=1):
        client.create_annotation(task_id, [_region(chosen, text)])
        on_progress(Progress(phase="add annotations", done=done, total=len(missing)))
    return Imported(added=len(missing), present=present, left_out=left_out)


def _choose_control(controls: Sequence[CaptionControl], name: str | None) -> CaptionControl:
    names = [control.from_name for control in controls]
    if name is None and len(controls) > 1:
        raise SettingsError(f"the labeling config has several captions: choose {' or '.join(names)} with --control")
    if name is not None and name not in names:
        raise SettingsError(f"--control {name}: the labeling config has no such caption, it has {', '.join(names)}")
    return controls[0 if name is None else names.index(name)]


def _captions_by_task(
    captions: Mapping[str, list[str]], tasks: "_TasksByName", left_out: LeftOut
) -> dict[int, list[str]]:
    names_of: dict[int, list[str]] = {}
    for name in captions:
        found = tasks.find(name)
        if len(found) == 1:
            names_of.setdefault(found.pop(), []).append(name)
        else:
            left_out.add("images of several tasks" if found else "images without a task", name)
    for task_id, names in names_of.items():
        if len(names) > 1:  # train/1.jpg and val/1.jpg, of which an upload has only the last part
            left_out.add("tasks that several images of the file may be", f"task {task_id}: {' and '.join(names[:2])}")
    return {task_id: captions[names[0]] for task_id, names in names_of.items() if len(names) == 1}


class _TasksByName:
    """The tasks of a project by the names that their images may have."""

    def __init__(self, tasks: Iterable[Task], control: CaptionControl) -> None:
        self.by_id: dict[int, Task] = {}
        self._by_name: dict[str, set[int]] = {}
        for task in tasks:
            try:
                image_ref = read_image_ref(task["data"], control)
            except TaskError:
                continue
            self.by_id[int(task["id"])] = task
            for name in _spellings(image_ref):
                self._by_name.setdefault(name, set()).add(int(task["id"]))

    def find(self, name: str) -> set[int]:
        """Return the tasks of an image. A longer part of the name that fits counts more than its last part."""
        for spelling in _spellings(name):
            if found := self._by_name.get(spelling):
                return set(found)
        return set()


def _spellings(name: str) -> list[str]:
    """Return the forms in which names are compared: as written first, the least certain one last."""
    names = image_names(name)
    last_parts = [PurePosixPath(part).name for part in names]
    if not is_address(name):
        # A plain name may be that of a file before it was uploaded.
        last_parts.append(upload_name(last_parts[-1]))
    return list(dict.fromkeys([*names, *map(plain_name, last_parts)]))


def _captions_of(task: Task, control: CaptionControl) -> set[str] | None:
    """Return the captions of a task's annotations; None if one of them is skipped, empty or cannot be read."""
    captions = set()
    for annotation in task["annotations"]:
        try:
            state = parse_annotation(annotation, task, int(task["project"]), [control])
        except RequestError:
            return None
        if not state.submissions:
            return None
        captions |= {submission.caption for submission in state.submissions}
    written = {caption for caption in captions if caption is not None}
    return written if len(written) == len(captions) else None


def _region(control: CaptionControl, text: str) -> dict[str, object]:
    return {
        "from_name": control.from_name,
        "to_name": control.to_name,
        "type": "textarea",
        "value": {"text": [text]},
    }
