"""A backend behind basic auth, with a personal access token: what Label Studio leaves out must not cost corrections."""

from collections.abc import Callable, Mapping, Sequence

import pytest
import requests

from backend.demo.user import LabelStudioUser
from backend.label_studio.webhooks import credentials, webhook_url
from tests.e2e.conftest import Connected, LabelStudio, Product
from tests.e2e.drawn_pictures import seeds_with
from worker.settings import Settings

LOGIN = {"BASIC_AUTH_USER": "captioner", "BASIC_AUTH_PASS": "pass: word"}


@pytest.fixture(scope="module")
def personal_access_token(label_studio: LabelStudio) -> str:
    """The token a person makes in Account & Settings; Label Studio keeps one for each user."""
    legacy = {"Authorization": f"Token {label_studio.account.token}"}
    reply = requests.post(f"{label_studio.url}/api/token/", headers=legacy, timeout=10)
    assert reply.status_code == 201, reply.text
    return str(reply.json()["token"])


@pytest.fixture(scope="module")
def product(start_product: Callable[[str, Mapping[str, str]], Product], personal_access_token: str) -> Product:
    return start_product("protected", LOGIN | {"LABEL_STUDIO_API_KEY": personal_access_token})


@pytest.fixture(scope="module")
def connected(product: Product, connect: Callable[[Product, str, Sequence[int]], Connected]) -> Connected:
    return connect(product, "Behind a login", seeds_with("square", 5))


@pytest.fixture
def repaired_webhook(product: Product, connected: Connected) -> None:
    """Wait until the product has given the webhook its login."""
    expected = credentials(Settings(basic_auth_user=LOGIN["BASIC_AUTH_USER"], basic_auth_pass=LOGIN["BASIC_AUTH_PASS"]))

    def carries_login() -> bool:
        return all(webhook.headers == expected for webhook in product.client.webhooks(connected.project_id))

    product.wait("to mend the webhook", carries_login)


def correct_next(user: LabelStudioUser, connected: Connected, caption: str) -> int:
    """Submit a caption for the next task of the label stream; returns the annotation."""
    return user.submit(connected.project_id, user.next_task(connected.project_id), caption)


def forget_login(product: Product, connected: Connected) -> None:
    """Leave the webhook as Label Studio makes it."""
    [webhook] = product.client.webhooks(connected.project_id)
    product.client.mend_webhook(webhook.webhook_id, webhook_url(product.url), {})


def test_images_are_fetched_with_a_personal_access_token(
    user: LabelStudioUser, product: Product, connected: Connected
) -> None:
    task = user.next_task(connected.project_id)

    assert product.client.key_kind == "personal access token"
    assert task.prefilled is not None
    assert task.prefilled.model_version == product.bundle_version


@pytest.mark.usefixtures("repaired_webhook")
def test_the_webhook_is_repaired_by_itself_and_corrections_arrive(
    user: LabelStudioUser, product: Product, connected: Connected
) -> None:
    annotation = correct_next(user, connected, "a box behind a login")

    assert product.inbox(connected.project_id)[annotation].caption == "a box behind a login"


def test_events_without_the_login_are_refused(product: Product) -> None:
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 1}}

    reply = requests.post(f"{product.url}/webhook", json=event, timeout=5)

    assert reply.status_code == 401
    assert "BASIC_AUTH_USER" in reply.json()["error"]


@pytest.mark.usefixtures("repaired_webhook")
def test_the_doctor_repairs_a_webhook_and_what_it_missed_is_pulled(
    user: LabelStudioUser, product: Product, connected: Connected
) -> None:
    forget_login(product, connected)
    missed = correct_next(user, connected, "a box that nobody reported")
    assert missed not in product.inbox(connected.project_id)

    diagnosis = product.run("doctor")
    repaired = product.run("doctor", "--repair")
    arrived = correct_next(user, connected, "a box after the repair")

    assert diagnosis.returncode == 1
    assert "does not carry the backend's credentials" in diagnosis.stdout
    assert repaired.returncode == 0, repaired.stdout
    assert "repaired project" in repaired.stdout
    assert arrived in product.inbox(connected.project_id)
    product.wait("to pull what was missed", lambda: missed in product.inbox(connected.project_id))
    assert LOGIN["BASIC_AUTH_PASS"] not in diagnosis.stdout + repaired.stdout


@pytest.mark.usefixtures("repaired_webhook")
def test_a_restarted_backend_goes_on_and_what_came_meanwhile_is_pulled_before_training(
    user: LabelStudioUser, product: Product, connected: Connected
) -> None:
    before = user.serving_version(connected.backend_id)
    task = user.next_task(connected.project_id)
    product.stop_backend()
    missed = user.submit(connected.project_id, task, "a box while the backend was away")
    product.start_backend()

    user.start_training(connected.backend_id)

    assert user.serving_version(connected.backend_id) == before
    product.wait("to pull what was missed", lambda: missed in product.inbox(connected.project_id))
    assert user.next_task(connected.project_id).prefilled is not None
