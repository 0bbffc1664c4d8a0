"""The recipe of the `photos` bundle, with a small encoder and a few pictures in place of Flickr8k."""

import pytest
import torch

from model.bundle import load_bundle
from model.metrics.comparison import Comparison
from model.training.bundle_options import BundleOptions
from model.training.distillation import DistillationOptions
from model.training.rewards import SelfCriticalOptions
from model.training.teacher_forcing import TrainingOptions
from recipes.photos.train_photos import DECODING, PhotosRecipe, make_photos
from tests.factories import make_encoder, make_image

COLORS = ("red", "green", "blue", "white")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> PhotosRecipe:
    """Thirty pictures of four colours in Flickr8k's files; the last ten are dev and test."""
    tmp_path = tmp_path_factory.mktemp("recipe")
    folder = tmp_path / "flickr"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(30):
        color = COLORS[number % 4]
        image = make_image(color)
        image.paste(make_image("black", (number + 1, 24)))  # no two are the same
        image.save(folder / "images" / f"{number}.png")
        lines += [f"{number}.png#0\tA plain {color} picture .", f"{number}.png#1\tThis one is {color} ."]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines))
    for split, numbers in (("train", range(20)), ("dev", range(20, 25)), ("test", range(25, 30))):
        (folder / f"Flickr_8k.{split}Images.txt").write_text("\n".join(f"{number}.png" for number in numbers))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    make_image("red").save(pictures / "chelsea.png")
    torch.save(make_encoder().network.state_dict(), tmp_path / "teacher.pth")
    return PhotosRecipe(
        flickr8k=folder,
        weights=str(tmp_path / "teacher.pth"),
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
        command="python -m recipes.photos.train_photos --flickr8k flickr",
    )


@pytest.fixture(scope="module")
def made(recipe: PhotosRecipe) -> Comparison:
    return make_photos(recipe)


def test_it_ends_with_a_bundle_in_8_bits_and_a_card_with_its_numbers(recipe: PhotosRecipe, made: Comparison) -> None:
    full, smaller = made.before, made.after

    bundle = load_bundle(str(recipe.out))
    card = (recipe.out / "MODEL_CARD.md").read_text()
    assert (bundle.version, bundle.record["exported"]["precision"]) == (smaller.version, "int8")
    assert full.version != smaller.version
    assert f"# Model card: {smaller.version}" in card
    assert f"| CIDEr-D | {100 * full.metrics.cider_d:.1f} | {100 * smaller.metrics.cider_d:.1f} |" in card
    assert "5 test photos" in card
    assert "--flickr8k flickr" in card
    assert "chelsea.png: Stefan van der Walt, CC0" in card
    assert (recipe.out / "gallery.jpg").read_bytes().startswith(b"\xff\xd8")


@pytest.mark.usefixtures("made")
def test_the_replay_captions_are_its_own(recipe: PhotosRecipe) -> None:
    bundle = load_bundle(str(recipe.out))
    trained = load_bundle(str(recipe.work / "bundle"))

    captions = trained.captioner().caption(torch.stack([example.features for example in trained.replay]), DECODING)
    assert [example.caption for example in bundle.replay] == [written[0].text for written in captions]
    assert len(bundle.replay) == 20


@pytest.mark.usefixtures("made")
def test_a_second_run_does_not_repeat_finished_work(recipe: PhotosRecipe) -> None:
    before = {file: file.stat().st_mtime_ns for file in recipe.work.rglob("*.*")}

    again = make_photos(recipe).before

    assert {file: file.stat().st_mtime_ns for file in recipe.work.rglob("*.*")} == before
    assert again.version == load_bundle(str(recipe.work / "bundle")).version
