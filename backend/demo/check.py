"""`make demo-check`: a program plays the annotator in the demo and judges what Label Studio then suggests.

The annotator's team calls a circle a ball. The captioner must learn this from corrections, use it for pictures that
nobody corrected, and still describe them correctly.
"""

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field

import requests

from backend.demo.child_processes import wait_until
from backend.demo.product import DemoProduct, Narrator, demo_product
from backend.demo.scenes import sample_scene, write_captions, wrong_facts
from backend.demo.scenes.scene import Scene
from backend.demo.user import ShownSuggestion, ShownTask
from model.errors import CaptionerError, ServiceError
from worker.feedback.suggestions import version_of_label

HOUSE_WORDS = {"circle": "ball", "circles": "balls"}
CORRECTIONS = 20
ONLY_WHEN_ASKED = {"RETRAIN_AFTER": "1000", "RETRAIN_IDLE_S": "0"}
"""Only the check itself starts a training, with Start Training."""
TRAINING_LIMIT_S = 300
SERVES_WITHIN_S = 5
"""A published version serves within 2 s; a slow machine gets more."""
RIGHT_SHARE = 0.9
"""Of the suggestions for unseen pictures with a circle, at least this share must use the team's word. And the number of
suggestions without a wrong fact must be at least this share of the number before."""


@dataclass(kw_only=True)
class CheckReport:
    """The JSON summary of a check."""

    ok: bool = False
    failed: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, int] = field(default_factory=dict)
    suggestions: dict[str, int] = field(default_factory=dict)
    """Counts of the pictures that nobody annotated."""


def check_demo(setup_s: float) -> int:
    """Play the demo; print one line per step and a JSON summary; return 0 only if all expectations hold."""
    narrator = Narrator(setup_s)
    report = CheckReport(seconds={"install": round(setup_s, 1)})
    try:
        with demo_product(None, narrator, ONLY_WHEN_ASKED) as product:
            report.seconds["set_up"] = round(narrator.elapsed_s, 1)
            play(product, narrator, report)
            if report.failed:
                raise ServiceError(f"{len(report.failed)} expectations failed; logs are in {product.services.logs}")
    except CaptionerError as error:
        narrator.say(f"FAILED: {error}")
        report.failed.append(str(error).partition("\n")[0])
    report.ok = not report.failed
    print(json.dumps(asdict(report)), flush=True)
    return 0 if report.ok else 1


def play(product: DemoProduct, narrator: Narrator, report: CheckReport) -> None:
    """Annotate, train and judge as an annotator would; the report has the expectations that do not hold."""
    checks = _Checks(narrator, report)
    before = _see_first_suggestions(product, checks)
    _annotate(product, before, checks)
    _train(product, checks)
    _judge(product, before, checks)


@dataclass(frozen=True, kw_only=True)
class _Before:
    """The suggestions of the bundle, by task."""

    version: str
    captions: dict[int, str]


class _Checks:
    """Prints each expectation, and notes in the report those that do not hold."""

    def __init__(self, narrator: Narrator, report: CheckReport) -> None:
        self.narrator = narrator
        self.report = report

    def expect(self, holds: bool, line: str) -> None:
        self.narrator.say(f"{'ok    ' if holds else 'FAILED'} {line}")
        if not holds:
            self.report.failed.append(line)


def _see_first_suggestions(product: DemoProduct, checks: _Checks) -> _Before:
    user, project_id = product.user, product.project_id
    version = user.serving_version(product.backend_id)
    first = user.next_task(project_id).prefilled
    checks.report.seconds["to_first_caption"] = round(checks.narrator.elapsed_s, 1)
    checks.report.versions["bundle"] = version
    checks.expect(
        first is not None and _version(first) == version and bool(first.caption),
        f"the first task of the label stream opens with a caption by {version}: {first and first.caption!r}",
    )
    user.retrieve_predictions(project_id)
    tasks = user.tasks(project_id)
    captions = {task.task_id: task.prefilled.caption for task in tasks if task.prefilled is not None}
    right = sum(not wrong_facts(captions.get(task.task_id, ""), scene_of(task)) for task in tasks)
    checks.expect(len(captions) == len(tasks), f"all {len(tasks)} tasks have a suggestion; {right} state no wrong fact")
    return _Before(version=version, captions=captions)


def _annotate(product: DemoProduct, before: _Before, checks: _Checks) -> None:
    """Label tasks as they come until enough captions differ from the bundle's; skip the first, delete the second again.

    The wording is learned meanwhile, so after a few corrections the suggestions need none any more.
    """
    user, project_id = product.user, product.project_id
    user.skip(project_id, user.next_task(project_id))
    counted = {"skipped": 1, "deleted": 1, "accepted": 0, "corrected": 0}
    taught = at_once = 0
    task = user.next_task(project_id)
    user.delete_annotation(project_id, user.submit(project_id, task, final_caption(task)))
    while taught < CORRECTIONS:
        task = user.next_task(project_id)
        caption, suggestion = final_caption(task), _suggestion(task)
        user.submit(project_id, task, caption)
        counted["accepted" if caption == suggestion.caption else "corrected"] += 1
        is_taught = caption != before.captions[task.task_id]
        taught += is_taught
        at_once += is_taught and caption == suggestion.caption
        if counted["corrected"] == 1:
            checks.narrator.say(f"       the annotator changes {suggestion.caption!r} to {caption!r}")
    checks.report.annotations = counted
    checks.narrator.say(f"       the annotator did this: {counted}")
    checks.narrator.say(f"       {at_once} of {taught} suggestions were in the team's words before any training")


