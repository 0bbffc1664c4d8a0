"""The store keeps whole files, in a directory or at a URL."""

import multiprocessing
import os
import sys
import uuid
from pathlib import Path

import pytest

from model.errors import StoreError
from model.store import Store


@pytest.fixture(params=["directory", "url", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    places = {
        "directory": str(tmp_path / "store"),
        "url": f"file://{tmp_path / 'store'}",
        "memory": f"memory://{uuid.uuid4().hex}",
    }
    return Store(places[request.param])


def test_written_content_is_read(store: Store) -> None:
    store.write("versions/7/a.json", b"one")
    store.write("versions/7/a.json", b"two")

    assert store.read("versions/7/a.json") == b"two"
    assert store.exists("versions/7/a.json")


def test_a_missing_file_is_none(store: Store) -> None:
    assert store.read("versions/7/a.json") is None
    assert not store.exists("versions/7/a.json")
    assert store.list() == []
    assert store.list("versions") == []


def test_a_folder_is_no_file(store: Store) -> None:
    store.write("versions/7/a.json", b"one")

    assert not store.exists("versions/7")


def test_names_in_a_folder_are_those_directly_in_it(store: Store) -> None:
    for path in ("versions/v2/version.json", "versions/v10/version.json", "versions/note", "other"):
        store.write(path, b"x")

    assert store.names("versions") == ["note", "v10", "v2"]
    assert store.names("nothing") == []


def test_files_below_a_folder_are_listed_in_order(store: Store) -> None:
    for path in ("versions/7/b", "versions/7/a", "versions/70/c", "features/x"):
        store.write(path, b"")

    assert store.list("versions/7") == ["versions/7/a", "versions/7/b"]
    assert store.list() == ["features/x", "versions/7/a", "versions/7/b", "versions/70/c"]


def test_a_deleted_file_is_gone_and_deleting_again_is_no_error(store: Store) -> None:
    store.write("a", b"one")

    store.delete("a")
    store.delete("a")

    assert store.read("a") is None


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../outside", "a/../../outside", "a\\..\\b", "a\0b", "."])
def test_paths_that_leave_the_store_are_refused(store: Store, path: str) -> None:
    for use in (store.read, store.exists, store.delete, lambda path: store.write(path, b"")):
        with pytest.raises(StoreError, match="must be relative and stay inside"):
            use(path)


def test_an_unknown_file_system_is_named() -> None:
    with pytest.raises(StoreError, match="nowhere://"):
        Store("nowhere://bucket")


def test_without_the_extra_s3_a_store_on_s3_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)

    with pytest.raises(StoreError, match=r"'s3://bucket/store' cannot be used: S3 needs the extra `s3`; run `pip"):
        Store("s3://bucket/store")


def test_an_error_of_writing_names_the_store(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the directory should be")

    with pytest.raises(StoreError, match=r"cannot write 'a/b' in model store '.*store'"):
        Store(tmp_path / "store").write("a/b", b"")


def test_an_unfinished_write_is_invisible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.write("a", b"old")

    def power_cut(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", power_cut)
        with pytest.raises(StoreError, match="no space left"):
            store.write("a", b"new")

    assert store.read("a") == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_the_half_written_file_of_a_killed_process_is_not_listed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("a", b"whole")
    (tmp_path / ".b.0123.unfinished").write_bytes(b"ha")

    assert store.list() == ["a"]


def _write_many(location: str, letter: str) -> None:
    store = Store(location)
    for _ in range(50):
        store.write("shared/file", letter.encode() * 100_000)


def test_readers_see_one_writer_or_the_other_never_a_mixture(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("shared/file", b"a" * 100_000)
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write_many, args=(str(tmp_path), letter)) for letter in "ab"]
    for writer in writers:
        writer.start()

    contents = set()
    while any(writer.is_alive() for writer in writers):
        contents.add(store.read("shared/file"))
    for writer in writers:
        writer.join()

    assert contents <= {b"a" * 100_000, b"b" * 100_000}
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert os.listdir(tmp_path / "shared") == ["file"]


def test_files_of_a_folder_come_with_their_sizes_the_oldest_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name, written_at in (("b.npy", 1_700_000_000), ("a.npy", 1_700_000_001)):
        store.write(f"features/{name}", b"12345")
        os.utime(tmp_path / "features" / name, (written_at, written_at))
    store.write("features/deeper/c.npy", b"1")

    files = store.files("features")

    assert [(file.path, file.bytes) for file in files] == [("features/b.npy", 5), ("features/a.npy", 5)]
    assert files[0].written_at == 1_700_000_000
    assert store.files("nothing") == []
