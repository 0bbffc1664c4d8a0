"""Login, secret and origin of requests, checked without a server."""

import pytest
from flask import Flask, request

from backend.access.login import has_login, is_same_origin, may_report_events
from backend.protocol.headers import WEBHOOK_HEADER
from tests.backend_client import basic_auth
from worker.settings import Settings

PROTECTED = Settings(basic_auth_user="admin", basic_auth_pass="a:b c", webhook_secret="s3cret")
APP = Flask(__name__)


@pytest.mark.parametrize(
    ("headers", "settings", "may"),
    [
        (basic_auth("admin", "a:b c"), PROTECTED, True),
        (basic_auth("admin", "a:b"), PROTECTED, False),
        (basic_auth("Admin", "a:b c"), PROTECTED, False),
        (basic_auth("", ""), PROTECTED, False),
        ({"Authorization": "Digest username=admin"}, PROTECTED, False),
        ({}, PROTECTED, False),
        (basic_auth("", ""), Settings(), False),
    ],
)
def test_a_login_is_user_and_password(headers: dict[str, str], settings: Settings, may: bool) -> None:
    with APP.test_request_context(headers=headers):
        assert has_login(request, settings) is may


@pytest.mark.parametrize(
    ("headers", "settings", "may"),
    [
        ({}, Settings(), True),
        ({}, Settings(webhook_secret="s"), False),
        ({WEBHOOK_HEADER: "s"}, Settings(webhook_secret="s"), True),
        ({WEBHOOK_HEADER: "ß"}, Settings(webhook_secret="s"), False),
        ({WEBHOOK_HEADER: "s3cret"}, PROTECTED, True),
        (basic_auth("admin", "a:b c"), PROTECTED, True),
        ({}, PROTECTED, False),
    ],
)
def test_events_are_trusted_with_the_login_or_the_secret(
    headers: dict[str, str], settings: Settings, may: bool
) -> None:
    with APP.test_request_context(headers=headers):
        assert may_report_events(request, settings) is may


@pytest.mark.parametrize(
    ("headers", "same"),
    [
        ({}, True),
        ({"Origin": "http://localhost"}, True),
        ({"Origin": "https://localhost"}, True),
        ({"Referer": "http://localhost/admin/queues/"}, True),
        ({"Origin": "http://outside", "X-Forwarded-Host": "outside"}, True),
        ({"Origin": "http://localhost:81"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://evil", "Referer": "http://localhost/"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
    ],
)
def test_a_browsers_request_must_come_from_our_own_pages(headers: dict[str, str], same: bool) -> None:
    with APP.test_request_context(headers=headers):
        assert is_same_origin(request) is same
