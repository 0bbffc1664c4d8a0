"""Settings: environment variables, read once per process and checked before anything starts.

Each setting is declared once, with its type, default and meaning. The table in the documentation, the check of
docker-compose.yml and the demo read the same declarations. Secrets appear in no message, log line or repr.
"""

import ipaddress
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from model.errors import SettingsError
from worker.redis_address import check_redis_url, is_address


def _form(expected: str, fits: Callable[[str], bool]) -> AfterValidator:
    """Check the form of a text; `expected` completes the sentence "NAME must be ..."."""

    def check(value: Any) -> Any:
        if not fits(value.get_secret_value() if isinstance(value, SecretStr) else value):
            raise ValueError(expected)
        return value

    return AfterValidator(check)


def _check_digits(value: Any) -> Any:
    """Refuse "1_000" and "1.0", which pydantic takes: a port or a count is written in plain digits."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value) is None:
        raise ValueError("a whole number")
    return value


def _is_host(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", value) is not None
    return True


def _is_header_safe(value: str) -> bool:
    return value.isascii() and value.isprintable() and value == value.strip()


Number = Annotated[int, BeforeValidator(_check_digits)]
Text = Annotated[str, _form("a text that is not empty", bool)]
File = Annotated[str, _form("the path of a file", bool)]
Host = Annotated[str, _form("an IP address or a host name", _is_host)]
RedisUrl = Annotated[str, AfterValidator(check_redis_url)]
HttpUrl = Annotated[
    str,
    _form("an address like http://host:8080 or https://...", lambda value: is_address(value, ("http", "https"))),
]
User = Annotated[
    str,
    _form(
        "printable ASCII without a colon (HTTP basic auth separates user and password by it)",
        lambda value: _is_header_safe(value) and ":" not in value,
    ),
]
Secret = Annotated[
    SecretStr, _form("printable ASCII without spaces around it (it travels in an HTTP header)", _is_header_safe)
]


class Settings(BaseSettings):
    """Every setting of the product; the environment variable is the field's name in capitals.

    `Settings(...)` takes the given values and the defaults. `from_env` reads the environment.

    Raises:
        SettingsError: a value cannot work, whether it came from the environment or from code.
    """

    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True)

    host: Host = Field("0.0.0.0", description="Address the backend listens on.")  # noqa: S104 - a container serves others
    port: Number = Field(9090, ge=1, le=65535, description="Port the backend listens on.")
    redis_url: RedisUrl = Field(
        "redis://redis:6379/0",
        description="Redis that holds corrections and job queues. It must run with an append-only file.",
    )
    model_store: Text = Field(
        "/data/store", description="Directory or URL (any fsspec address) that holds model versions and features."
    )
    label_studio_url: HttpUrl = Field(
        "http://label-studio:8080", description="Address at which this backend reaches Label Studio."
    )
    label_studio_api_key: Secret | None = Field(
        None, description="Legacy token or personal access token of a Label Studio user."
    )
    basic_auth_user: User | None = Field(
        None, description="User that Label Studio and admins log in with. Without it nothing is protected."
    )
    basic_auth_pass: Secret | None = Field(None, description="Password that belongs to BASIC_AUTH_USER.")
    webhook_secret: Secret | None = Field(
        None, description="Shared secret that Label Studio's webhook sends as X-Webhook-Secret."
    )
    admin_users_file: File | None = Field(
        None, description="File of further people who may sign in to the admin pages. `captioner user` writes it."
    )
    allowed_image_hosts: Text | None = Field(
        None,
        description=(
            "Networks and host names that images may be fetched from, such as 10.0.0.0/8,*.example.org. Without it: "
            "everywhere but from this machine and from addresses of the local link."
        ),
    )
    caption_bundle: Text = Field(
        "photos", description="Bundle that a project starts with: photos, scenes, or the path of your own."
    )
    beam_size: Number = Field(
        3, ge=1, le=50, description="Candidate captions that beam search compares for each image."
    )
    alternatives: Number = Field(
        1, ge=1, le=50, description="Captions suggested for each image, the best one last; at most BEAM_SIZE."
    )
    retrain_after: Number = Field(20, ge=1, description="New corrections that start a retraining.")
    retrain_idle_s: Number = Field(
        300, ge=0, description="Seconds without a new correction after which fewer corrections are enough. 0: never."
    )
    retrain_budget_s: Number = Field(
        45, ge=1, le=86400, description="Seconds that one retraining may fit. Loading and evaluation come on top."
    )
    gate_confidence: Number = Field(
        80,
        ge=50,
        le=100,
        description="Per cent of certainty needed that a new version is better on new corrections. Else it is refused.",
    )
    gate_tolerance: Number = Field(
        35,
        ge=0,
        description="Per cent by which words of older captions may become less probable. Else the version is refused.",
    )
    rollback_margin: Number = Field(
        10,
        ge=0,
        le=100,
        description="Percentage points by which acceptance may fall. Else the earlier version is served again.",
    )
    keep_versions: Number = Field(
        20,
        ge=2,
        description=(
            "Newest published versions of a project whose weights are kept. The serving version, its parent and those "
            "that a person chose are kept too."
        ),
    )
    keep_features_gb: Number = Field(
        50,
        ge=1,
        description=(
            "Gigabytes of image features that are kept. Beyond, the oldest go; those of corrected images stay. "
            "Features are computed again when an image is opened."
        ),
    )
    reconcile_every_s: Number = Field(
        300,
        ge=0,
        description="Seconds between two pulls from Label Studio of events that webhooks missed. 0: no pulls.",
    )
    refresh_predictions: bool = Field(
        True, description="Write a new version's suggestions into Label Studio for tasks nobody has annotated."
    )
    hide_suggestions_share: Number = Field(
        0,
        ge=0,
        le=50,
        description="Per cent of images without a suggestion, to measure how suggestions change captions.",
    )
    decoder_alone_share: Number = Field(
        0,
        ge=0,
        le=50,
        description=(
            "Per cent of images that the decoder captions alone while the memory is open, to compare the two. From 20 "
            "on, the memory closes where annotators keep clearly more of the decoder's captions."
        ),
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Form of the log lines: text, or json with a field for each key."
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as refusal:
            raise SettingsError("; ".join(map(_sentence, refusal.errors()))) from None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the settings; a variable that is absent or blank leaves its default.

        Raises:
            SettingsError: each wrong variable, its value and what would do.
        """
        source = EnvSettingsSource(cls)
        written = {name: value.strip() for name, value in (os.environ if environ is None else environ).items()}
        source.env_vars = {name.lower(): value for name, value in written.items() if name.isupper() and value}
        return cls(**source())

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read neither the environment nor an .env file in `Settings(...)`."""
        return (sources["init_settings"],)

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if (self.basic_auth_user is None) != (self.basic_auth_pass is None):
            present, missing = ("USER", "PASS") if self.basic_auth_pass is None else ("PASS", "USER")
            raise SettingsError(f"BASIC_AUTH_{missing} must be set beside BASIC_AUTH_{present}; set both or neither")
        if self.alternatives > self.beam_size:
            raise SettingsError(
                f"ALTERNATIVES must be BEAM_SIZE ({self.beam_size}) or less, got {self.alternatives}; "
                f"raise BEAM_SIZE to have more captions to choose from"
            )
        return self

    def shown(self) -> dict[str, str]:
        """Return every setting as a person may see it: secrets and passwords inside addresses are starred."""
        return {name.upper(): _shown(value) for name, value in self}

    def __repr_args__(self) -> Iterator[tuple[str, str]]:
        yield from self.shown().items()


@dataclass(frozen=True, kw_only=True)
class SettingRow:
    """One setting as a person reads it: the environment variable, its default and what it means."""

    name: str
    default: str
    """As it would be written in the environment; empty when there is none."""
    meaning: str
    is_secret: bool


def setting_rows() -> tuple[SettingRow, ...]:
    """Return every setting in the order of the documentation's table."""
    return tuple(
        SettingRow(
            name=name.upper(),
            default=_written(field.default),
            meaning=field.description or "",
            is_secret=_is_secret(field),
        )
        for name, field in Settings.model_fields.items()
    )


