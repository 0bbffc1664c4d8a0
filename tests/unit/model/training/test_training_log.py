import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from model.training.training_log import write_training_log
from model.training.training_record import EpochRecord


def make_epoch(phase: str, epoch: int, *, train_loss: float | None = None, reward: float | None = None) -> EpochRecord:
    return EpochRecord(
        phase=phase,
        epoch=epoch,
        train_loss=train_loss,
        reward=reward,
        held_out_loss=2.5,
        cider_d=0.4,
        bleu_4=0.2,
        learning_rate=1e-3,
        seconds=60.0,
    )


def test_the_log_is_written_after_each_epoch(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    epochs = [make_epoch("captions", 1, train_loss=3.0)]
    write_training_log(out, epochs)
    first = (out / "curves.png").read_bytes()

    write_training_log(out, [*epochs, make_epoch("rewards", 1, reward=0.3)])

    epochs_in_file = json.loads((out / "training.json").read_text())["epochs"]
    assert [(epoch["phase"], epoch["train_loss"], epoch["reward"]) for epoch in epochs_in_file] == [
        ("captions", 3.0, None),
        ("rewards", None, 0.3),
    ]
    with Image.open(out / "curves.png") as curves:
        assert curves.format == "PNG"
        assert len(curves.convert("RGB").getcolors(1 << 24) or []) > 2
    assert (out / "curves.png").read_bytes() != first
    assert sorted(file.name for file in out.iterdir()) == ["curves.png", "training.json"]


def test_serving_and_retraining_do_not_load_matplotlib() -> None:
    modules = "backend.wsgi, worker.learning.training_run, model.training.bundle_training"
    program = f"import sys, {modules}; print('matplotlib' in sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert loaded.stdout == "False\n"
