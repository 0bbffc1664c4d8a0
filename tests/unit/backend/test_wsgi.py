"""The web server's settings."""

import pytest
from gunicorn.config import KNOWN_SETTINGS

from backend import wsgi
from worker.settings import Settings


@pytest.mark.parametrize(
    ("host", "bind"), [("10.0.0.1", "10.0.0.1:9090"), ("::", "[::]:9090"), ("localhost", "localhost:9090")]
)
def test_it_listens_where_host_and_port_say(host: str, bind: str) -> None:
    assert wsgi.server_options(Settings(host=host))["bind"] == bind


def test_one_process_with_threads_serves_so_that_the_model_is_in_memory_once() -> None:
    options = wsgi.server_options(Settings())

    assert (options["workers"], options["worker_class"], options["threads"]) == (1, "gthread", 8)


def test_gunicorn_knows_every_setting() -> None:
    setting_names = {setting.name for setting in KNOWN_SETTINGS}

    assert set(wsgi.server_options(Settings())) <= setting_names


def test_importing_the_module_makes_no_app() -> None:
    assert "app" not in vars(wsgi)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = wsgi.nothing
