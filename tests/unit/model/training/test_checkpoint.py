from pathlib import Path

import pytest
import torch

from model.errors import TrainingError
from model.training.checkpoint import FILE, Checkpoint, remove_checkpoint

IDENTITY: dict[str, str | float | None] = {"training.epochs": 12, "vocabulary": "300 words", "weights": None}


def test_a_saved_state_is_loaded_and_leaves_no_other_file(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "new", IDENTITY)
    assert checkpoint.load() is None

    checkpoint.save({"step": 1})
    checkpoint.save({"step": 2, "weights": torch.arange(3)})

    loaded = Checkpoint(tmp_path / "new", IDENTITY).load()
    assert loaded is not None
    assert (loaded["step"], loaded["weights"].tolist()) == (2, [0, 1, 2])
    assert [file.name for file in (tmp_path / "new").iterdir()] == [FILE]


def test_another_training_is_refused_with_the_differences_and_changes_nothing(tmp_path: Path) -> None:
    Checkpoint(tmp_path, IDENTITY).save({"step": 1})
    other = Checkpoint(tmp_path, IDENTITY | {"training.epochs": 20, "vocabulary": "301 words"})

    with pytest.raises(TrainingError) as error:
        other.load()

    assert "training.epochs was 12, is 20, vocabulary was 300 words, is 301 words;" in str(error.value)
    assert "weights" not in str(error.value)
    assert f"delete {tmp_path / FILE} to start again" in str(error.value)
    assert Checkpoint(tmp_path, IDENTITY).load() == {"step": 1}


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_reported_and_kept(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)

    with pytest.raises(TrainingError, match="is damaged; delete it to start the training again"):
        Checkpoint(tmp_path, IDENTITY).load()

    assert (tmp_path / FILE).read_bytes() == content


def test_nothing_but_tensors_and_plain_values_is_ever_loaded(tmp_path: Path) -> None:
    torch.save({"format": 1, "identity": IDENTITY, "state": tmp_path}, tmp_path / FILE)

    with pytest.raises(TrainingError, match="is damaged"):
        Checkpoint(tmp_path, IDENTITY).load()


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, IDENTITY)
    checkpoint.save({"step": 1})

    with pytest.raises(AttributeError):
        checkpoint.save({"step": lambda: 2})

    assert checkpoint.load() == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


def test_a_directory_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")

    with pytest.raises(TrainingError, match="cannot be written"):
        Checkpoint(tmp_path / "file", IDENTITY).save({"step": 1})


def test_removing_the_checkpoint_removes_files_of_killed_writers_too(tmp_path: Path) -> None:
    Checkpoint(tmp_path, IDENTITY).save({"step": 1})
    (tmp_path / f".{FILE}.0123.unfinished").write_bytes(b"half")
    (tmp_path / "training.json").write_text("{}")

    remove_checkpoint(tmp_path)

    assert [file.name for file in tmp_path.iterdir()] == ["training.json"]
