import hashlib
import io
import json
import random
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from backend.demo.scenes.drawing import draw_scenes
from model.bundle import load_bundle
from model.store import Store
from model.torch_captioner import TorchCaptioner
from tests.factories import training_features
from worker.learning.holdout import MAX_DISTANCE, Holdout, signatures
from worker.policy import is_held_out

ENCODER = "0123456789ab"


def make_holdout(folder: Path, encoder: str = ENCODER) -> Holdout:
    return Holdout(Store(folder), 1, encoder)


def make_images(count: int, seed: int = 0) -> dict[str, Tensor]:
    order = torch.Generator().manual_seed(seed)
    keys = [hashlib.sha256(f"{seed} {number}".encode()).hexdigest() for number in range(count)]
    return {key: torch.randn(9, 8, generator=order).half() for key in keys}


def almost(features: Tensor) -> Tensor:
    return (features + 0.05 * torch.randn(features.shape, generator=torch.Generator().manual_seed(3))).half()


def key_that_is_held_out(held_out: bool) -> str:
    keys = (hashlib.sha256(f"copy {number}".encode()).hexdigest() for number in range(100))
    return next(key for key in keys if is_held_out(key) is held_out)


def test_the_content_of_an_image_decides(tmp_path: Path) -> None:
    images = make_images(200)

    decided = make_holdout(tmp_path).decide(images)

    assert decided == {key: is_held_out(key) for key in images}
    assert 20 < sum(decided.values()) < 60


@pytest.mark.parametrize("first_is_held_out", [True, False])
def test_an_image_that_looks_like_an_earlier_one_goes_where_that_one_went(
    tmp_path: Path, first_is_held_out: bool
) -> None:
    images = make_images(50)
    make_holdout(tmp_path).decide(images)
    first = next(key for key in images if is_held_out(key) is first_is_held_out)
    copy = key_that_is_held_out(not first_is_held_out)

    decided = make_holdout(tmp_path).decide({copy: almost(images[first])})

    assert decided == {copy: first_is_held_out}


def test_a_signature_is_stored_as_a_number_whose_lowest_bit_is_the_first(tmp_path: Path) -> None:
    [(key, features)] = make_images(1).items()
    number = sum(1 << place for place, bit in enumerate(signatures([features])[0].tolist()) if bit)
    held_out = is_held_out(key)

    make_holdout(tmp_path).decide({key: features})

    [file] = tmp_path.rglob("holdout.json")
    assert json.loads(file.read_text()) == {key: [held_out, ENCODER, f"{number:064x}"]}
    file.write_text(json.dumps({key: [not held_out, ENCODER, f"{number:064x}"]}))
    copy = key_that_is_held_out(held_out)
    assert make_holdout(tmp_path).decide({copy: almost(features)}) == {copy: not held_out}


def test_the_first_of_two_images_that_look_alike_decides_when_they_come_together(tmp_path: Path) -> None:
    [(_, features)] = make_images(1).items()
    held_out, learned = key_that_is_held_out(True), key_that_is_held_out(False)

    decided = make_holdout(tmp_path).decide({learned: features, held_out: almost(features)})

    assert decided == {learned: False, held_out: False}


def test_a_decision_stays_when_the_encoder_changes(tmp_path: Path) -> None:
    images = make_images(20)
    first = next(key for key in images if not is_held_out(key))
    copy = key_that_is_held_out(True)
    before = make_holdout(tmp_path).decide(images | {copy: almost(images[first])})
    other_features = {key: torch.randn(4, 16).half() for key in before}

    assert make_holdout(tmp_path, encoder="ba9876543210").decide(other_features) == before


def test_no_image_and_no_copy_of_it_is_ever_on_both_sides(tmp_path: Path) -> None:
    """Twenty retrainings of random streams: images come again, come as copies, and leave."""
    originals = make_images(60)
    draw = random.Random(7)
    sides: dict[str, set[bool]] = {}
    for training in range(20):
        stream = {}
        for original in draw.sample(sorted(originals), 25):
            copy = hashlib.sha256(f"{original} {training if draw.random() < 0.5 else 0}".encode()).hexdigest()
            stream[copy] = (original, almost(originals[original]))
        decided = make_holdout(tmp_path).decide({copy: features for copy, (_, features) in stream.items()})
        for copy, held_out in decided.items():
            sides.setdefault(stream[copy][0], set()).add(held_out)

    assert len(sides) == 60
    assert all(len(where) == 1 for where in sides.values())


@pytest.fixture(scope="module")
def captioner() -> TorchCaptioner:
    return load_bundle("scenes").captioner()


def test_saved_again_cut_or_brighter_an_image_looks_the_same_and_no_other_does(captioner: TorchCaptioner) -> None:
    pictures = [picture for picture, _ in draw_scenes(40, seed=5, size=192)]
    originals = signatures(list(training_features(captioner, pictures)))
    copies = signatures(list(training_features(captioner, [saved_again(picture) for picture in pictures])))

    distances = (originals.unsqueeze(1) != copies).sum(dim=-1)

    assert distances.diagonal().max() <= MAX_DISTANCE
    assert distances[~torch.eye(40, dtype=torch.bool)].min() > MAX_DISTANCE


def saved_again(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    edge = picture.width // 40
    cut = picture.crop((edge, edge, picture.width - edge, picture.height - edge))
    cut.save(file, "JPEG", quality=50)
    return Image.open(file).convert("RGB")
