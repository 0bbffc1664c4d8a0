"""/metrics: numbers of one backend, numbers that all processes share, and the cost of a scrape."""

import re
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import requests
from redis import Redis

from backend.demo.child_processes import Services, free_port, our_environment, wait_until
from tests.backend_client import BackendClient
from tests.factories import make_correction, make_task, store_annotation
from tests.image_server import ImageServer, send
from tests.redis_server import RedisServer
from tests.scrape import samples
from tests.worker_process import WorkerProcess
from tests.workplace import DEADLINE_S, Workplace
from worker.feedback.left_projects import leave
from worker.queue.job_state import LABEL_STUDIO_QUEUE, queue
from worker.queue.retraining import enqueue_retraining

ACCEPTED = "20_webhook_ANNOTATION_CREATED_accepted"


def test_metrics_count_requests_predictions_and_images(backend: BackendClient, image_server: ImageServer) -> None:
    good = make_task(data={"captioning": image_server.show("/a.png")})
    backend.predict([good, make_task(data={"captioning": "/missing.png"}), make_task(data={})])
    backend.replay(ACCEPTED)
    backend.replay(ACCEPTED)
    backend.get("/nothing")

    metrics = scrape(backend)

    assert metrics['captioner_requests_total{route="/webhook",status="201"}'] == 1
    assert metrics['captioner_requests_total{route="/webhook",status="200"}'] == 1
    assert metrics['captioner_requests_total{route="none",status="404"}'] == 1
    assert metrics['captioner_predictions_total{outcome="captioned"}'] == 1
    assert metrics['captioner_predictions_total{outcome="failed"}'] == 2
    assert metrics['captioner_image_failures_total{reason="missing"}'] == 1
    assert metrics['captioner_image_failures_total{reason="absent"}'] == 1
    assert metrics['captioner_features_total{outcome="missed"}'] == 1
    assert metrics['captioner_predict_stage_seconds_count{stage="decode"}'] == 1
    assert metrics["captioner_predict_seconds_count"] == 1
    assert metrics["captioner_webhook_seconds_count"] == 2
    assert metrics['captioner_corrections_waiting{project="6"}'] == 1
    assert 0 <= metrics['captioner_corrections_oldest_seconds{project="6"}'] < DEADLINE_S
    base_version = backend.services.captioners.registry.base_version
    assert metrics[f'captioner_serving_version{{project="6",version="{base_version}"}}'] == 1
    assert metrics[f'captioner_info{{bundle="{base_version}",version="{version("label-studio-captioner")}"}}'] == 1
    assert metrics['captioner_queue_jobs{queue="retrain",state="scheduled"}'] == 1
    assert metrics["captioner_workers_alive"] == 0


def test_metrics_count_the_reasons_why_images_could_not_be_read(
    backend: BackendClient, image_server: ImageServer
) -> None:
    image_server.pages["/broken.png"] = b"no image"
    image_server.pages["/private.png"] = lambda handler: send(handler, 401, b"")
    refs = ("/missing.png", "/broken.png", "/private.png", "ftp://host/a.png", "http://no.such.host.invalid/a.png")

    backend.predict([make_task(id=number, data={"captioning": ref}) for number, ref in enumerate(refs)])

    metrics = scrape(backend)
    assert {
        name.split('"')[1]: count for name, count in metrics.items() if "image_failures_total" in name
    } == dict.fromkeys(("missing", "unreadable", "refused", "address", "unreachable"), 1)


def test_metrics_count_how_annotators_judged_the_serving_version(backend: BackendClient) -> None:
    serving = backend.services.captioners.version_of(1)
    for number, caption in enumerate(("a dog", "a dog", "a black cat", "a dog on grass"), start=1):
        correction = make_correction(
            annotation_id=number, proposed="a dog", caption=caption, model_version=serving, task_id=number
        )
        store_annotation(backend.services.redis, correction)
    backend.services.feedback.remove(1, annotation_ids=[4])

    metrics = scrape(backend)

    labels = f'project="1",version="{serving}"'
    assert metrics[f"captioner_suggestions_judged{{{labels}}}"] == 3
    assert metrics[f"captioner_accept_rate{{{labels}}}"] == pytest.approx(2 / 3)
    assert metrics[f"captioner_word_edits_mean{{{labels}}}"] == pytest.approx(2 / 3)
    assert metrics['captioner_corrections_total{outcome="accepted",project="1"}'] == 2
    assert metrics['captioner_corrections_total{outcome="edited",project="1"}'] == 2
    assert metrics['captioner_corrections_total{outcome="removed",project="1"}'] == 1
    assert metrics['captioner_edits_total{kind="attribute",project="1"}'] == 1
    assert metrics['captioner_edits_total{kind="background",project="1"}'] == 1


def test_a_project_that_has_left_is_in_no_metric(backend: BackendClient, redis: Redis) -> None:
    for project_id in (1, 11):
        store_annotation(redis, make_correction(project_id=project_id))
    leave(redis, 1, "its model was removed")

    projects = {project for name in scrape(backend) for project in re.findall(r'project="(\d+)"', name)}

    assert projects == {"11"}


