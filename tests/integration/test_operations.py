"""Pages and probes for an operator: readiness, the admin pages, and the login that they need."""

import os
import pickle
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from rq.job import Job
from rq.serializers import JSONSerializer

from tests.backend_client import BROWSER_ACCEPTS, BackendClient, basic_auth, failed_job
from tests.factories import make_correction, store_annotation
from tests.redis_server import RedisServer
from worker.queue.job_metrics import JobCounts
from worker.queue.job_state import LABEL_STUDIO_QUEUE, queue

ADMIN = ("admin", "right")


@pytest.fixture
def admin(make_backend: Callable[..., BackendClient]) -> BackendClient:
    """A client that is logged in to a backend with a login."""
    return make_backend(login=ADMIN, basic_auth_user=ADMIN[0], basic_auth_pass=ADMIN[1])


def test_ready_says_so_once_redis_store_and_model_answer(backend: BackendClient) -> None:
    backend.services.captioners.bundle()

    response = backend.get("/ready")

    assert response.status_code == 200
    answer = response.get_json()
    assert answer.pop("runtime").startswith("ONNX Runtime ")
    assert answer == {"ready": True, "checks": {"redis": "ok", "store": "ok", "model": "ok"}}


def test_not_ready_names_what_is_missing(
    make_backend: Callable[..., BackendClient], own_redis: RedisServer, tmp_path: Path
) -> None:
    backend = make_backend(redis_url=own_redis.url)
    backend.services.captioners.bundle()
    own_redis.kill()
    (tmp_path / "store").write_text("a file where the folder should be")

    response = backend.get("/ready")

    assert response.status_code == 503
    assert response.get_json() == {
        "ready": False,
        "checks": {"redis": "Redis cannot be reached", "store": "the model store cannot be read", "model": "ok"},
        "runtime": backend.services.captioners.runtime,
    }


@pytest.mark.parametrize(
    "path", ["/", "/health", "/setup", "/predict", "/versions", "/admin/", "/admin/queues/", "/nothing"]
)
def test_with_a_login_configured_everything_of_value_needs_it(admin: BackendClient, path: str) -> None:
    client = admin.app.test_client()

    refused = [
        client.get(path),
        client.get(path, headers=basic_auth("admin", "wrong")),
        client.get(path, headers=basic_auth("nobody", "right")),
        client.get(path, headers={"Authorization": "Bearer right"}),
        client.get(path, headers={"Authorization": "Basic !!!"}),
    ]

    assert [response.status_code for response in refused] == [401] * 5
    assert refused[0].headers["WWW-Authenticate"].startswith("Basic")
    assert "login needed" in refused[0].get_json()["error"]
    assert admin.get(path).status_code in {200, 404, 405}


@pytest.mark.parametrize("path", ["/ready", "/metrics"])
def test_probes_need_no_login_and_hold_no_secret(admin: BackendClient, path: str) -> None:
    response = admin.app.test_client().get(path)

    assert response.status_code in {200, 503}
    assert "right" not in response.text


@pytest.mark.parametrize(
    "path", ["/admin/", "/admin", "/admin/api/overview", "/admin/queues/", "/admin/queues/0/data/queues.json"]
)
def test_without_a_login_configured_the_admin_pages_are_closed_and_say_how_to_open_them(
    backend: BackendClient, path: str
) -> None:
    response = backend.get(path)

    assert response.status_code == 403
    assert "set BASIC_AUTH_USER and BASIC_AUTH_PASS" in response.get_json()["error"]


def test_the_overview_shows_projects_queues_and_jobs_as_page_and_as_json(admin: BackendClient) -> None:
    admin.post("/webhook", {"action": "START_TRAINING", "project": {"id": 14}})
    admin.replay("20_webhook_ANNOTATION_CREATED_accepted")

    facts = admin.get("/admin/api/overview").get_json()
    page = admin.get("/admin/")

    base_version = admin.services.captioners.registry.base_version
    (project,) = facts["projects"]
    assert (project["project_id"], project["serving"], project["waiting"]) == (6, base_version, 1)
    assert {waiting["name"]: waiting["waiting"] for waiting in facts["queues"]} == {"label-studio": 1, "retrain": 0}
    assert {job["status"] for job in facts["jobs"]} == {"queued", "deferred"}
    assert facts["problems"] == []
    assert page.status_code == 200
    for expected in (base_version, "pull corrections", "waiting for 19 more corrections", "captioner worker"):
        assert expected.casefold() in page.text.casefold()
    assert "script-src" not in page.headers["Content-Security-Policy"]
    assert page.headers["X-Frame-Options"] == "DENY"


