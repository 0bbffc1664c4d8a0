"""An encoder learns the features of another one from images alone, and its weights can be used as any others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from model.errors import BundleError, TrainingError
from model.training.distillation import ENCODER_FILE, DistillationOptions, DistilledEncoder, distil
from model.vision.encoder import Encoder, build_encoder
from tests.factories import make_encoder

OPTIONS = DistillationOptions(
    apart_epochs=2,
    together_epochs=2,
    batch_size=4,
    apart_learning_rate=1e-2,
    together_learning_rate=5e-3,
    averaging=0.8,
)


@pytest.fixture
def teacher(tmp_path: Path) -> Encoder:
    encoder = make_encoder()
    torch.save(encoder.network.state_dict(), tmp_path / "teacher.pth")
    return encoder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Forty pictures of four coloured fields each."""
    random = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(40):
        fields = random.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(fields).resize((32, 32), Image.Resampling.NEAREST).save(folder / f"{number}.png")
    return folder


def run(
    teacher: Encoder,
    images: Path,
    out: Path,
    options: DistillationOptions = OPTIONS,
    *,
    names: Path | None = None,
    stronger: Encoder | None = None,
) -> DistilledEncoder:
    weights = images.parent / "teacher.pth"
    distilled = distil(
        out, images=images, names=names, encoder=teacher.spec, weights=weights, stronger=stronger, options=options
    )
    assert distilled is not None
    return distilled


def test_longer_training_explains_more_of_the_teachers_features(teacher: Encoder, images: Path, tmp_path: Path) -> None:
    gentle = replace(OPTIONS, apart_learning_rate=4e-3, together_learning_rate=2e-3)
    short = run(teacher, images, tmp_path / "short", replace(gentle, apart_epochs=1, together_epochs=1))
    longer = run(teacher, images, tmp_path / "longer", replace(gentle, apart_epochs=12, together_epochs=12))

    assert longer.unexplained < short.unexplained
    assert longer.unexplained < 0.95  # a network that explains nothing is at 1


def test_the_features_are_those_of_the_stronger_teacher(teacher: Encoder, images: Path, tmp_path: Path) -> None:
    stronger = make_encoder(seed=7)
    options = replace(OPTIONS, apart_epochs=6, together_epochs=6)
    plain = run(teacher, images, tmp_path / "plain", options)
    strong = run(teacher, images, tmp_path / "strong", options, stronger=stronger)

    pixels = torch.stack([pixels_of(file) for file in sorted(images.iterdir())])
    target = stronger(pixels)
    far, near = (
        float((build_encoder(teacher.spec, distilled.path)(pixels) - target).square().mean())
        for distilled in (plain, strong)
    )
    assert near < 0.7 * far


def pixels_of(file: Path) -> torch.Tensor:
    return torch.from_numpy(make_encoder().spec.preprocessing(Image.open(file)))


def test_a_stronger_teacher_with_other_features_is_refused(teacher: Encoder, images: Path, tmp_path: Path) -> None:
    other = Encoder(teacher.spec, torch.nn.Sequential(*list(teacher.network.children())[:4]))

    with pytest.raises(TrainingError, match="choose one with the same numbers"):
        run(teacher, images, tmp_path / "out", stronger=other)


def test_epochs_on_smaller_images_count_as_learning(teacher: Encoder, images: Path, tmp_path: Path) -> None:
    gentle = replace(OPTIONS, apart_learning_rate=4e-3, together_learning_rate=2e-3)
    short = run(teacher, images, tmp_path / "short", gentle)
    longer = run(teacher, images, tmp_path / "longer", replace(gentle, small_epochs=12, small_size=24))

    assert longer.unexplained < short.unexplained


def test_the_weights_are_new_and_build_an_encoder(teacher: Encoder, images: Path, tmp_path: Path) -> None:
    distilled = run(teacher, images, tmp_path / "out")

    encoder = build_encoder(teacher.spec, distilled.path)
    pixels = torch.randn(2, 3, 32, 32)
    assert encoder(pixels).shape == teacher(pixels).shape
    theirs = teacher.network.state_dict()
    kernels = {name: value for name, value in load_file(distilled.path).items() if value.dim() > 1}
    assert kernels
    assert not any(torch.equal(value.float(), theirs[name]) for name, value in kernels.items())
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["curves.png", ENCODER_FILE, "training.json"]


def test_the_same_seed_gives_the_same_weights(teacher: Encoder, images: Path, tmp_path: Path) -> None:
    first, second = run(teacher, images, tmp_path / "one"), run(teacher, images, tmp_path / "two")

    assert first.path.read_bytes() == second.path.read_bytes()


def test_only_the_named_images_are_read_and_unreadable_ones_are_counted(
    teacher: Encoder, images: Path, tmp_path: Path
) -> None:
    (images / "broken.png").write_text("no picture")
    names = tmp_path / "names.txt"
    names.write_text("\n".join([*(f"{number}.png" for number in range(20)), "broken.png", "missing.png"]))

    distilled = run(teacher, images, tmp_path / "out", names=names)

    assert "unreadable images: 2" in distilled.left_out.summary()
    assert "broken.png" in distilled.left_out.summary()


def test_too_few_images_are_refused(teacher: Encoder, images: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("0.png\n1.png\n")

    with pytest.raises(TrainingError, match="distillation needs 4 images or more, got"):
        run(teacher, images, tmp_path / "out", names=tmp_path / "names.txt")


def test_an_existing_encoder_is_not_overwritten(teacher: Encoder, images: Path, tmp_path: Path) -> None:
    (tmp_path / ENCODER_FILE).write_text("precious")

    with pytest.raises(TrainingError, match="holds an encoder already"):
        run(teacher, images, tmp_path)


def test_weights_of_another_network_do_not_fit(teacher: Encoder, images: Path, tmp_path: Path) -> None:
    distilled = run(teacher, images, tmp_path / "out")

    with pytest.raises(BundleError, match="do not fit"):
        build_encoder(replace(teacher.spec, name="resnet18"), distilled.path)
