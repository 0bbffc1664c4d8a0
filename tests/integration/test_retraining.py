"""From corrections to a served version, by real workers on a real Redis."""

import io
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rq import Retry

from backend.captioning.promotion import request_trainings
from model.errors import StoreError, TrainingError
from model.store import Store
from model.training.training_record import TrainingRecord
from tests.factories import make_bundle, store_annotation
from tests.worker_process import WorkerProcess
from tests.workplace import Workplace, make_pictured_correction
from worker import jobs
from worker.audit import AuditLog
from worker.feedback.waiting import read_waiting
from worker.learning.candidate import ALPHAS
from worker.learning.fine_tuning import fine_tune
from worker.learning.rollback import roll_back_if_accepted_less
from worker.learning.wording_rules import SystematicEdit, find_systematic_edits
from worker.learning.writing import CAPTIONED
from worker.policy import is_held_out
from worker.queue.job_state import LABEL_STUDIO_QUEUE, RETRAIN_QUEUE, queue
from worker.queue.retraining import enqueue_retraining
from worker.queue.trigger import retrain_when_due

StartWorker = Callable[..., WorkerProcess]


def retrain(workplace: Workplace, project_id: int = 1) -> dict[str, Any]:
    """Trigger a retraining and wait for its outcome."""
    job_id = enqueue_retraining(workplace.redis, workplace.settings, project_id, "a test")
    outcome = workplace.result(job_id).return_value
    assert isinstance(outcome, dict), workplace.job(job_id).latest_result()
    return outcome


def test_the_20th_correction_leads_to_a_new_version_that_serves(
    workplace: Workplace, start_worker: StartWorker
) -> None:
    start_worker(workplace.environment())
    workplace.correct(range(1, 20))
    assert retrain_when_due(workplace.redis, workplace.settings, 1) is None
    workplace.correct(range(20, 21))

    job_id = retrain_when_due(workplace.redis, workplace.settings, 1)

    assert job_id is not None
    outcome = workplace.result(job_id).return_value or {}
    [version] = workplace.registry.versions(1)
    assert workplace.registry.serving(1) == version.name == outcome["version"]
    assert version.published
    assert version.parent == workplace.bundle.version
    assert len(version.corrections) + outcome["held_out"] == 20
    assert version.metrics["trigger"] == "20 corrections wait"
    assert version.metrics["new"]["captions"] == outcome["held_out"]
    assert version.metrics["new"]["candidate"] < version.metrics["new"]["serving"]
    assert version.metrics["training"]["alpha"] in ALPHAS
    assert 0 < version.metrics["writing"]["captions"] <= CAPTIONED
    assert read_waiting(workplace.redis, 1).count == 0
    assert workplace.job(job_id).meta["phase"] == "done"


def test_ten_triggers_lead_to_two_trainings_at_most_and_one_version(
    workplace: Workplace, start_worker: StartWorker
) -> None:
    start_worker(workplace.environment())
    start_worker(workplace.environment())
    workplace.correct(range(1, 21))

    job_ids = {enqueue_retraining(workplace.redis, workplace.settings, 1, "a test") for _ in range(10)}

    assert len(job_ids) <= 2
    for job_id in job_ids:
        workplace.result(job_id)
    assert len(workplace.registry.versions(1)) == 1


def test_a_retraining_without_a_change_says_so_and_publishes_nothing(
    workplace: Workplace, start_worker: StartWorker
) -> None:
    start_worker(workplace.environment())
    workplace.correct(range(1, 9))
    first = retrain(workplace)

    second = retrain(workplace)

    assert second["decision"] == "No correction was added, changed or removed since the last training."
    assert [version.name for version in workplace.registry.versions(1)] == [first["version"]]


