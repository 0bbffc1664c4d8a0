"""Which addresses are files of Label Studio, and so get its key."""

from urllib.parse import unquote

import pytest

from backend.images.label_studio_files import LabelStudioFiles

FILES = LabelStudioFiles("http://labels.example/ls", lambda: None)


@pytest.mark.parametrize(
    "path",
    [
        "/ls/data/upload/1/0a1b2c3d-IMG..jpg",
        "/ls/data/upload/1/..a.jpg",
        "/ls/data/upload/1/a..",
        "/ls/data/upload/1/a...jpg",
        "/ls/data/upload/1/0a1b2c3d-IMG%2E%2Ejpg",
    ],
)
def test_two_dots_in_a_name_are_no_way_up(path: str) -> None:
    assert FILES.find(path) == "http://labels.example" + path


@pytest.mark.parametrize(
    "way_up",
    [
        *("..", "%2e%2e", ".%2E", "%252e%252e", "%252E.", "..%2f", "..%252f", "..%5c", "..%255c", "..\\", "a\\..\\b"),
        *("..;", "..;a=b", "..%3b", "%2e%2e%3Ba", "..%00", "..%20", "%20..", "..%3f", "..%23", "%2f..", "%252f..%252f"),
    ],
)
def test_a_way_up_is_no_file_however_it_is_written(way_up: str) -> None:
    for path in (f"/ls/data/upload/{way_up}/api/users", f"/ls/data/upload/{way_up}", f"/ls/data/{way_up}/{way_up}/api"):
        found = FILES.find(path)
        # A plain `..` is followed before; then the address that remains is asked for, and it has none.
        assert found is None or ".." not in unquote(unquote(found))
