"""Users of the admin pages: BASIC_AUTH_USER, who is an operator, and the people in ADMIN_USERS_FILE.

Each line of the file is `name:role:hash`, with a hash of werkzeug.security. `captioner user` writes the file. It is
read again when it changes. Empty lines, and lines that begin with #, are kept and ignored.
"""

import hashlib
import hmac
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal, get_args

from flask_login import UserMixin
from werkzeug.security import check_password_hash, generate_password_hash

from model.errors import SettingsError
from model.store import replaced_file
from worker.settings import Settings

logger = logging.getLogger(__name__)

Role = Literal["viewer", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)

SHORTEST_PASSWORD = 8
"""Characters."""

_NAME = re.compile(r"[^\s:#][^\n:]{0,62}[^\s:]|[^\s:#]")
_HASH = re.compile(r"(scrypt:\d+:\d+:\d+|pbkdf2:\w+:\d+)\$[^$:\s]+\$[0-9a-f]+")


@dataclass(frozen=True, kw_only=True)
class User(UserMixin):  # type: ignore[misc]  # flask_login has no types
    """Person who may see the admin pages."""

    name: str
    role: Role

    def get_id(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class Account:
    """Line of the users' file."""

    name: str
    role: Role
    password_hash: str

    def to_line(self) -> str:
        return f"{self.name}:{self.role}:{self.password_hash}"


class Users:
    """Everybody who may sign in now."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = Path(settings.admin_users_file) if settings.admin_users_file else None
        self._read: tuple[object, Mapping[str, Account]] = (None, {})
        self._secret: tuple[object, bytes] = (None, b"")

    def is_anybody(self) -> bool:
        return self._settings.basic_auth_user is not None or bool(self._accounts())

    def find(self, name: str) -> User | None:
        if name == self._settings.basic_auth_user:
            return User(name=name, role="operator")
        account = self._accounts().get(name)
        return User(name=name, role=account.role) if account else None

    def check(self, name: str, password: str) -> User | None:
        """Return the user with this name and password, or None.

        A password is hashed in any case, so the time of a refusal does not show if the name exists.
        """
        user, secret = self._settings.basic_auth_user, self._settings.basic_auth_pass
        if user is not None and secret is not None and _equal(name, user) & _equal(password, secret.get_secret_value()):
            return User(name=name, role="operator")
        accounts = self._accounts()
        account = accounts.get(name)
        compared = account or next(iter(accounts.values()), None)
        is_right = compared is not None and check_password_hash(compared.password_hash, password)
        return User(name=name, role=account.role) if account and is_right else None

    def session_secret(self) -> bytes:
        """Return the key that signs sessions, derived from all passwords and users.

        Processes with the same settings and the same file have the same key. A changed password, a new user or a
        removed user ends all sessions. scrypt makes the key expensive, so that nobody can find a short
        BASIC_AUTH_PASS by testing passwords against a signed cookie.
        """
        accounts = self._accounts()
        if self._secret[0] is not accounts:
            settings = self._settings
            secrets = (settings.basic_auth_pass, settings.webhook_secret, settings.label_studio_api_key)
            values = [secret and secret.get_secret_value() for secret in secrets]
            material = json.dumps([settings.basic_auth_user, *values, *map(astuple, accounts.values())]).encode()
            self._secret = accounts, hashlib.scrypt(material, salt=b"captioner session", n=2**14, r=8, p=1, dklen=32)
        return self._secret[1]

    def _accounts(self) -> Mapping[str, Account]:
        """Return the people in the file now; nobody if it is missing or unreadable."""
        if self._path is None:
            return self._read[1]
        try:
            stat = self._path.stat()
            state: object = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if state != self._read[0]:
                self._read = state, self._parse(self._path.read_text())
        except (OSError, UnicodeDecodeError) as problem:
            if self._read[0] != str(problem):
                logger.warning("users' file not read path=%s problem=%s", self._path, problem)
                self._read = str(problem), {}
        return self._read[1]

    def _parse(self, content: str) -> Mapping[str, Account]:
        accounts: dict[str, Account] = {}
        for number, line in enumerate(content.splitlines(), start=1):
            if _is_ignored(line):
                continue
            account = _parse_line(line)
            if account is None or account.name == self._settings.basic_auth_user:
                # The line itself is not logged: it may contain a password.
                wrong = "not name:role:hash" if account is None else "BASIC_AUTH_USER has that name"
                logger.error("user left out path=%s line=%s problem=%s", self._path, number, wrong)
            else:
                accounts[account.name] = account
        return accounts


def write_user(settings: Settings, name: str, role: Role, password: str) -> bool:
    """Add or change a user; return True if the name was there before.

    Raises:
        SettingsError: ADMIN_USERS_FILE is not set or cannot be written, or the name or the password is not allowed.
    """
    if _NAME.fullmatch(name) is None or not name.isprintable():
        raise SettingsError(f"a name must have 1 to 64 characters, no colon, and no spaces around it, got {name!r}")
    if name == settings.basic_auth_user:
        raise SettingsError(f"{name} is BASIC_AUTH_USER, who signs in with BASIC_AUTH_PASS; choose another name")
    if len(password) < SHORTEST_PASSWORD:
        raise SettingsError(f"a password must have at least {SHORTEST_PASSWORD} characters")
    line = Account(name=name, role=role, password_hash=generate_password_hash(password)).to_line()
    path, lines = _open(settings)
    others = _without(lines, name)
    _replace(path, [*others, line])
    return len(others) < len(lines)


def remove_user(settings: Settings, name: str) -> None:
    """Remove a user.

    Raises:
        SettingsError: ADMIN_USERS_FILE is not set, cannot be written, or does not contain the name.
    """
    path, lines = _open(settings)
    others = _without(lines, name)
    if len(others) == len(lines):
        raise SettingsError(f"{path} has no user {name!r}")
    _replace(path, others)


def _open(settings: Settings) -> tuple[Path, list[str]]:
    """Return the users' file and its lines; a link is followed."""
    if settings.admin_users_file is None:
        raise SettingsError("ADMIN_USERS_FILE must name the file of the admin pages' users, also for `captioner serve`")
    path = Path(os.path.realpath(settings.admin_users_file))
    try:
        return path, path.read_text().splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError) as cause:
        raise SettingsError(f"ADMIN_USERS_FILE {path} cannot be read: {cause}") from cause


def _replace(path: Path, lines: Sequence[str]) -> None:
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        with replaced_file(path) as file:
            os.fchmod(file.fileno(), mode)
            file.write("".join(f"{line}\n" for line in lines).encode())
    except OSError as cause:
        raise SettingsError(f"ADMIN_USERS_FILE {path} cannot be written: {cause}") from cause


def _without(lines: Sequence[str], name: str) -> list[str]:
    return [line for line in lines if _is_ignored(line) or line.partition(":")[0] != name]


def _is_ignored(line: str) -> bool:
    return not line.strip() or line.startswith("#")


def _parse_line(line: str) -> Account | None:
    name, _, rest = line.partition(":")
    written, _, password_hash = rest.partition(":")
    role = next((role for role in ROLES if role == written), None)
    is_valid = _NAME.fullmatch(name) and _HASH.fullmatch(password_hash)
    return Account(name=name, role=role, password_hash=password_hash) if role and is_valid else None


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
