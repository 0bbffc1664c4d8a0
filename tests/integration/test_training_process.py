"""`captioner train` as real processes: killed and run again, and several at once."""

import json
from pathlib import Path

import pytest
import torch

from model.bundle import load_bundle
from model.training.checkpoint import FILE
from tests.factories import make_encoder
from tests.training_process import TrainingProcess, write_pictures

CAPTIONER = ["-m", "backend.cli"]
TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    torch.save(make_encoder().network.state_dict(), tmp_path / "encoder.pth")
    return write_pictures(tmp_path)


def weights(bundle: Path) -> dict[str, torch.Tensor]:
    return load_bundle(str(bundle)).decoder.state_dict()


@pytest.mark.long
def test_a_killed_training_resumes_and_ends_with_the_same_weights(tmp_path: Path, arguments: list[str]) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = TrainingProcess(tmp_path / "whole.log", [*CAPTIONER, *arguments, "--out", str(whole)])
    first = TrainingProcess(tmp_path / "first.log", [*CAPTIONER, *arguments, "--out", str(killed)])
    first.kill_once_there_is(killed / FILE)
    assert not (killed / "bundle.json").exists()

    second = TrainingProcess(tmp_path / "second.log", [*CAPTIONER, *arguments, "--out", str(killed)]).finish()

    uninterrupted.finish()
    assert "captions: goes on after epoch" in second
    expected, resumed = weights(whole), weights(killed)
    assert all(torch.equal(value, resumed[name]) for name, value in expected.items())
    assert not (killed / FILE).exists()


PROGRAM = '''"""Train as the command line does and leave the weights of each process beside the bundle."""
import os, sys
from pathlib import Path
import torch
from backend import cli
from model.training import bundle_training as training

fit = training.fit_captions

def fit_and_save(*arguments, out, processes, **more):
    tokenizer, decoder, record = fit(*arguments, out=out, processes=processes, **more)
    torch.save(decoder.state_dict(), out.parent / f"{out.name}-{processes.rank}.pt")
    return tokenizer, decoder, record

training.fit_captions = fit_and_save
sys.exit(cli.main(sys.argv[1:]))
'''


@pytest.mark.long
def test_two_processes_train_one_decoder_and_resume_together_after_a_kill(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [*TWO_PROCESSES, str(tmp_path / "program.py"), *arguments, "--features", str(tmp_path / "features")]
    out = tmp_path / "bundle"
    output = TrainingProcess(tmp_path / "whole.log", [*command, "--out", str(tmp_path / "whole")]).finish()
    killed = TrainingProcess(tmp_path / "first.log", [*command, "--out", str(out)])
    killed.kill_once_there_is(out / FILE)

    TrainingProcess(tmp_path / "second.log", [*command, "--out", str(out)]).finish()

    ends = [torch.load(tmp_path / f"{name}-{rank}.pt") for name in ("whole", "bundle") for rank in (0, 1)]
    assert all(torch.equal(value, other[name]) for name, value in ends[0].items() for other in ends[1:])
    assert (output.count("train decoder: 24/24"), output.count("CAPTION_BUNDLE=")) == (1, 1)  # one of them speaks
    record = json.loads((out / "bundle.json").read_text("utf-8"))["record"]["training"]
    losses = [epoch["train_loss"] for epoch in record["epochs"] if epoch["phase"] == "captions"]
    assert (record["processes"], len(losses)) == (2, 4)
    assert losses[-1] < losses[0]