def test_the_pages_open_and_say_so_while_redis_is_down(
    make_backend: Callable[..., BackendClient], own_redis: RedisServer
) -> None:
    admin = make_backend(login=ADMIN, basic_auth_user="admin", basic_auth_pass="right", redis_url=own_redis.url)
    own_redis.kill()

    paths = ("/admin/", "/admin/projects/1/", "/admin/jobs/", "/admin/audit/", "/admin/queues/")
    pages = [admin.get(path, BROWSER_ACCEPTS) for path in paths]
    facts = admin.get("/admin/queues/0/data/queues.json")

    assert [page.status_code for page in pages] == [200] * 5
    assert all("Redis cannot be reached" in page.text for page in pages)
    for emptiness in ("No annotator has submitted", "No worker is running", "No jobs yet"):
        assert emptiness not in pages[0].text, "nobody knows"
    assert "Back to the overview" in pages[-1].text
    assert (facts.status_code, list(facts.get_json())) == (503, ["error"])


def health(admin: BackendClient, name: str) -> tuple[bool, str]:
    overview = admin.get("/admin/api/overview").get_json()
    (status,) = [status for status in overview["health"] if status["name"] == name]
    return status["is_well"], status["words"]


def test_a_model_store_that_is_gone_is_told_from_one_that_is_still_empty(admin: BackendClient, tmp_path: Path) -> None:
    assert health(admin, "Model store") == (True, "is empty")
    admin.services.store.write("projects/1/serving.json", b"{}")
    JobCounts(admin.services.redis).gate_decided(True, 1)
    assert health(admin, "Model store") == (True, "answers")
    assert health(admin, "Disk")[1].endswith("GB free")

    (tmp_path / "store").rename(tmp_path / "not mounted")

    assert health(admin, "Model store") == (False, f"{tmp_path / 'store'} does not exist; is its disk mounted?")


