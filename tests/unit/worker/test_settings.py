import dataclasses

import pytest

from model.errors import SettingsError
from worker.settings import Settings, hide_password, setting_rows


def test_an_empty_environment_gives_what_docker_compose_needs() -> None:
    settings = Settings.from_env({})

    assert settings.redis_url == "redis://redis:6379/0"
    assert settings.label_studio_url == "http://label-studio:8080"
    assert (settings.port, settings.caption_bundle) == (9090, "photos")
    assert (settings.retrain_after, settings.retrain_idle_s, settings.retrain_budget_s) == (20, 300, 45)
    assert settings.reconcile_every_s == 300
    assert settings.label_studio_api_key is None


def test_values_are_read_by_their_type_and_blank_ones_leave_the_default() -> None:
    settings = Settings.from_env(
        {"PORT": " 9191 ", "REFRESH_PREDICTIONS": "Off", "RETRAIN_AFTER": "", "WEBHOOK_SECRET": "   ", "OTHER": "x"}
    )

    assert (settings.port, settings.refresh_predictions, settings.retrain_after) == (9191, False, 20)
    assert settings.webhook_secret is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RETRAIN_AFTER", "0", "RETRAIN_AFTER must be 1 or more, got 0"),
        ("RETRAIN_AFTER", "many", "RETRAIN_AFTER must be a whole number, 1 or more, got many"),
        ("RETRAIN_AFTER", "1_000", "RETRAIN_AFTER must be a whole number, 1 or more, got 1_000"),
        ("RETRAIN_IDLE_S", "-1", "RETRAIN_IDLE_S must be 0 or more, got -1"),
        ("RETRAIN_BUDGET_S", "1.5", "RETRAIN_BUDGET_S must be a whole number, between 1 and 86400, got 1.5"),
        ("HIDE_SUGGESTIONS_SHARE", "51", "HIDE_SUGGESTIONS_SHARE must be between 0 and 50, got 51"),
        ("HIDE_SUGGESTIONS_SHARE", "0.1", "HIDE_SUGGESTIONS_SHARE must be a whole number, between 0 and 50, got 0.1"),
        ("PORT", "65536", "PORT must be between 1 and 65535, got 65536"),
        ("HOST", "no host", "HOST must be an IP address or a host name, got no host"),
        ("REFRESH_PREDICTIONS", "perhaps", "REFRESH_PREDICTIONS must be true or false, got perhaps"),
        ("LOG_FORMAT", "xml", "LOG_FORMAT must be text or json, got xml"),
        ("BEAM_SIZE", "0", "BEAM_SIZE must be between 1 and 50, got 0"),
        ("REDIS_URL", "localhost:6379", "REDIS_URL must be an address like redis://host:6379/0"),
        ("REDIS_URL", "redis://", "REDIS_URL must be an address like redis://host:6379/0"),
        ("LABEL_STUDIO_URL", "ftp://h", "LABEL_STUDIO_URL must be an address like http://host:8080"),
        ("LABEL_STUDIO_URL", "http://h:port", "LABEL_STUDIO_URL must be an address like http://host:8080"),
        ("BASIC_AUTH_USER", "a:b", "BASIC_AUTH_USER must be printable ASCII without a colon"),
    ],
)
def test_a_bad_value_names_itself_and_what_would_do(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.from_env({name: value})

    assert str(refusal.value).startswith(message)


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


@pytest.mark.parametrize("name", ["LABEL_STUDIO_API_KEY", "BASIC_AUTH_PASS", "WEBHOOK_SECRET"])
def test_a_bad_secret_is_refused_without_showing_it(name: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.from_env({name: "pass\x07word"})

    assert name in str(refusal.value)
    assert "word" not in str(refusal.value)


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

    assert "hidden" not in repr(settings)
    assert "hidden" not in str(settings.shown())
    assert settings.shown()["REDIS_URL"] == "rediss://***@host:6379/0"


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


def test_values_given_in_code_are_checked_too() -> None:
    with pytest.raises(SettingsError, match="RETRAIN_AFTER must be 1 or more, got 0"):
        Settings(retrain_after=0)


def test_the_rows_name_every_setting_with_the_default_that_the_environment_would_have() -> None:
    rows = setting_rows()

    assert [row.name for row in rows] == [declared.name.upper() for declared in dataclasses.fields(Settings)]
    assert all(row.meaning for row in rows)
    assert {row.name for row in rows if row.is_secret} == {"LABEL_STUDIO_API_KEY", "BASIC_AUTH_PASS", "WEBHOOK_SECRET"}
    assert Settings.from_env({row.name: row.default for row in rows}) == Settings()
