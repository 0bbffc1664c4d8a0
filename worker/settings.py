"""Settings: environment variables, read once per process and checked before anything starts.

Each setting is declared once, with its type, default and meaning; `setting_rows` hands the same facts to the
README's table, the compose file's check and the admin. Secrets are in no message and no repr.
"""

import dataclasses
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from model.errors import SettingsError

TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")


@dataclass(frozen=True, kw_only=True)
class SettingRow:
    """One setting as a person reads it: the environment variable, its default and what it means."""

    name: str
    default: str
    """As it would be written in the environment; empty when there is none."""
    meaning: str
    is_secret: bool


@dataclass(frozen=True, kw_only=True)
class _Check:
    """What a value must be, in words and as a test."""

    expected: str
    holds: Callable[[Any], bool]


def _setting(default: Any, meaning: str, check: _Check, *, secret: bool = False) -> Any:
    return field(default=default, metadata={"meaning": meaning, "check": check, "secret": secret})


def _whole(low: int, high: int | None = None) -> _Check:
    if high is None:
        return _Check(expected=f"{low} or more", holds=lambda value: value >= low)
    return _Check(expected=f"between {low} and {high}", holds=lambda value: low <= value <= high)


def _is_address(value: str | None, schemes: tuple[str, ...]) -> bool:
    if value is None:
        return True
    try:
        parts = urlsplit(value)
        _ = parts.port  # raises when it is not a number
    except ValueError:
        return False
    has_place = bool(parts.path) if parts.scheme == "unix" else bool(parts.hostname)
    return parts.scheme in schemes and has_place


