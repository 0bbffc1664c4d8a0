from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from model.errors import SettingsError
from worker.settings import Settings, hide_password, setting_rows

BAD_VALUES = [
    ("HOST", "no host", "HOST must be an IP address or a host name, got no host"),
    ("HOST", "http://0.0.0.0", "HOST must be an IP address or a host name, got http://0.0.0.0"),
    ("PORT", "0", "PORT must be between 1 and 65535, got 0"),
    ("PORT", "65536", "PORT must be between 1 and 65535, got 65536"),
    ("PORT", "http", "PORT must be a whole number, between 1 and 65535, got http"),
    ("REDIS_URL", "localhost:6379", "REDIS_URL must be an address like redis://host:6379/0, rediss://... or unix:"),
    ("REDIS_URL", "redis://", "REDIS_URL must be an address like redis://host:6379/0"),
    ("REDIS_URL", "redis://:secret@/0", "REDIS_URL must be an address like redis://host:6379/0"),
    (
        "REDIS_URL",
        "redis+sentinel://:secret@a:26379,b:26379/main/0",
        "REDIS_URL must be the address of one server, because Sentinel is not supported (name a host that always "
        "leads to the primary, such as a managed Redis or HAProxy before your servers), got redis+sentinel://***@a",
    ),
    ("REDIS_URL", "rediss://h?ssl_ca_cert=/ca.pem", "REDIS_URL must be an address whose options redis-py knows, like"),
    ("REDIS_URL", "redis://h?ssl_ca_certs=/ca.pem", "REDIS_URL must be an address whose options redis-py knows, like"),
    (
        "REDIS_URL",
        "rediss://:secret@h/0?ssl_ca_certs=/nowhere/ca.pem",
        "REDIS_URL must be an address whose ssl_ca_certs names a file with certificates (/nowhere/ca.pem is no file "
        "here), got rediss://***@h/0",
    ),
    (
        "LABEL_STUDIO_URL",
        "ftp://h",
        "LABEL_STUDIO_URL must be an address like http://host:8080 or https://..., got ftp",
    ),
    ("LABEL_STUDIO_URL", "http://h:port", "LABEL_STUDIO_URL must be an address like http://host:8080"),
    ("LABEL_STUDIO_URL", "http://[h", "LABEL_STUDIO_URL must be an address like http://host:8080"),
    ("LABEL_STUDIO_API_KEY", "tök", "LABEL_STUDIO_API_KEY must be printable ASCII without spaces around it"),
    ("BASIC_AUTH_USER", "a:b", "BASIC_AUTH_USER must be printable ASCII without a colon"),
    ("BASIC_AUTH_USER", "ä", "BASIC_AUTH_USER must be printable ASCII without a colon"),
    ("BASIC_AUTH_PASS", "a\tb", "BASIC_AUTH_PASS must be printable ASCII without spaces around it"),
    ("WEBHOOK_SECRET", "a\nb", "WEBHOOK_SECRET must be printable ASCII without spaces around it"),
    ("BEAM_SIZE", "0", "BEAM_SIZE must be between 1 and 50, got 0"),
    ("BEAM_SIZE", "three", "BEAM_SIZE must be a whole number, between 1 and 50, got three"),
    ("ALTERNATIVES", "51", "ALTERNATIVES must be between 1 and 50, got 51"),
    ("RETRAIN_AFTER", "0", "RETRAIN_AFTER must be 1 or more, got 0"),
    ("RETRAIN_AFTER", "many", "RETRAIN_AFTER must be a whole number, 1 or more, got many"),
    ("RETRAIN_AFTER", "1_000", "RETRAIN_AFTER must be a whole number, 1 or more, got 1_000"),
    ("RETRAIN_AFTER", "9" * 20, "RETRAIN_AFTER must be a whole number, 1 or more, got 999"),
    ("RETRAIN_AFTER", "٣", "RETRAIN_AFTER must be a whole number, 1 or more, got ٣"),
    ("RETRAIN_IDLE_S", "-1", "RETRAIN_IDLE_S must be 0 or more, got -1"),
    ("RETRAIN_BUDGET_S", "1.0", "RETRAIN_BUDGET_S must be a whole number, between 1 and 86400, got 1.0"),
    ("GATE_CONFIDENCE", "49", "GATE_CONFIDENCE must be between 50 and 100, got 49"),
    ("GATE_TOLERANCE", "-5", "GATE_TOLERANCE must be 0 or more, got -5"),
    ("ROLLBACK_MARGIN", "10%", "ROLLBACK_MARGIN must be a whole number, between 0 and 100, got 10%"),
    ("KEEP_VERSIONS", "1", "KEEP_VERSIONS must be 2 or more, got 1"),
    ("KEEP_FEATURES_GB", "0", "KEEP_FEATURES_GB must be 1 or more, got 0"),
    ("RECONCILE_EVERY_S", "5m", "RECONCILE_EVERY_S must be a whole number, 0 or more, got 5m"),
    ("REFRESH_PREDICTIONS", "perhaps", "REFRESH_PREDICTIONS must be true or false, got perhaps"),
    ("REFRESH_PREDICTIONS", "2", "REFRESH_PREDICTIONS must be true or false, got 2"),
    ("HIDE_SUGGESTIONS_SHARE", "51", "HIDE_SUGGESTIONS_SHARE must be between 0 and 50, got 51"),
    ("HIDE_SUGGESTIONS_SHARE", "0.1", "HIDE_SUGGESTIONS_SHARE must be a whole number, between 0 and 50, got 0.1"),
    ("DECODER_ALONE_SHARE", "60", "DECODER_ALONE_SHARE must be between 0 and 50, got 60"),
    ("LOG_FORMAT", "xml", "LOG_FORMAT must be text or json, got xml"),
]
CHECKED_WHERE_THEY_ARE_OPENED = {"MODEL_STORE", "CAPTION_BUNDLE", "ADMIN_USERS_FILE", "ALLOWED_IMAGE_HOSTS"}
"""Any text that is not empty may be a path; tests/unit/backend/images/test_addresses.py checks the hosts."""