def test_a_redis_that_does_not_get_its_file_written_is_not_well(
    admin: BackendClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = admin.services.redis.info()
    assert health(admin, "Redis")[1].endswith("everything written to disk")

    monkeypatch.setattr(
        admin.services.redis, "info", lambda: info | {"aof_last_write_status": "err"}
    )  # its disk is full

    is_well, words = health(admin, "Redis")
    assert not is_well
    assert "its last write to disk failed" in words


def test_a_redis_that_is_silent_is_waited_for_once(make_backend: Callable[..., BackendClient]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0)
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        admin = make_backend(login=ADMIN, basic_auth_user="admin", basic_auth_pass="right", redis_url=url)

        def connections(path: str) -> int:
            assert admin.get(path).status_code == 200
            accepted = []
            with suppress(BlockingIOError):
                while True:
                    accepted.append(silent.accept()[0])
            for connection in accepted:
                connection.close()
            return len(accepted)

        connections("/admin/jobs/")  # the first login waits for it as well

        once = 2  # the client repeats what fails
        assert connections("/admin/") == connections("/admin/api/overview") == once


def test_the_queue_pages_do_not_wait_for_a_redis_that_is_silent(make_backend: Callable[..., BackendClient]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        admin = make_backend(login=ADMIN, basic_auth_user="admin", basic_auth_pass="right", redis_url=url)

        page = admin.get("/admin/queues/0/view/workers", BROWSER_ACCEPTS)

    assert "Redis does not answer" in page.text


def test_the_queue_pages_show_where_redis_is_and_not_its_password(
    make_backend: Callable[..., BackendClient], own_redis: RedisServer
) -> None:
    with own_redis.client() as client:
        client.config_set("requirepass", "s3cret/wor@d")
    url = f"{own_redis.url}?password=s3cret/wor@d"
    admin = make_backend(login=ADMIN, basic_auth_user="admin", basic_auth_pass="right", redis_url=url)

    page = admin.get("/admin/queues/")

    assert own_redis.url in page.text
    assert "s3cret" not in page.text


@pytest.mark.parametrize(
    "path",
    [
        "7/view/queues",
        "7/data/queues.json",
        "0/view/jobs/retrain/lost/8/asc/1",
        "0/view/jobs/retrain/queued/0/asc/1",
        "0/data/jobs/retrain/lost/8/asc/1.json",
        "0/data/jobs/retrain/queued/0/asc/1.json",
        "0/data/jobs/retrain/queued/x/asc/1.json",
        "0/data/jobs/retrain/failed/8/asc/-1.json",
        "0/view/job/a%20b",
        "0/data/job/a%20b.json",
    ],
)
def test_an_odd_address_of_the_queue_pages_is_not_found(admin: BackendClient, path: str) -> None:
    page = admin.get(f"/admin/queues/{path}", BROWSER_ACCEPTS)

    assert page.status_code == 404
    assert "Back to the overview" in page.text


def test_what_others_typed_is_escaped_on_the_page(admin: BackendClient) -> None:
    store_annotation(admin.services.redis, make_correction(caption="<script>alert(1)</script>"))

    page = admin.get("/admin/projects/1/corrections/").text

    assert "&lt;script" in page
    assert "<script>alert" not in page


def test_the_queue_pages_show_json_jobs_and_their_failures(admin: BackendClient) -> None:
    job_id = failed_job(admin)

    facts = admin.get(f"/admin/queues/0/data/job/{job_id}.json").get_json()
    listed = admin.get(f"/admin/queues/0/data/jobs/{LABEL_STUDIO_QUEUE}/failed/8/asc/1.json").get_json()

    assert facts["status"] == "failed"
    assert "ValueError: math domain error" in facts["exc_info"]
    assert [job["id"] for job in listed["jobs"]] == [job_id]
    assert admin.get(f"/admin/queues/0/view/job/{job_id}").status_code == 200
    assert admin.get("/admin/queues/").status_code == 200
    assert admin.get("/admin/queues/0/data/workers.json").get_json() == {"workers": []}


class Trap:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_nothing_from_redis_is_unpickled_by_the_pages(admin: BackendClient, tmp_path: Path) -> None:
    job_id = failed_job(admin)
    trap = pickle.dumps(Trap(tmp_path / "unpickled"))
    admin.services.redis.hset(f"rq:job:{job_id}", mapping={"meta": trap, "data": trap})

    for path in (f"view/job/{job_id}", f"data/job/{job_id}.json", "data/workers.json"):
        admin.get(f"/admin/queues/0/{path}")
    for action in ("requeue", "delete"):
        admin.post(f"/admin/queues/job/{job_id}/{action}", None)
    admin.get("/admin/")

    assert not (tmp_path / "unpickled").exists()


def test_a_failed_job_can_be_retried_from_the_queue_pages(admin: BackendClient) -> None:
    job_id = failed_job(admin)

    response = admin.post(f"/admin/queues/job/{job_id}/requeue", None)

    assert response.get_json() == {"status": "OK"}
    assert queue(admin.services.redis, LABEL_STUDIO_QUEUE).get_job_ids() == [job_id]
    job = Job.fetch(job_id, connection=admin.services.redis, serializer=JSONSerializer)
    assert (job.args, job.meta) == ([-1], {"phase": "training"})
    again = admin.post(f"/admin/queues/job/{job_id}/requeue", None)
    assert (again.status_code, list(again.get_json())) == (409, ["error"])
    gone = admin.post("/admin/queues/job/nothing/requeue", None)
    assert (gone.status_code, list(gone.get_json())) == (404, ["error"])


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Referer": "http://evil.example/page"},
        {"Origin": "http://localhost.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
    ],
)
def test_actions_that_other_sites_make_a_browser_send_are_refused(
    admin: BackendClient, headers: dict[str, str]
) -> None:
    job_id = failed_job(admin)

    answers = [
        admin.post(f"/admin/queues/job/{job_id}/delete", None, headers),
        admin.post(f"/admin/queues/queue/{LABEL_STUDIO_QUEUE}/failed/empty", None, headers),
        admin.get(f"/admin/queues/requeue/{LABEL_STUDIO_QUEUE}", headers),
    ]

    assert [answer.status_code for answer in answers] == [403, 403, 405]
    assert queue(admin.services.redis, LABEL_STUDIO_QUEUE).failed_job_registry.get_job_ids() == [job_id]


def test_failed_jobs_are_not_retried_by_following_a_link(admin: BackendClient) -> None:
    job_id = failed_job(admin)

    followed = admin.get(f"/admin/queues/requeue/{LABEL_STUDIO_QUEUE}")
    sent = admin.post(f"/admin/queues/requeue/{LABEL_STUDIO_QUEUE}", None)

    assert (followed.status_code, followed.headers["Allow"]) == (405, "POST")
    assert sent.get_json() == {"status": "OK", "count": 1}
    assert queue(admin.services.redis, LABEL_STUDIO_QUEUE).get_job_ids() == [job_id]