def _is_host(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", value) is not None
    return True


def _is_header_safe(value: str | None) -> bool:
    return value is None or (value.isascii() and value.isprintable() and value == value.strip())


_HOST = _Check(expected="an IP address or a host name", holds=_is_host)
_REDIS_URL = _Check(
    expected="an address like redis://host:6379/0, rediss://... or unix:///path",
    holds=lambda value: _is_address(value, ("redis", "rediss", "unix")),
)
_HTTP_URL = _Check(
    expected="an address like http://host:8080 or https://...",
    holds=lambda value: _is_address(value, ("http", "https")),
)
_TEXT = _Check(expected="a text that is not empty", holds=bool)
_PATH = _Check(expected="the path of a file", holds=lambda value: value is None or bool(value))
_USER = _Check(
    expected="printable ASCII without a colon (HTTP basic auth separates user and password by it)",
    holds=lambda value: value is None or (_is_header_safe(value) and ":" not in value),
)
_SECRET = _Check(
    expected="printable ASCII without spaces around it (it travels in an HTTP header)", holds=_is_header_safe
)
_LOG_FORMAT = _Check(expected="text or json", holds=lambda value: value in {"text", "json"})
_SWITCH = _Check(expected="true or false", holds=lambda value: isinstance(value, bool))


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """Every setting of the product; the environment variable is the field's name in capitals.

    Raises SettingsError when a value cannot work, whether it came from the environment or from code.
    """

    host: str = _setting("0.0.0.0", "Address the backend listens on.", _HOST)  # noqa: S104 - a container serves others
    port: int = _setting(9090, "Port the backend listens on.", _whole(1, 65535))
    redis_url: str = _setting(
        "redis://redis:6379/0",
        "Redis that holds the inbox of corrections and the job queues; it must run with an append-only file.",
        _REDIS_URL,
    )
    model_store: str = _setting(
        "/data/store", "Directory or URL (any fsspec address) that holds model versions and features.", _TEXT
    )
    label_studio_url: str = _setting("http://label-studio:8080", "Where this backend reaches Label Studio.", _HTTP_URL)
    label_studio_api_key: str | None = _setting(
        None, "Legacy token or personal access token of a Label Studio user.", _SECRET, secret=True
    )
    basic_auth_user: str | None = _setting(
        None, "User that Label Studio and admins log in with; without it nothing is protected.", _USER
    )
    basic_auth_pass: str | None = _setting(None, "Password that belongs to BASIC_AUTH_USER.", _SECRET, secret=True)
    webhook_secret: str | None = _setting(
        None, "Shared secret that Label Studio's webhook sends as X-Webhook-Secret.", _SECRET, secret=True
    )
    admin_users_file: str | None = _setting(
        None, "File of further people who may sign in to the admin pages; `captioner user` writes it.", _PATH
    )
    caption_bundle: str = _setting(
        "photos", "Bundle to start captioning with: photos, scenes, or a path to your own.", _TEXT
    )
    beam_size: int = _setting(3, "Hypotheses beam search keeps for each image.", _whole(1, 50))
    alternatives: int = _setting(
        1, "Captions suggested for each image, best one last; at most BEAM_SIZE.", _whole(1, 50)
    )
    retrain_after: int = _setting(20, "New corrections that start a retraining.", _whole(1))
    retrain_idle_s: int = _setting(
        300, "Seconds without a new correction after which fewer start one too; 0 switches this off.", _whole(0)
    )
    retrain_budget_s: int = _setting(
        45, "Seconds of fitting that one retraining may take; loading and evaluation come on top.", _whole(1, 86400)
    )
    gate_confidence: int = _setting(
        80, "Per cent of certainty that a new version is better on new corrections, or it is refused.", _whole(50, 100)
    )
    gate_tolerance: int = _setting(
        35, "Per cent by which what was learned before may become less probable per word, or it is refused.", _whole(0)
    )
    rollback_margin: int = _setting(
        10,
        "Percentage points by which suggestions may be accepted less than the version before, or it serves again.",
        _whole(0, 100),
    )
    reconcile_every_s: int = _setting(
        300, "Seconds between two pulls of what webhooks missed from Label Studio; 0 switches this off.", _whole(0)
    )
    refresh_predictions: bool = _setting(
        True, "Write a new version's suggestions into Label Studio for tasks nobody has annotated.", _SWITCH
    )
    hide_suggestions_share: int = _setting(
        0, "Per cent of images that get no suggestion, to see what suggestions do to captions.", _whole(0, 50)
    )
    log_format: str = _setting("text", "How log lines are written: text, or json with a field per key.", _LOG_FORMAT)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the settings; a variable that is absent or empty leaves its default.

        Raises:
            SettingsError: the variable, its value and what would do.
        """
        environ = os.environ if environ is None else environ
        values = {}
        for declared in dataclasses.fields(cls):
            written = environ.get(declared.name.upper(), "").strip()
            if written:
                values[declared.name] = _parse(declared, written)
        return cls(**values)

    def __post_init__(self) -> None:
        for declared in dataclasses.fields(self):
            check: _Check = declared.metadata["check"]
            if not check.holds(getattr(self, declared.name)):
                raise _refusal(declared, check.expected, getattr(self, declared.name))
        if (self.basic_auth_user is None) != (self.basic_auth_pass is None):
            given, missing = ("USER", "PASS") if self.basic_auth_pass is None else ("PASS", "USER")
            raise SettingsError(f"BASIC_AUTH_{missing} must be set beside BASIC_AUTH_{given}; set both or neither")
        if self.alternatives > self.beam_size:
            raise SettingsError(
                f"ALTERNATIVES must be BEAM_SIZE ({self.beam_size}) or less, got {self.alternatives}; "
                f"raise BEAM_SIZE to have more captions to choose from"
            )

    def shown(self) -> dict[str, str]:
        """Return every setting as a person may see it: secrets and passwords inside addresses are starred."""
        return {
            declared.name.upper(): _shown(declared, getattr(self, declared.name))
            for declared in dataclasses.fields(self)
        }

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value}' for name, value in self.shown().items())})"


def setting_rows() -> tuple[SettingRow, ...]:
    """Return every setting in the order of the README's table."""
    return tuple(
        SettingRow(
            name=declared.name.upper(),
            default=_written(declared.default),
            meaning=declared.metadata["meaning"],
            is_secret=declared.metadata["secret"],
        )
        for declared in dataclasses.fields(Settings)
    )


def _parse(declared: "dataclasses.Field[Any]", written: str) -> Any:
    if declared.type is int:
        # int() also takes "1_000" and Arabic digits; a port or a count is written plainly.
        if re.fullmatch(r"[+-]?[0-9]+", written) is None:
            raise _refusal(declared, f"a whole number, {declared.metadata['check'].expected}", written)
        return int(written)
    if declared.type is bool:
        if written.lower() not in TRUE_WORDS + FALSE_WORDS:
            raise _refusal(declared, "true or false", written)
        return written.lower() in TRUE_WORDS
    return written


def _refusal(declared: "dataclasses.Field[Any]", expected: str, value: Any) -> SettingsError:
    return SettingsError(f"{declared.name.upper()} must be {expected}, got {_shown(declared, value)}")


def _written(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(declared: "dataclasses.Field[Any]", value: Any) -> str:
    if declared.metadata["secret"] and value is not None:
        return "***"
    return hide_password(_written(value))


def hide_password(address: str) -> str:
    """Return the address with the account and password in it starred; any other text unchanged."""
    # Up to the last @ and not by urlsplit: an unescaped / or # in a password would end the part it looks at.
    without_account = re.sub(r"(?<=://).*@", "***@", address)
    return re.sub(r"(?<=[?&]password=)[^&]*", "***", without_account)
