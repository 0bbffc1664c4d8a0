"""The people of the admin pages: BASIC_AUTH_USER, who is an operator, and those of ADMIN_USERS_FILE.

The file has a line `name:role:hash` for each person, the hash as werkzeug.security makes it; `captioner user` writes
it, and it is read again when it has changed. An empty line or one that begins with # is kept and means nothing.
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

FEWEST_CHARACTERS = 8
"""Of a password that `captioner user` takes."""

_NAME = re.compile(r"[^\s:#][^\n:]{0,62}[^\s:]|[^\s:#]")
_HASH = re.compile(r"(scrypt:\d+:\d+:\d+|pbkdf2:\w+:\d+)\$[^$:\s]+\$[0-9a-f]+")


@dataclass(frozen=True, kw_only=True)
class User(UserMixin):  # type: ignore[misc]  # flask_login has no types
    """A person who may see the admin pages."""

    name: str
    role: Role

    def get_id(self) -> str:
        return self.name


@dataclass(frozen=True, kw_only=True)
class Account:
    """A line of the users' file."""

    name: str
    role: Role
    password_hash: str

    def to_line(self) -> str:
        return f"{self.name}:{self.role}:{self.password_hash}"


class Users:
    """Everybody who may sign in at this moment."""

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
        """Return the user with this name and password.

        A wrong answer takes as long whether or not there is a user of that name: a password is hashed in any case.
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
        """Return what sessions are signed with, derived from everything that lets people in.

        So all processes with the same settings and the same file agree without another setting, and a password that
        is changed, or a person who is added or removed, ends all sessions. It is stretched by scrypt, so that
        nobody finds a short BASIC_AUTH_PASS by trying passwords on the signature of a cookie.
        """
        accounts = self._accounts()
        if self._secret[0] is not accounts:
            known = self._settings
            secrets = (known.basic_auth_pass, known.webhook_secret, known.label_studio_api_key)
            values = [secret and secret.get_secret_value() for secret in secrets]
            material = json.dumps([known.basic_auth_user, *values, *map(astuple, accounts.values())]).encode()
            self._secret = accounts, hashlib.scrypt(material, salt=b"captioner session", n=2**14, r=8, p=1, dklen=32)
        return self._secret[1]

    def _accounts(self) -> Mapping[str, Account]:
        """Return the people of the file as it is now; of one that is missing or unreadable, nobody."""
        if self._path is None:
            return self._read[1]
        try:
            found = self._path.stat()
            state: object = (found.st_mtime_ns, found.st_size, found.st_ino)
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
            if _says_nothing(line):
                continue
            account = _parse_line(line)
            if account is None or account.name == self._settings.basic_auth_user:
                # Not the line itself: there may be a password in it.
                wrong = "not name:role:hash" if account is None else "BASIC_AUTH_USER has that name"
                logger.error("user left out path=%s line=%s problem=%s", self._path, number, wrong)
            else:
                accounts[account.name] = account
        return accounts


def write_user(settings: Settings, name: str, role: Role, password: str) -> bool:
    """Let a person sign in with a password; True when the name was known and its line is replaced.

    Raises:
        SettingsError: there is no ADMIN_USERS_FILE, it cannot be written, or the name or the password will not do.
    """
    if _NAME.fullmatch(name) is None or not name.isprintable():
        raise SettingsError(f"a name is up to 64 characters without a colon or spaces around it, got {name!r}")
    if name == settings.basic_auth_user:
        raise SettingsError(f"{name} is BASIC_AUTH_USER, an operator with BASIC_AUTH_PASS; choose another name")
    if len(password) < FEWEST_CHARACTERS:
        raise SettingsError(f"a password must have {FEWEST_CHARACTERS} characters or more")
    line = Account(name=name, role=role, password_hash=generate_password_hash(password)).to_line()
    path, lines = _open(settings)
    others = _without(lines, name)
    _replace(path, [*others, line])
    return len(others) < len(lines)


def remove_user(settings: Settings, name: str) -> None:
    """Let a person sign in no more.

    Raises:
        SettingsError: there is no ADMIN_USERS_FILE, it cannot be written, or it has nobody of that name.
    """
    path, lines = _open(settings)
    others = _without(lines, name)
    if len(others) == len(lines):
        raise SettingsError(f"{path} has no user {name!r}")
    _replace(path, others)


def _open(settings: Settings) -> tuple[Path, list[str]]:
    """Return the file that a link may stand for, and its lines."""
    if settings.admin_users_file is None:
        raise SettingsError("ADMIN_USERS_FILE must name the file of the admin pages' users, for `captioner serve` too")
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
    return [line for line in lines if _says_nothing(line) or line.partition(":")[0] != name]


def _says_nothing(line: str) -> bool:
    return not line.strip() or line.startswith("#")


def _parse_line(line: str) -> Account | None:
    name, _, rest = line.partition(":")
    written, _, password_hash = rest.partition(":")
    role = next((role for role in ROLES if role == written), None)
    is_known = _NAME.fullmatch(name) and _HASH.fullmatch(password_hash)
    return Account(name=name, role=role, password_hash=password_hash) if role and is_known else None


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