def _train(product: DemoProduct, checks: _Checks) -> None:
    """Press Start Training and wait until the new version serves and has replaced every open suggestion."""
    user, project_id, backend_id = product.user, product.project_id, product.backend_id
    began = checks.narrator.elapsed_s

    def serving_version() -> str:
        return version_of_label(user.serving_version(backend_id))[0]

    old = serving_version()
    user.start_training(backend_id)

    wait_until(product.worker, lambda: decision(product) is not None, TRAINING_LIMIT_S, "to end the training")
    with suppress(ServiceError):  # a version that was refused never serves
        wait_until(product.worker, lambda: serving_version() != old, SERVES_WITHIN_S)
    version = serving_version()
    checks.report.versions["retrained"] = version
    checks.report.seconds["last_correction_to_new_version"] = round(checks.narrator.elapsed_s - began, 1)
    checks.expect(version != old, f"Start Training made {version} out of {old}; {decision(product)}")

    def is_refreshed() -> bool:
        return all(_version(_suggestion(task)) == version for task in _unannotated(product))

    wait_until(product.worker, is_refreshed, TRAINING_LIMIT_S, f"every open suggestion to be of {version}")
    checks.report.seconds["last_correction_to_new_suggestions"] = round(checks.narrator.elapsed_s - began, 1)
    opened = [user.open_task(project_id, task.task_id) for task in _unannotated(product)]
    fresh = sum(_version(_suggestion(task)) == version for task in opened)
    checks.expect(fresh == len(opened), f"Quick View shows a suggestion by {version} in {fresh} of {len(opened)} tasks")
    shown = user.next_task(project_id).prefilled
    checks.expect(
        shown is not None and _version(shown) == version,
        f"the label stream shows a suggestion by {version}: {shown and shown.caption!r}",
    )


def _judge(product: DemoProduct, before: _Before, checks: _Checks) -> None:
    """Compare old and new suggestions on the pictures that nobody annotated."""
    unseen = list(_unannotated(product))
    concerned = [task for task in unseen if house_style(before.captions[task.task_id]) != before.captions[task.task_id]]
    captions = {task.task_id: _suggestion(task).caption for task in unseen}
    changed = sum(captions[task.task_id] != before.captions[task.task_id] for task in concerned)
    styled = sum(is_house_style(captions[task.task_id]) for task in concerned)
    right = sum(not wrong_facts(plain_style(captions[task.task_id]), scene_of(task)) for task in unseen)
    right_before = sum(not wrong_facts(before.captions[task.task_id], scene_of(task)) for task in unseen)
    checks.report.suggestions = {
        "unseen": len(unseen),
        "with_circle": len(concerned),
        "changed": changed,
        "in_house_words": styled,
        "without_wrong_fact": right,
        "without_wrong_fact_before": right_before,
    }
    least = RIGHT_SHARE * len(concerned)
    example = next((task.task_id for task in concerned), None)
    if example is not None:
        checks.narrator.say(f"       {before.captions[example]!r} became {captions[example]!r}")
    checks.expect(bool(concerned), f"{len(concerned)} unseen pictures were suggested with circles")
    checks.expect(changed >= least, f"{changed} of those {len(concerned)} suggestions differ")
    checks.expect(styled >= least, f"{styled} of those {len(concerned)} say ball, as the annotator does")
    checks.expect(
        right >= RIGHT_SHARE * right_before,
        f"{right} of {len(unseen)} unseen suggestions state no wrong fact; {right_before} did before",
    )


def house_style(caption: str) -> str:
    """Return the caption in the words of the annotator's team."""
    return re.sub(r"\w+", lambda word: HOUSE_WORDS.get(word[0], word[0]), caption)


def plain_style(caption: str) -> str:
    """Return the caption in the bundle's words, which `wrong_facts` reads."""
    plain = {house: word for word, house in HOUSE_WORDS.items()}
    return re.sub(r"\w+", lambda word: plain.get(word[0], word[0]), caption)


def is_house_style(caption: str) -> bool:
    """Return True if a caption mentions balls and no circles."""
    words = set(re.findall(r"\w+", caption))
    return bool(words & set(HOUSE_WORDS.values())) and not words & set(HOUSE_WORDS)


def final_caption(task: ShownTask) -> str:
    """Return what the annotator submits: the suggestion if its facts are right, in the team's words."""
    scene, suggested = scene_of(task), _suggestion(task).caption
    true = suggested if not wrong_facts(suggested, scene) else write_captions(scene, 1)[0]
    return house_style(true)


def scene_of(task: ShownTask) -> Scene:
    """Return the scene behind the uploaded picture `scene-<seed>.png`."""
    return sample_scene(int(task.image_name.removeprefix("scene-").removesuffix(".png")))


def decision(product: DemoProduct) -> str | None:
    """Return the last retraining's decision, as the admin pages show it; None before the first."""
    login = product.settings["BASIC_AUTH_USER"], product.settings["BASIC_AUTH_PASS"]
    try:
        overview = requests.get(f"{product.backend_url}/admin/api/overview", auth=login, timeout=20).json()
    except requests.RequestException as cause:
        raise ServiceError(f"the backend at {product.backend_url} does not answer: {cause}") from cause
    decisions = [project["last_decision"] for project in overview["projects"]]
    return decisions[0] if decisions else None


def _version(suggestion: ShownSuggestion) -> str:
    """Return the model version of a suggestion, without the generation of the memory."""
    return version_of_label(suggestion.model_version)[0]


def _suggestion(task: ShownTask) -> ShownSuggestion:
    if task.prefilled is None:
        raise CaptionerError(f"task {task.task_id} ({task.image_name}) came without a suggestion")
    return task.prefilled


def _unannotated(product: DemoProduct) -> list[ShownTask]:
    return [task for task in product.user.tasks(product.project_id) if not task.is_annotated]
