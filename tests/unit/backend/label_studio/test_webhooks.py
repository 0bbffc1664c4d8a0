"""Faults of a webhook are named, without a Label Studio."""

from collections.abc import Sequence
from typing import Any

import pytest

from backend.label_studio.client import ConnectedBackend, Webhook
from backend.label_studio.webhooks import NEEDED_ACTIONS, WebhookFault, credentials, find_fault
from worker.settings import Settings

BACKEND = "http://backend:9090"
LOGIN = Settings(basic_auth_user="label", basic_auth_pass="studio")
LOGIN_HEADER = {"Authorization": "Basic bGFiZWw6c3R1ZGlv"}
SECRET = Settings(webhook_secret="s3cret")
SECRET_HEADER = {"X-Webhook-Secret": "s3cret"}
BOTH = Settings(basic_auth_user="label", basic_auth_pass="studio", webhook_secret="s3cret")


def make_webhook(**changes: Any) -> Webhook:
    values: dict[str, Any] = {
        "webhook_id": 3,
        "url": f"{BACKEND}/webhook",
        "headers": {},
        "is_active": True,
        "is_for_all_actions": True,
        "actions": [],
        "sends_payload": True,
    }
    return Webhook(**values | changes)


def make_backend(url: str = BACKEND) -> ConnectedBackend:
    return ConnectedBackend(
        backend_id=1,
        url=url,
        title="captioner",
        state="Connected",
        model_version="v1",
        auth_method="NONE",
        basic_auth_user=None,
    )


def fault_of(
    *webhooks: Webhook, settings: Settings | None = None, url: str = BACKEND, former: Sequence[str] = ()
) -> WebhookFault | None:
    ours = make_backend(url)
    return find_fault(webhooks, ours, former, settings or Settings())


def test_the_webhook_that_label_studio_makes_is_right_for_an_open_backend() -> None:
    assert fault_of(make_webhook()) is None


@pytest.mark.parametrize(
    ("settings", "headers"),
    [(LOGIN, LOGIN_HEADER), (SECRET, SECRET_HEADER), (BOTH, LOGIN_HEADER), (BOTH, SECRET_HEADER)],
)
def test_a_webhook_with_login_or_secret_is_right_for_a_protected_backend(
    settings: Settings, headers: dict[str, str]
) -> None:
    assert fault_of(make_webhook(headers=headers), settings=settings) is None


def test_header_names_may_be_written_in_any_case() -> None:
    assert fault_of(make_webhook(headers={"x-webhook-secret": "s3cret"}), settings=SECRET) is None


@pytest.mark.parametrize("settings", [LOGIN, SECRET, BOTH])
def test_a_webhook_without_credentials_is_at_fault(settings: Settings) -> None:
    fault = fault_of(make_webhook(), settings=settings)

    assert fault is not None
    assert fault.reason == "does not carry the backend's credentials"


def test_a_login_inside_the_address_counts() -> None:
    url = "http://label:studio@backend:9090"

    assert fault_of(make_webhook(url=f"{url}/webhook"), settings=LOGIN, url=url) is None
    assert fault_of(make_webhook(url=f"{url}/webhook"), settings=LOGIN) is None


def test_a_wrong_password_is_at_fault() -> None:
    assert fault_of(make_webhook(headers={"Authorization": "Basic eDp5"}), settings=LOGIN) is not None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_active": False}, "is switched off"),
        ({"sends_payload": False}, "is sent without its payload"),
        (
            {"is_for_all_actions": False, "actions": sorted(NEEDED_ACTIONS - {"ANNOTATIONS_DELETED"})},
            "is not sent for ANNOTATIONS_DELETED",
        ),
    ],
)
def test_a_webhook_that_reports_too_little_is_at_fault(changes: dict[str, Any], reason: str) -> None:
    webhook = make_webhook(**changes)

    assert fault_of(webhook) == WebhookFault(reason=reason, webhook=webhook)


def test_a_webhook_for_just_the_needed_actions_is_right() -> None:
    needed = ["ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED", "TASKS_DELETED"]

    assert fault_of(make_webhook(is_for_all_actions=False, actions=needed)) is None


def test_a_missing_webhook_is_to_be_created() -> None:
    assert fault_of() == WebhookFault(reason="is missing", webhook=None)


def test_a_webhook_to_the_backends_old_address_is_to_be_moved() -> None:
    old = make_webhook(url="http://old:9090/webhook")

    fault = fault_of(old, former=["http://old:9090"])

    assert fault is not None
    assert fault.webhook == old
    assert fault.reason == "goes to http://old:9090/webhook instead of http://backend:9090/webhook"


def test_webhooks_of_others_are_left_alone() -> None:
    # Neither address was ever proved to be ours, even where only one of them looks like a backend's.
    hooks = [make_webhook(url="http://other:9090/webhook"), make_webhook(url="http://chat.test/hooks/17")]

    assert fault_of(*hooks) == WebhookFault(reason="is missing", webhook=None)


def test_credentials_are_the_secret_where_there_is_one() -> None:
    assert credentials(Settings()) == {}
    assert credentials(LOGIN) == LOGIN_HEADER
    assert credentials(BOTH) == SECRET_HEADER
