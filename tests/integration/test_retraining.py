"""From corrections to a version that serves, by real workers on a real Redis."""

from collections.abc import Callable

from rq.results import Result

from tests.integration.conftest import Workplace
from tests.worker_process import WorkerProcess
from worker.queues import enqueue_retraining, retrain_when_due

StartWorker = Callable[..., WorkerProcess]


def test_the_20th_correction_leads_to_a_new_version_that_serves(
    workplace: Workplace, start_worker: StartWorker
) -> None:
    start_worker(workplace.environment())
    workplace.correct(range(1, 20))
    assert retrain_when_due(workplace.redis, workplace.settings, 1) is None

    workplace.correct(range(20, 21))
    job_id = retrain_when_due(workplace.redis, workplace.settings, 1)

    assert job_id is not None
    outcome = workplace.result(job_id).return_value
    print(outcome)
    [version] = workplace.registry.versions(1)
    assert workplace.registry.serving(1) == version.name == outcome["version"]
    assert version.published
    assert version.parent == workplace.bundle.version
    assert workplace.inbox.waiting(1) == 0
    assert Result is not None