def test_an_empty_environment_gives_what_docker_compose_needs() -> None:
    settings = Settings.from_env({})

    assert settings.redis_url == "redis://redis:6379/0"
    assert settings.label_studio_url == "http://label-studio:8080"
    assert (settings.port, settings.caption_bundle) == (9090, "photos")
    assert (settings.retrain_after, settings.retrain_idle_s, settings.retrain_budget_s) == (20, 300, 45)
    assert settings.reconcile_every_s == 300
    assert settings.label_studio_api_key is None


def test_values_are_read_by_their_type_and_blank_values_leave_the_default() -> None:
    settings = Settings.from_env(
        {"PORT": " 9191 ", "REFRESH_PREDICTIONS": "Off", "RETRAIN_AFTER": "", "WEBHOOK_SECRET": "   ", "OTHER": "x"}
    )

    assert (settings.port, settings.refresh_predictions, settings.retrain_after) == (9191, False, 20)
    assert settings.webhook_secret is None


def test_only_names_in_capitals_are_settings() -> None:
    assert Settings.from_env({"port": "9191", "Host": "::1"}) == Settings()


def test_from_env_reads_the_environment_and_a_call_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9191")

    assert (Settings.from_env().port, Settings().port) == (9191, 9090)


def test_no_dot_env_file_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=9191\n")
    monkeypatch.chdir(tmp_path)

    assert (Settings.from_env({}).port, Settings().port) == (9090, 9090)