def test_metrics_show_how_long_the_next_job_has_waited(backend: BackendClient) -> None:
    jobs = queue(backend.services.redis, LABEL_STUDIO_QUEUE)
    first = jobs.enqueue_call("math.sqrt", args=[4])
    jobs.enqueue_call("math.sqrt", args=[9])
    backend.services.redis.hset(first.key, "enqueued_at", "2025-01-31T12:00:00.000000Z")

    metrics = scrape(backend)

    assert metrics['captioner_queue_jobs{queue="label-studio",state="waiting"}'] == 2
    assert metrics['captioner_queue_oldest_seconds{queue="label-studio"}'] > 24 * 3600
    assert metrics['captioner_queue_oldest_seconds{queue="retrain"}'] == 0


def test_metrics_count_the_work_of_workers(workplace: Workplace, start_worker: Callable[..., WorkerProcess]) -> None:
    worker = start_worker(workplace.environment())
    workplace.correct(range(1, 9))
    outcome = workplace.result(enqueue_retraining(workplace.redis, workplace.settings, 1, "a test")).return_value or {}
    jobs = queue(workplace.redis, LABEL_STUDIO_QUEUE)
    workplace.result(jobs.enqueue_call("math.sqrt", args=[-1]).id)
    worker.stop()

    metrics = scrape(BackendClient(workplace.settings))

    decision = "published" if outcome["published"] else "refused"
    assert metrics[f'captioner_gate_decisions_total{{decision="{decision}",project="1"}}'] == 1
    assert metrics['captioner_job_seconds_count{kind="retrain",outcome="finished"}'] == 1
    assert metrics['captioner_job_seconds_bucket{kind="retrain",le="+Inf",outcome="finished"}'] == 1
    assert metrics['captioner_job_seconds_sum{kind="retrain",outcome="finished"}'] > 0
    assert metrics['captioner_job_seconds_count{kind="sqrt",outcome="failed"}'] == 1


def test_metrics_show_which_dependency_does_not_answer(
    make_backend: Callable[..., BackendClient], own_redis: RedisServer, image_server: ImageServer
) -> None:
    image_server.pages["/health"] = b"{}"
    backend = make_backend(redis_url=own_redis.url, label_studio_url=image_server.url)
    before = scrape(backend)
    own_redis.kill()
    alone = make_backend(redis_url=own_redis.url, label_studio_url="http://127.0.0.1:9")

    after, nobody = scrape(backend), scrape(alone)

    assert dependencies(before) == {"redis": 1, "store": 1, "label_studio": 1}
    assert dependencies(after) == {"redis": 0, "store": 1, "label_studio": 1}
    assert dependencies(nobody) == {"redis": 0, "store": 1, "label_studio": 0}
    assert "captioner_workers_alive" not in after


def test_a_scrape_costs_redis_the_same_for_few_and_for_many_corrections(backend: BackendClient, redis: Redis) -> None:
    def annotate(numbers: range) -> None:
        for number in numbers:
            correction = make_correction(annotation_id=number, annotator=number, model_version=f"v{number}-0a1b2c3d")
            store_annotation(backend.services.redis, correction)

    def cost() -> tuple[int, int]:
        """Return the number of commands, and the size of the replies of Redis in units of 4 kB."""
        before = redis.info("stats")
        scrape(backend)
        after = redis.info("stats")
        sent = after["total_net_output_bytes"] - before["total_net_output_bytes"]
        return after["total_commands_processed"] - before["total_commands_processed"], sent // 4096

    annotate(range(1, 11))
    scrape(backend)
    few = cost()
    annotate(range(11, 500))

    assert cost() == few


def test_two_apps_in_one_process_count_separately(make_backend: Callable[..., BackendClient]) -> None:
    first, second = make_backend(), make_backend()

    first.get("/health")

    assert 'captioner_requests_total{route="/health",status="200"}' not in scrape(second)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    with Services(tmp_path / "logs") as services:
        yield services


def test_two_processes_of_gunicorn_answer_as_one(workplace: Workplace, services: Services, tmp_path: Path) -> None:
    port, shared = free_port(), tmp_path / "numbers"
    command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{port}", "backend.wsgi:app"]
    environ = our_environment(workplace.environment(PROMETHEUS_MULTIPROC_DIR=str(shared)))
    url = f"http://127.0.0.1:{port}"
    server = services.start("gunicorn", command, url=url, environ=environ)
    sent = 0

    def both_have_counted() -> bool:
        nonlocal sent
        try:
            requests.post(f"{url}/setup", json={"project": "1.1", "schema": "<View/>"}, timeout=DEADLINE_S)
        except requests.ConnectionError:
            return False
        sent += 1
        return len(list(shared.glob("counter_*.db"))) == 2

    wait_until(server, both_have_counted, DEADLINE_S, "to answer in both processes")

    scrapes = [samples(requests.get(f"{url}/metrics", timeout=DEADLINE_S).text) for _ in range(6)]

    assert sent >= 2
    assert [counts['captioner_requests_total{route="/setup",status="400"}'] for counts in scrapes] == [sent] * 6
    assert [counts['captioner_neighbour_up{neighbour="redis"}'] for counts in scrapes] == [1] * 6


def scrape(backend: BackendClient) -> dict[str, float]:
    response = backend.app.test_client().get("/metrics")
    assert response.status_code == 200
    assert re.match(r"text/plain; version=", response.headers["Content-Type"])
    return samples(response.text)


def dependencies(metrics: dict[str, float]) -> dict[str, float]:
    names = ("redis", "store", "label_studio")
    return {name: metrics[f'captioner_neighbour_up{{neighbour="{name}"}}'] for name in names}
