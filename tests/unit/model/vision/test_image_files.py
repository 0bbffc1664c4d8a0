"""Image files are encoded once and captioned in order; a broken one does not affect the others."""

from pathlib import Path

import numpy as np

from model.decoders.search import DecodingOptions
from model.progress import Progress
from model.store import Store
from model.vision.features import FeatureStore
from model.vision.files import CaptionedFile, caption_files, encode_files
from model.vision.images import image_key
from tests.factories import make_captioner, make_encoder, make_image

COLORS = ("red", "green", "blue")


def write_images(folder: Path) -> list[Path]:
    files = [folder / f"{color}.png" for color in COLORS]
    for color, file in zip(COLORS, files, strict=True):
        make_image(color).save(file)
    return files


def test_files_are_encoded_in_order_in_half_precision(tmp_path: Path) -> None:
    files = write_images(tmp_path)
    encoder = make_encoder()

    encoded = list(encode_files(encoder, files))

    assert [image.file for image in encoded] == files
    assert [image.image_key for image in encoded] == [image_key(file.read_bytes()) for file in files]
    for image in encoded:
        assert image.features is not None
        assert image.features.shape == (encoder.regions, encoder.feature_size)
        assert image.features.dtype == np.float16


def test_broken_and_missing_files_are_named_and_the_others_encoded(tmp_path: Path) -> None:
    files = write_images(tmp_path)
    files[1].write_text("no picture")
    files[2].unlink()

    red, green, blue = encode_files(make_encoder(), files)

    assert red.features is not None
    assert green.problem is not None
    assert green.problem.startswith("not an image: 10 bytes")
    assert blue.problem is not None
    assert "No such file" in blue.problem


def test_features_come_from_the_store_the_second_time(tmp_path: Path) -> None:
    files = write_images(tmp_path)
    encoder = make_encoder()
    store = FeatureStore(Store(tmp_path / "store"), encoder.fingerprint)
    first = list(encode_files(encoder, files, features=store))
    key = first[0].image_key
    assert key is not None
    store.put(key, np.full((encoder.regions, encoder.feature_size), 7, np.float32))

    again = list(encode_files(encoder, files, features=store))

    assert again[0].features is not None
    assert first[1].features is not None
    assert again[1].features is not None
    assert bool((again[0].features == 7.0).all())
    assert np.array_equal(again[1].features, first[1].features)


def test_captions_come_in_order_with_the_broken_file_in_its_place(tmp_path: Path) -> None:
    files = write_images(tmp_path)
    files[1].write_bytes(b"")
    captioner = make_captioner()
    options = DecodingOptions(alternatives=2, max_tokens=5)

    red, green, blue = caption_files(captioner, files, options)

    for captioned, color in ((red, "red"), (blue, "blue")):
        alone = captioner.caption(captioner.encode([make_image(color)]), options)[0]
        assert [caption.text for caption in captioned.captions] == [caption.text for caption in alone]
    assert green == CaptionedFile(file=files[1], problem="the image is empty (0 bytes)")


def test_the_json_of_a_file_has_its_captions_or_its_error(tmp_path: Path) -> None:
    files = write_images(tmp_path)[:2]
    files[1].write_bytes(b"")

    good, bad = (
        captioned.to_json() for captioned in caption_files(make_captioner(), files, DecodingOptions(max_tokens=5))
    )

    assert good["image"] == str(files[0])
    assert set(good["captions"][0]) == {"caption", "score", "log_prob"}
    assert bad == {"image": str(files[1]), "error": "the image is empty (0 bytes)"}


def test_batches_report_their_progress(tmp_path: Path) -> None:
    steps: list[Progress] = []

    list(encode_files(make_encoder(), write_images(tmp_path), batch_size=2, on_progress=steps.append))

    assert [(progress.done, progress.total) for progress in steps] == [(2, 3), (3, 3)]


def test_no_files_give_no_captions() -> None:
    assert list(caption_files(make_captioner(), [], DecodingOptions())) == []