@pytest.mark.parametrize(("name", "value", "message"), BAD_VALUES)
def test_a_bad_value_names_itself_and_what_would_do(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.from_env({name: value})

    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_every_setting_that_can_be_wrong_has_a_bad_value_above() -> None:
    names = {name for name, _, _ in BAD_VALUES}

    assert names | CHECKED_WHERE_THEY_ARE_OPENED == {row.name for row in setting_rows()}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"retrain_after": 0}, "RETRAIN_AFTER must be 1 or more, got 0"),
        ({"retrain_after": 1.5}, "RETRAIN_AFTER must be a whole number, 1 or more, got 1.5"),
        ({"model_store": ""}, "MODEL_STORE must be a text that is not empty, got "),
        ({"model_store": None}, "MODEL_STORE must be a text, got "),
        ({"caption_bundle": ""}, "CAPTION_BUNDLE must be a text that is not empty, got "),
        ({"admin_users_file": ""}, "ADMIN_USERS_FILE must be the path of a file, got "),
        ({"retrain_aftr": 5}, "RETRAIN_AFTR is no setting"),
    ],
)
def test_values_given_in_code_are_checked_too(value: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings(**value)

    assert str(refusal.value) == message


def test_all_bad_values_are_named_at_once() -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.from_env({"PORT": "0", "LOG_FORMAT": "xml"})

    assert str(refusal.value) == ("PORT must be between 1 and 65535, got 0; LOG_FORMAT must be text or json, got xml")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"BASIC_AUTH_USER": "me"}, "BASIC_AUTH_PASS must be set beside BASIC_AUTH_USER; set both or neither"),
        ({"BASIC_AUTH_PASS": "pw"}, "BASIC_AUTH_USER must be set beside BASIC_AUTH_PASS; set both or neither"),
        ({"ALTERNATIVES": "5"}, r"ALTERNATIVES must be BEAM_SIZE \(3\) or less, got 5; raise BEAM_SIZE"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings.from_env(environ)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 9191


@pytest.mark.parametrize("name", ["LABEL_STUDIO_API_KEY", "BASIC_AUTH_PASS", "WEBHOOK_SECRET"])
@pytest.mark.parametrize("value", ["pass\x07word", 15_007, ["password"]])
def test_a_bad_secret_is_refused_without_showing_it(name: str, value: Any) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings(**{name.lower(): value})

    assert f"{name} must be " in str(refusal.value)
    assert str(refusal.value).endswith("got ***")


@pytest.mark.parametrize("name", ["REDIS_URL", "LABEL_STUDIO_URL"])
def test_a_password_in_a_bad_address_is_not_shown(name: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.from_env({name: "ftp://user:hidden@host"})

    assert "hidden" not in str(refusal.value)


def test_no_secret_is_in_the_repr() -> None:
    settings = Settings.from_env(
        {
            "LABEL_STUDIO_API_KEY": "tok-hidden",
            "BASIC_AUTH_USER": "me",
            "BASIC_AUTH_PASS": "pass-hidden",
            "WEBHOOK_SECRET": "hook-hidden",
            "REDIS_URL": "rediss://user:redis-hidden@host:6379/0",
        }
    )

    for text in (repr(settings), str(settings), str(settings.shown())):
        assert "hidden" not in text
    assert "pass-hidden" not in str(vars(settings))
    assert settings.shown()["REDIS_URL"] == "rediss://***@host:6379/0"
    assert settings.basic_auth_pass == SecretStr("pass-hidden")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:p/w#d@host:6379/0", "redis://***@host:6379/0"),
        ("unix:///run/redis.sock?db=1&password=pw", "unix:///run/redis.sock?db=1&password=***"),
        ("/data/store", "/data/store"),
    ],
)
def test_a_password_inside_an_address_is_hidden(address: str, shown: str) -> None:
    assert hide_password(address) == shown


def test_the_rows_name_every_setting_with_the_default_that_the_environment_would_have() -> None:
    rows = setting_rows()

    assert [row.name for row in rows] == [name.upper() for name in Settings.model_fields]
    assert all(row.meaning for row in rows)
    assert {row.name for row in rows if row.is_secret} == {"LABEL_STUDIO_API_KEY", "BASIC_AUTH_PASS", "WEBHOOK_SECRET"}
    assert Settings.from_env({row.name: row.default for row in rows}) == Settings()
