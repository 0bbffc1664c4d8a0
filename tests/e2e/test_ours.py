"""Which projects are ours: backends of others and second installations in one real Label Studio."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler

import pytest
from redis import Redis

from backend.demo.user import LabelStudioUser
from backend.label_studio.webhooks import credentials
from tests.e2e.conftest import Product
from tests.e2e.drawn_pictures import draw_pictures
from tests.image_server import QuietServer, send
from worker.queue.backend_jobs import enqueue_backend_job
from worker.settings import Settings

STAGING = {"BASIC_AUTH_USER": "staging", "BASIC_AUTH_PASS": "first secret"}
PRODUCTION = {"BASIC_AUTH_USER": "production", "BASIC_AUTH_PASS": "second secret"}


@pytest.fixture(scope="module")
def staging(start_product: Callable[[str, Mapping[str, str]], Product]) -> Product:
    return start_product("staging", STAGING)


@pytest.fixture(scope="module")
def production(start_product: Callable[[str, Mapping[str, str]], Product]) -> Product:
    return start_product("production", PRODUCTION)


@pytest.fixture
def other_backend(staging: Product) -> Iterator[str]:
    """Return the address of a backend of another team. It answers with the version that ours answers with."""
    reply = json.dumps({"status": "UP", "model_version": staging.bundle_version}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            send(self, 200, reply, Content_Type="application/json")

        def do_GET(self) -> None:
            self.do_POST()

    with QuietServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def pull(product: Product) -> None:
    """Let the product pull every project, and wait."""
    with Redis.from_url(product.settings["REDIS_URL"]) as redis:
        before = len(product.finished_jobs("label-studio"))
        enqueue_backend_job(redis, "pull_projects")
    product.wait("to pull every project", lambda: len(product.finished_jobs("label-studio")) > before)


def headers_of(product: Product, project_id: int) -> dict[str, Mapping[str, str]]:
    return {webhook.url: webhook.headers for webhook in product.client.webhooks(project_id)}


def login(of: Mapping[str, str]) -> dict[str, str]:
    return credentials(Settings(basic_auth_user=of["BASIC_AUTH_USER"], basic_auth_pass=of["BASIC_AUTH_PASS"]))


def test_a_project_of_another_backend_is_not_repaired_and_not_pulled(
    user: LabelStudioUser,
    staging: Product,
    other_backend: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    project_id = user.create_project("another team's model")
    user.upload(project_id, draw_pictures(tmp_path_factory.mktemp("pictures"), [1]))
    user.connect_backend(project_id, other_backend)
    [task] = user.tasks(project_id)
    user.submit(project_id, task, "a caption of another team")

    report = staging.run("doctor", "--repair").stdout
    pull(staging)

    assert f"project {project_id} " not in report
    assert headers_of(staging, project_id) == {f"{other_backend}/webhook": {}}
    assert staging.inbox(project_id) == {}


def test_two_installations_in_one_project_keep_their_own_webhooks(
    user: LabelStudioUser, staging: Product, production: Product
) -> None:
    project_id = user.create_project("two captioners")
    expected = {}
    for product, of in ((staging, STAGING), (production, PRODUCTION)):
        user.connect_backend(project_id, product.url, of["BASIC_AUTH_USER"], of["BASIC_AUTH_PASS"])
        expected[f"{product.url}/webhook"] = login(of)
        product.wait("to add its login", lambda right=dict(expected): headers_of(staging, project_id) == right)  # type: ignore[misc]

    staging.run("doctor", "--repair")
    production.run("doctor", "--repair")

    assert headers_of(staging, project_id) == expected
    assert {backend.model_version for backend in staging.client.connected_backends(project_id)} == {
        staging.bundle_version
    }