def _sentence(error: ErrorDetails) -> str:
    """Say in our words what pydantic found wrong with one setting."""
    name = str(error["loc"][0])
    field = Settings.model_fields.get(name)
    if field is None:
        return f"{name.upper()} is no setting"
    value = "***" if _is_secret(field) else _shown(error["input"])
    return f"{name.upper()} must be {_expected(error, field)}, got {value}"


def _expected(error: ErrorDetails, field: FieldInfo) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error" and field.annotation is not int:
        return str(context["error"])
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "")
    if field.annotation is bool:
        return "true or false"
    if field.annotation is not int:
        return "a text"
    limits = {limit: getattr(rule, limit) for rule in field.metadata for limit in ("ge", "le") if hasattr(rule, limit)}
    allowed = f"between {limits['ge']} and {limits['le']}" if "le" in limits else f"{limits['ge']} or more"
    return allowed if kind in {"greater_than_equal", "less_than_equal"} else f"a whole number, {allowed}"


def _is_secret(field: FieldInfo) -> bool:
    return bool(field.annotation == Secret | None)


def _written(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    return "***" if isinstance(value, SecretStr) else hide_password(_written(value))


def hide_password(address: str) -> str:
    """Return the address with the account and password in it starred; any other text unchanged."""
    # Up to the last @. urlsplit would cut a password at an unescaped / or #.
    without_account = re.sub(r"(?<=://).*@", "***@", address)
    return re.sub(r"(?<=[?&]password=)[^&]*", "***", without_account)
