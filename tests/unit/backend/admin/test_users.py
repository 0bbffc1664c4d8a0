"""Users of the admin pages, and their file."""

import io
import stat
from pathlib import Path

import pytest
from werkzeug.security import generate_password_hash

from backend.admin.users import User, Users, remove_user, write_user
from backend.cli import main
from model.errors import SettingsError
from worker.settings import Settings

CHEAP_HASH = generate_password_hash("right password", method="pbkdf2:sha256:1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "users"


@pytest.fixture
def settings(file: Path) -> Settings:
    return Settings(basic_auth_user="captioner", basic_auth_pass="from the settings", admin_users_file=str(file))


def test_a_user_signs_in_with_the_written_password(settings: Settings) -> None:
    write_user(settings, "anna", "viewer", "right password")
    users = Users(settings)

    assert users.check("anna", "right password") == User(name="anna", role="viewer") == users.find("anna")
    assert users.check("anna", "wrong password") is None
    assert users.check("Anna", "right password") is None
    assert users.check("captioner", "from the settings") == User(name="captioner", role="operator")
    assert users.check("captioner", "right password") is None
    assert users.check("nobody", "right password") is None  # though it is somebody's


def test_the_file_is_read_again_when_it_has_changed(settings: Settings, file: Path) -> None:
    users = Users(settings)
    assert users.find("anna") is None
    write_user(settings, "anna", "viewer", "first password")
    assert users.check("anna", "first password") is not None

    assert write_user(settings, "anna", "operator", "second password")

    assert users.check("anna", "first password") is None
    assert users.check("anna", "second password") == User(name="anna", role="operator")
    remove_user(settings, "anna")
    assert users.find("anna") is None
    file.unlink()
    assert users.is_anybody()  # BASIC_AUTH_USER


def test_a_change_of_users_or_settings_changes_the_key_of_sessions(settings: Settings) -> None:
    users = Users(settings)
    before = users.session_secret()
    assert before == Users(settings).session_secret()

    write_user(settings, "anna", "viewer", "right password")

    assert users.session_secret() != before
    assert users.session_secret() == Users(settings).session_secret()
    assert Users(Settings(basic_auth_user="captioner", basic_auth_pass="other")).session_secret() != before


def test_invalid_lines_are_reported_without_their_contents(
    settings: Settings, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.parent.mkdir()
    file.write_text(
        "# people\n"
        "\n"
        f"anna:viewer:{CHEAP_HASH}\n"
        f"berta:admin:{CHEAP_HASH}\n"
        "carla:viewer:plain password\n"
        f"captioner:viewer:{CHEAP_HASH}\n"
        "doris\n"
    )

    users = Users(settings)

    assert users.check("anna", "right password") == User(name="anna", role="viewer")
    assert [users.find(name) for name in ("berta", "carla", "doris")] == [None] * 3
    assert users.check("captioner", "right password") is None
    assert [record.args[1] for record in caplog.records if isinstance(record.args, tuple)] == [4, 5, 6, 7]
    assert "plain password" not in caplog.text


def test_other_lines_of_the_file_are_kept_and_only_its_owner_can_read_it(settings: Settings, file: Path) -> None:
    write_user(settings, "anna", "viewer", "right password")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("# people\n" + file.read_text() + "a line that is wrong\n")
    file.chmod(0o640)

    write_user(settings, "berta", "operator", "right password")
    remove_user(settings, "anna")

    comment, wrong, berta = file.read_text().splitlines()
    assert (comment, wrong) == ("# people", "a line that is wrong")
    assert berta.startswith("berta:operator:scrypt:")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("name", "password", "message"),
    [
        ("an:na", "right password", "no colon"),
        (" anna", "right password", "no spaces around it"),
        ("#anna", "right password", "got '#anna'"),
        ("an\nna", "right password", "1 to 64 characters"),
        ("", "right password", "1 to 64 characters"),
        ("captioner", "right password", "choose another name"),
        ("anna", "short", "at least 8 characters"),
    ],
)
def test_invalid_names_and_passwords_are_refused(
    settings: Settings, file: Path, name: str, password: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        write_user(settings, name, "viewer", password)

    assert not file.exists()


def test_the_removal_of_an_unknown_user_is_refused(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="has no user 'anna'"):
        remove_user(settings, "anna")


def test_the_command_reads_the_password_and_writes_the_line(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADMIN_USERS_FILE", str(file))
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")  # refuses
    monkeypatch.setattr("sys.stdin", io.StringIO("right password\n"))
    users = Users(Settings(admin_users_file=str(file)))

    added = main(["user", "anna", "--role", "operator"])
    anna = users.check("anna", "right password")
    removed = main(["user", "anna", "--remove"])

    assert (added, anna, removed) == (0, User(name="anna", role="operator"), 0)
    assert users.find("anna") is None
    assert capsys.readouterr().out == "anna can sign in at /admin/login as operator\nanna can no longer sign in\n"


def test_the_command_says_which_setting_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ADMIN_USERS_FILE", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO("right password\n"))

    assert main(["user", "anna", "--role", "viewer"]) == 2
    assert "ADMIN_USERS_FILE must name the file" in capsys.readouterr().err
