"""The recipe of the `photos` bundle, with a small encoder and a few pictures in place of Flickr8k and COCO."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.bundle import load_bundle
from model.training.bundle_options import BundleOptions
from model.training.distillation import DistillationOptions
from model.training.rewards import SelfCriticalOptions
from model.training.teacher_forcing import TrainingOptions
from recipes.photos import photo_sets
from recipes.photos.measure_photos import DECODING
from recipes.photos.photo_sets import PhotoSets
from recipes.photos.train_photos import PhotosRecipe, make_photos
from tests.factories import make_encoder, make_image

COLORS = ("red", "green", "blue", "white")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> PhotosRecipe:
    """Pictures of four colours in the files of both sets."""
    tmp_path = tmp_path_factory.mktemp("recipe")
    write_flickr8k(tmp_path / "data" / "flickr8k")
    write_coco(tmp_path / "data" / "coco-mixed")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    make_image("red").save(pictures / "chelsea.png")
    torch.save(make_encoder().network.state_dict(), tmp_path / "teacher.pth")
    return PhotosRecipe(
        sets=PhotoSets(folder=tmp_path / "data"),
        weights=tmp_path / "teacher.pth",
        work=tmp_path / "work",
        out=tmp_path / "photos",
        pictures=pictures,
        encoder=make_encoder().spec,
        distillation=DistillationOptions(apart_epochs=1, together_epochs=1, batch_size=4),
        training=BundleOptions(
            hidden=32,
            views=1,
            taught_stages=0,
            min_count=1,
            training=TrainingOptions(epochs=8, batch_size=4, learning_rate=1e-2, warmup_steps=2),
            self_critical=SelfCriticalOptions(epochs=0),
        ),
        further=BundleOptions(
            views=1,
            taught_stages=0,
            min_count=1,
            training=TrainingOptions(epochs=0),
            self_critical=SelfCriticalOptions(epochs=1, images_per_step=4, learning_rate=1e-4),
        ),
        command="python -m recipes.photos.train_photos --data data",
    )


def write_flickr8k(folder: Path) -> None:
    """Thirty pictures; the last ten are dev and test."""
    lines = [line for number in range(30) for line in write_picture(folder / "images", number)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines))
    for split, numbers in (("train", range(20)), ("dev", range(20, 25)), ("test", range(25, 30))):
        (folder / f"Flickr_8k.{split}Images.txt").write_text("\n".join(f"{number}.png" for number in numbers))


def write_coco(folder: Path) -> None:
    """Fifteen pictures; five of them have too few captions to measure on."""
    lines = []
    for number in range(30, 45):
        captions = [line.split("\t")[1] for line in write_picture(folder / "images", number)]
        lines.append({"image": f"{number}.png", "captions": captions[: 3 if number < 40 else 1]})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))


def write_picture(folder: Path, number: int) -> list[str]:
    """Write a picture and return its captions in the lines of Flickr8k."""
    folder.mkdir(parents=True, exist_ok=True)
    color = COLORS[number % 4]
    image = make_image(color)
    image.paste(make_image("black", (number + 1, 24)))  # no two are the same
    image.save(folder / f"{number}.png")
    captions = (f"A plain {color} picture .", f"This one is {color} .", f"It is {color} .")
    return [f"{number}.png#{at}\t{caption}" for at, caption in enumerate(captions)]


@pytest.fixture(autouse=True, scope="module")
def few_photos() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photo_sets, "COCO_TEST", 6)
        patch.setattr(photo_sets, "COCO_DEV", 2)
        yield


def test_no_coco_photo_is_in_two_splits_and_those_to_measure_on_have_several_captions(recipe: PhotosRecipe) -> None:
    splits = {name: recipe.sets.coco(name) for name in ("train", "dev", "test")}

    assert {name: len(images) for name, images in splits.items()} == {"train": 7, "dev": 2, "test": 6}
    assert len({image.file for images in splits.values() for image in images}) == 15
    assert all(len(image.captions) == 3 for name in ("dev", "test") for image in splits[name])


def test_it_ends_with_a_bundle_in_8_bits_and_a_card_and_a_second_run_repeats_no_finished_work(
    recipe: PhotosRecipe,
) -> None:
    """One test, because processes that share the tests would each make the bundle."""
    flickr8k, coco = make_photos(recipe)
    full, smaller = flickr8k.before, flickr8k.after
    assert full is not None
    assert coco.before is not None

    bundle = load_bundle(recipe.out)
    card = (recipe.out / "MODEL_CARD.md").read_text()
    assert (bundle.version, bundle.record["exported"]["precision"]) == (smaller.version, "int8")
    assert full.version != smaller.version
    assert f"# Model card: {smaller.version}" in card
    pairs = ((flickr8k.after, full), (coco.after, coco.before))
    cells = (f"{100 * now.metrics.cider_d:.1f} ({100 * earlier.metrics.cider_d:.1f})" for now, earlier in pairs)
    assert f"| CIDEr-D | {' | '.join(cells)} |" in card
    assert "| | Flickr8k, 5 photos | COCO, 6 photos |" in card
    assert "| captions with a fault |" in card
    assert "| calibration error of their scores |" in card
    assert bundle.first_score is not None
    assert bundle.first_score.judged == 5 + 2
    assert "--data data" in card
    assert "chelsea.png: Stefan van der Walt, CC0" in card
    assert (recipe.out / "gallery.jpg").read_bytes().startswith(b"\xff\xd8")

    first, trained = (load_bundle(recipe.work / name) for name in ("bundle", "further"))
    phases = ("first_training", "training")
    assert [[epoch["phase"] for epoch in bundle.record[name]["epochs"]] for name in phases] == [
        ["captions"] * 8,
        ["rewards"],
    ]
    assert bundle.record["seconds"] == first.record["seconds"] + trained.record["seconds"]

    captions = trained.captioner().caption(torch.stack([example.features for example in trained.replay]), DECODING)
    assert [example.caption for example in bundle.replay] == [written[0].text for written in captions]
    assert len(bundle.replay) == 27

    before = {file: file.stat().st_mtime_ns for file in recipe.work.rglob("*.*")}

    again = make_photos(recipe)[0].before
    assert again is not None
    assert {file: file.stat().st_mtime_ns for file in recipe.work.rglob("*.*")} == before
    assert again.version == trained.version
