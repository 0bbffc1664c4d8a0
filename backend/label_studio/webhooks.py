"""The webhook through which Label Studio reports annotations: finding its faults, and repairing it.

Label Studio creates the webhook when a backend is connected, without the backend's login. It never changes the webhook
afterwards, not even when the backend moves or is removed.
"""

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

from backend.label_studio.client import ConnectedBackend, LabelStudioClient, Webhook
from backend.protocol.headers import WEBHOOK_HEADER
from worker.settings import Settings

NEEDED_ACTIONS = frozenset(
    {"ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED", "TASKS_DELETED"}
)
"""Actions that must be reported. Without them a correction would be missed, or never removed."""


@dataclass(frozen=True, kw_only=True)
class WebhookFault:
    """A reason why events do not arrive."""

    reason: str
    webhook: Webhook | None
    """The webhook to repair; None when there is none."""
    lacks_credentials: bool = False
    """True if missing credentials are the only fault."""


def find_fault(
    webhooks: Sequence[Webhook], ours: ConnectedBackend, former: Collection[str], settings: Settings
) -> WebhookFault | None:
    """Return the fault that keeps events from our backend; None if they arrive.

    Args:
        webhooks: all webhooks of the project.
        ours: the backend that has proved to be ours.
        former: addresses that our backend had in this project. A webhook to one of them is ours too.
    """
    url = webhook_url(ours.url)
    webhook = next((webhook for webhook in webhooks if _same_address(webhook.url, url)), None)
    if webhook is None:
        return _missing(webhooks, former, url)
    if not webhook.is_active:
        return WebhookFault(reason="is switched off", webhook=webhook)
    if not webhook.is_for_all_actions and (missing := NEEDED_ACTIONS.difference(webhook.actions)):
        return WebhookFault(reason=f"is not sent for {', '.join(sorted(missing))}", webhook=webhook)
    if not webhook.sends_payload:
        return WebhookFault(reason="is sent without its payload", webhook=webhook)
    if not _carries_credentials(webhook, settings):
        reason = "does not carry the backend's credentials"
        return WebhookFault(reason=reason, webhook=webhook, lacks_credentials=True)
    return None


def mend(
    client: LabelStudioClient, project_id: int, ours: ConnectedBackend, fault: WebhookFault, settings: Settings
) -> None:
    """Create or repair the webhook; headers that others added stay.

    Raises:
        LabelStudioError: Label Studio refuses, for example because it guards private addresses.
    """
    url, headers = webhook_url(ours.url), credentials(settings)
    if fault.webhook is None:
        client.create_webhook(project_id, url, headers)
    else:
        client.mend_webhook(fault.webhook.webhook_id, url, {**fault.webhook.headers, **headers})


def webhook_url(backend_url: str) -> str:
    """Return the address to which Label Studio sends the events of a backend."""
    return backend_url.rstrip("/") + "/webhook"


def credentials(settings: Settings) -> dict[str, str]:
    """Return the headers that our backend requires of a webhook: the secret if one is set, else the login."""
    if settings.webhook_secret is not None:
        return {WEBHOOK_HEADER: settings.webhook_secret.get_secret_value()}
    login = _our_login(settings)
    return {} if login is None else {"Authorization": login}


def _missing(webhooks: Sequence[Webhook], former: Collection[str], url: str) -> WebhookFault:
    # Perhaps Label Studio created it for an earlier address of the backend.
    earlier = {_address(webhook_url(address)) for address in former}
    left = next((hook for hook in webhooks if _address(hook.url) in earlier), None)
    if left is not None:
        return WebhookFault(reason=f"goes to {_address(left.url)} instead of {_address(url)}", webhook=left)
    return WebhookFault(reason="is missing", webhook=None)


def _carries_credentials(webhook: Webhook, settings: Settings) -> bool:
    sent, secret = {name.lower(): value for name, value in webhook.headers.items()}, settings.webhook_secret
    if secret is not None and sent.get(WEBHOOK_HEADER.lower()) == secret.get_secret_value():
        return True
    login = _our_login(settings)
    if login is None:
        return secret is None
    return login in {sent.get("authorization"), _login_in(webhook.url)}


def _our_login(settings: Settings) -> str | None:
    user, password = settings.basic_auth_user, settings.basic_auth_pass
    return None if user is None or password is None else _basic(user, password.get_secret_value())


def _login_in(url: str) -> str | None:
    """Return the header for the login in an address such as `http://user:password@host/`."""
    parts = urlsplit(url)
    if parts.username is None:
        return None
    return _basic(unquote(parts.username), unquote(parts.password or ""))


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _same_address(url: str, other: str) -> bool:
    return _address(url) == _address(other)


def _address(url: str) -> str:
    """Return the URL without a login in it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
