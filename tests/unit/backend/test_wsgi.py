"""The application as other servers find it."""

import pytest

from backend import wsgi


def test_importing_the_module_makes_no_app() -> None:
    assert "app" not in vars(wsgi)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = wsgi.nothing