def test_after_a_change_of_the_bundle_one_command_learns_all_corrections_again(
    workplace: Workplace, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker(workplace.environment())
    corrections = workplace.correct(range(1, 9))
    before = retrain(workplace)
    worker.stop()
    other = make_bundle(tmp_path / "other-bundle", seed=1)
    settings = workplace.settings.model_copy(update={"caption_bundle": str(tmp_path / "other-bundle")})
    changed = replace(workplace, settings=settings, bundle=other)
    assert changed.registry.serving(1) == other.version
    for correction in corrections:
        changed.store_features(correction)  # by the pull before the training, where there is a Label Studio

    start_worker(changed.environment())
    [requested] = request_trainings(settings, None, by="a test")

    outcome = workplace.result(str(requested.job_id)).return_value or {}
    assert outcome, workplace.job(str(requested.job_id)).latest_result()
    old, new = changed.registry.versions(1)
    assert (old.name, old.bundle) == (before["version"], workplace.bundle.version)
    assert (new.name, new.bundle, new.parent) == (outcome["version"], other.version, other.version)
    assert new.corrections == old.corrections
    [again] = request_trainings(settings, 1, by="a test")
    second = workplace.result(str(again.job_id)).return_value or {}
    assert second["decision"] == "No correction was added, changed or removed since the last training."


def test_projects_never_mix(workplace: Workplace, start_worker: StartWorker) -> None:
    start_worker(workplace.environment())
    workplace.correct(range(1, 9), project_id=1)
    workplace.correct(range(101, 109), project_id=2)

    outcome = retrain(workplace, project_id=2)

    assert workplace.registry.serving(2) == outcome["version"]
    assert workplace.registry.serving(1) == workplace.bundle.version
    assert workplace.registry.versions(1) == []
    assert all(int(name.split("/")[0]) > 100 for name in workplace.registry.versions(2)[0].corrections)
    assert (read_waiting(workplace.redis, 1).count, read_waiting(workplace.redis, 2).count) == (8, 0)


def test_a_deleted_correction_is_not_trained_on_again(workplace: Workplace, start_worker: StartWorker) -> None:
    start_worker(workplace.environment())
    workplace.correct(range(1, 13))
    retrain(workplace)
    [first] = workplace.registry.versions(1)
    gone, stays = first.corrections[0], first.corrections[1:]

    workplace.feedback.remove(1, annotation_ids=[int(gone.split("/")[0])])
    retrain(workplace)

    assert workplace.registry.versions(1)[-1].corrections == stays
    assert workplace.registry.versions(1)[-1].parent == workplace.registry.versions(1)[0].name


def test_corrections_without_features_are_left_out_and_counted(workplace: Workplace, start_worker: StartWorker) -> None:
    start_worker(workplace.environment())
    workplace.correct(range(1, 13))
    for number in (20, 21):
        store_annotation(workplace.redis, make_pictured_correction(number, image_key=None))

    outcome = retrain(workplace)

    assert outcome["published"]
    assert outcome["left_out"] == {"its image was never read": 2}
    assert workplace.registry.versions(1)[0].metrics["corrections_left_out"] == {"its image was never read": 2}


def test_a_training_that_fails_is_visible_and_changes_nothing(workplace: Workplace, start_worker: StartWorker) -> None:
    start_worker(workplace.environment())
    for number in range(1, 4):
        store_annotation(workplace.redis, make_pictured_correction(number, image_key=None))

    job_id = enqueue_retraining(workplace.redis, workplace.settings, 1, "a test")

    result = workplace.result(job_id)
    assert result.type.name == "FAILED"
    assert "No correction of project 1 can be used for training (its image was never read: 3)" in str(result.exc_string)
    assert job_id in queue(workplace.redis, RETRAIN_QUEUE).failed_job_registry
    assert workplace.registry.serving(1) == workplace.bundle.version
    assert read_waiting(workplace.redis, 1).count == 3
    workplace.correct(range(4, 12))
    assert retrain(workplace)["published"]


@pytest.fixture
def in_this_process(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """The job is called here instead of by a worker, so that the test can step in."""
    for name, value in workplace.environment(REFRESH_PREDICTIONS="true").items():
        monkeypatch.setenv(name, value)
    return workplace


def test_a_published_version_is_followed_by_a_refresh_of_label_studios_predictions(in_this_process: Workplace) -> None:
    in_this_process.correct(range(1, 9))

    outcome = jobs.retrain(1, "a test")

    assert isinstance(outcome, dict)
    [job] = queue(in_this_process.redis, LABEL_STUDIO_QUEUE).jobs
    assert job.func_name == "backend.jobs.refresh_predictions"
    assert list(job.args) == [1, outcome["version"]]
    assert audited(in_this_process) == [("the worker", "version published", 1, outcome["version"])]


def lose_the_worker(*_: Any, **__: Any) -> None:
    raise ConnectionResetError("the worker is lost")


@pytest.mark.parametrize("later", [range(0), range(9, 17)], ids=["nothing came since", "more came since"])
def test_a_worker_that_is_lost_after_publishing_leads_to_no_second_version_of_the_same(
    in_this_process: Workplace, monkeypatch: pytest.MonkeyPatch, later: range
) -> None:
    in_this_process.correct(range(1, 9))
    with monkeypatch.context() as lost:
        lost.setattr("worker.learning.version_record.enqueue_refresh", lose_the_worker)
        with pytest.raises(ConnectionResetError):
            jobs.retrain(1, "a test")
    in_this_process.correct(later)

    outcome = jobs.retrain(1, "a test")

    assert isinstance(outcome, dict)
    first, *others = in_this_process.registry.versions(1)
    assert [version.parent for version in others] == ([first.name] if later else [])
    assert read_waiting(in_this_process.redis, 1).count == 0
    refreshed = [list(job.args) for job in queue(in_this_process.redis, LABEL_STUDIO_QUEUE).jobs]
    assert [1, first.name] in refreshed
    assert audited(in_this_process)[-1] == ("the worker", "version published", 1, first.name)


def test_a_worker_that_is_lost_once_its_corrections_count_as_trained_has_asked_for_the_refresh(
    in_this_process: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process.correct(range(1, 9))
    monkeypatch.setattr("worker.learning.version_record.AuditLog.write", lose_the_worker)

    with pytest.raises(ConnectionResetError):
        jobs.retrain(1, "a test")

    assert read_waiting(in_this_process.redis, 1).count == 0
    [job] = queue(in_this_process.redis, LABEL_STUDIO_QUEUE).jobs
    assert job.args == [1, in_this_process.registry.serving(1)]


def test_scores_that_cannot_be_calibrated_cost_no_version(
    in_this_process: Workplace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    in_this_process.correct(range(1, 9))

    def find_the_disk_full(*_: Any, **__: Any) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr("worker.learning.rollback.renew_calibrations", find_the_disk_full)

    outcome = jobs.retrain(1, "a test")

    assert isinstance(outcome, dict)
    assert outcome["version"] == in_this_process.registry.serving(1)
    assert "scores not calibrated project=1" in caplog.text


def test_a_candidate_that_is_not_better_is_recorded_and_does_not_serve(
    in_this_process: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process.correct(range(1, 9))
    unchanged = TrainingRecord()
    monkeypatch.setattr("worker.learning.candidate.fine_tune", lambda serving, *_: (serving, unchanged))

    outcome = jobs.retrain(1, "a test")

    assert isinstance(outcome, dict)
    assert not outcome["published"]
    [version] = in_this_process.registry.versions(1)
    assert (version.published, version.decision) == (False, outcome["decision"])
    assert version.decision.startswith("Not published: the new model is better on new captions in only 0% of")
    assert in_this_process.registry.serving(1) == in_this_process.bundle.version
    assert queue(in_this_process.redis, LABEL_STUDIO_QUEUE).count == 0
    assert read_waiting(in_this_process.redis, 1).count == 0
    assert audited(in_this_process) == [("the worker", "version refused", 1, version.name)]


def test_a_person_who_promotes_during_a_training_is_not_overruled(
    in_this_process: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process.correct(range(1, 9))
    jobs.retrain(1, "a test")
    in_this_process.correct(range(9, 12))

    def fine_tune_while_somebody_rolls_back(*arguments: Any) -> Any:
        in_this_process.registry.rollback(1, by="admin")
        return fine_tune(*arguments)

    monkeypatch.setattr("worker.learning.candidate.fine_tune", fine_tune_while_somebody_rolls_back)
    outcome = jobs.retrain(1, "a test")

    assert isinstance(outcome, dict)
    assert outcome["version"] is None
    assert in_this_process.registry.serving(1) == in_this_process.bundle.version
    assert queue(in_this_process.redis, RETRAIN_QUEUE).deferred_job_registry.count == 1
    assert read_waiting(in_this_process.redis, 1).count == 3


def test_while_another_process_trains_the_project_the_job_comes_again_later(in_this_process: Workplace) -> None:
    in_this_process.correct(range(1, 9))
    running = queue(in_this_process.redis, RETRAIN_QUEUE).enqueue_call("worker.jobs.retrain", args=[1, "a test"])
    in_this_process.redis.hset("captioner:retraining:1", "running", running.id)

    assert isinstance(jobs.retrain(1, "a test"), Retry)

    assert in_this_process.registry.versions(1) == []


def test_a_project_whose_corrections_are_all_gone_or_held_out_has_nothing_to_train(in_this_process: Workplace) -> None:
    held_out = [
        correction
        for n in range(1, 40)
        if int(str((correction := make_pictured_correction(n)).image_key)[:8], 16) % 5 == 0
    ]
    in_this_process.store_features(held_out[0])
    store_annotation(in_this_process.redis, held_out[0])

    outcome = jobs.retrain(1, "a test")

    assert isinstance(outcome, dict)
    assert outcome["decision"] == "All usable corrections (1) are held out for evaluation. Correct more images."
    in_this_process.feedback.remove(1, annotation_ids=[held_out[0].annotation_id])
    outcome = jobs.retrain(1, "a test")
    assert isinstance(outcome, dict)
    assert outcome["decision"] == "The project has no corrections."


def audited(workplace: Workplace) -> list[tuple[str, str, int | None, str]]:
    """Return the audited actions on versions, newest first."""
    entries = AuditLog(workplace.redis).read()
    return [(entry.who, entry.action, entry.project_id, entry.details["version"]) for entry in entries]


def judge(workplace: Workplace, version: str, *, accepted: int, edited: int, start: int) -> None:
    """Fill the ledger as annotators would who accept some suggestions of a version and edit others."""
    for number in range(start, start + accepted + edited):
        caption = "a dog" if number < start + accepted else "a dog indeed"
        correction = make_pictured_correction(number, proposed="a dog", caption=caption, model_version=version)
        store_annotation(workplace.redis, correction)


def test_a_version_whose_suggestions_are_accepted_less_is_rolled_back(in_this_process: Workplace) -> None:
    registry, bundle = in_this_process.registry, in_this_process.bundle.version
    in_this_process.correct(range(1, 9))
    jobs.retrain(1, "a test")
    worse = registry.serving(1)
    judge(in_this_process, bundle, accepted=30, edited=10, start=100)
    judge(in_this_process, worse, accepted=10, edited=30, start=200)

    in_this_process.correct(range(9, 17))
    outcome = jobs.retrain(1, "a test")

    assert isinstance(outcome, dict)
    assert registry.versions(1)[-1].parent == bundle
    refreshed = [list(job.args) for job in queue(in_this_process.redis, LABEL_STUDIO_QUEUE).jobs]
    assert [1, bundle] in refreshed
    assert ("the worker", "version rolled back", 1, bundle) in audited(in_this_process)


def test_a_version_that_a_person_chose_stays_however_seldom_it_is_accepted(in_this_process: Workplace) -> None:
    registry, bundle = in_this_process.registry, in_this_process.bundle.version
    in_this_process.correct(range(1, 9))
    jobs.retrain(1, "a test")
    chosen = registry.serving(1)
    registry.rollback(1, by="admin")
    registry.promote(1, chosen, by="admin", bundle=lambda: in_this_process.bundle)
    judge(in_this_process, bundle, accepted=30, edited=10, start=100)
    judge(in_this_process, chosen, accepted=10, edited=30, start=200)

    assert roll_back_if_accepted_less(in_this_process.redis, registry, in_this_process.settings, 1) is None
    assert registry.serving(1) == chosen


def damage(workplace: Workplace, number: int, *, shape: tuple[int, ...] = (), value: float = 0.0) -> None:
    """Put features into the store that no encoder would make, without the checks of the feature store."""
    key = str(make_pictured_correction(number).image_key)
    file = io.BytesIO()
    features = workplace.features.get(key)
    assert features is not None
    np.save(file, np.full(shape or features.shape, value, np.float16), allow_pickle=False)
    path = f"features/{workplace.bundle.encoder.fingerprint}/{key[:2]}/{key}.npy"
    Store(workplace.settings.model_store).write(path, file.getvalue())


def test_a_training_that_fails_because_of_certain_corrections_excludes_them_and_goes_on(
    workplace: Workplace, start_worker: StartWorker
) -> None:
    start_worker(workplace.environment())
    workplace.correct(range(1, 41))
    damage(workplace, 7, value=math.nan)
    damage(workplace, 23, shape=(9, 5))
    damage(workplace, 30, shape=(2, workplace.bundle.encoder.feature_size))

    outcome = retrain(workplace)

    assert outcome["published"]
    excluded = workplace.feedback.excluded(1)
    assert set(excluded) == {"7/caption", "23/caption", "30/caption"}
    reason = "training fails with it: the features of its image contain values that are not numbers"
    assert excluded["7/caption"] == reason
    assert "RuntimeError: stack expects each tensor to be equal size" in excluded["23/caption"]
    assert outcome["corrections"] + outcome["held_out"] == 37
    assert sum(outcome["left_out"].values()) == 3
    assert read_waiting(workplace.redis, 1).count == 0
    assert workplace.registry.versions(1)[0].metrics["corrections_left_out"] == outcome["left_out"]


def test_a_correction_that_makes_only_the_measuring_fail_is_found_too(in_this_process: Workplace) -> None:
    in_this_process.correct(range(1, 41))
    jobs.retrain(1, "a test")
    in_this_process.correct(range(41, 61))
    held_out = next(n for n in range(1, 41) if is_held_out(str(make_pictured_correction(n).image_key)))
    damage(in_this_process, held_out, value=math.nan)

    outcome = jobs.retrain(1, "a test")

    assert isinstance(outcome, dict)
    assert "a loss is not a number" not in outcome["decision"]
    assert list(in_this_process.feedback.excluded(1)) == [f"{held_out}/caption"]
    assert read_waiting(in_this_process.redis, 1).count == 0


def test_a_caption_that_breaks_the_search_for_edits_is_excluded(
    in_this_process: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process.correct(range(1, 41))
    learned = next(n for n in range(50, 60) if not is_held_out(str(make_pictured_correction(n).image_key)))
    in_this_process.correct(range(learned, learned + 1), caption="break it")

    def break_for_one(pairs: Iterable[tuple[str, str]]) -> list[SystematicEdit]:
        captions = list(pairs)
        if any(theirs == "break it" for _, theirs in captions):
            raise RecursionError("maximum recursion depth exceeded")
        return find_systematic_edits(captions)

    monkeypatch.setattr("worker.learning.dataset.find_systematic_edits", break_for_one)

    outcome = jobs.retrain(1, "a test")

    assert isinstance(outcome, dict)
    assert outcome["published"]
    [reason] = in_this_process.feedback.excluded(1).values()
    assert reason == "training fails with it: RecursionError: maximum recursion depth exceeded"


@pytest.mark.parametrize(
    "problem", [MemoryError("out of memory"), StoreError("away"), TrainingError("lower the learning rate")]
)
def test_a_failure_that_comes_from_no_correction_excludes_none(
    in_this_process: Workplace, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    in_this_process.correct(range(1, 9))

    def fail(*_: Any) -> None:
        raise problem

    monkeypatch.setattr("worker.learning.candidate.fine_tune", fail)

    with pytest.raises(type(problem)):
        jobs.retrain(1, "a test")

    assert in_this_process.feedback.excluded(1) == {}


def test_a_correction_that_a_person_excludes_is_not_trained_on_from_the_next_version_on(
    in_this_process: Workplace,
) -> None:
    in_this_process.correct(range(1, 13))
    jobs.retrain(1, "a test")
    [first] = in_this_process.registry.versions(1)
    rude, *others = first.corrections

    in_this_process.feedback.exclude(1, rude, "rude")
    outcome = jobs.retrain(1, "a test")

    assert isinstance(outcome, dict)
    assert in_this_process.registry.versions(1)[-1].corrections == tuple(others)
    assert outcome["left_out"] == {"excluded: rude": 1}


def test_a_project_whose_corrections_are_all_excluded_has_nothing_to_train(in_this_process: Workplace) -> None:
    for correction in in_this_process.correct(range(1, 4)):
        in_this_process.feedback.exclude(1, correction.name, "rude")

    outcome = jobs.retrain(1, "a test")

    assert isinstance(outcome, dict)
    assert outcome["decision"] == "All corrections of the project are excluded."
    assert read_waiting(in_this_process.redis, 1).count == 0
