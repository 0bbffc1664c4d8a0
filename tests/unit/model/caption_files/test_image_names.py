"""The file of an image is found under the names that captions files give it."""

from pathlib import Path
from unicodedata import normalize

import pytest

from model.caption_files.image_names import ImageFolder, image_names
from model.caption_files.read import read_captions
from tests.unit.model.caption_files.test_read import source

LOCAL = "/data/local-files/?d=photos/my%20dog.jpg"


def folder(place: Path, *names: str) -> ImageFolder:
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"")
    return ImageFolder(place)


@pytest.mark.parametrize(
    ("reference", "file"),
    [
        ("dog.jpg", "dog.jpg"),
        ("UP.jpg", "UP.JPG"),
        ("UP.JPG", "UP.jpg"),
        ("sub/UP.jpg", "sub/UP.JPG"),
        (normalize("NFC", "café.jpg"), normalize("NFD", "café.jpg")),
        (normalize("NFD", "café.jpg"), normalize("NFC", "café.jpg")),
        (normalize("NFD", "été/café.jpg"), normalize("NFC", "été/café.JPG")),
        ("train\\dog.jpg", "train/dog.jpg"),
        ("train\\dog.jpg", "train\\dog.jpg"),
        (".\\train\\dog.JPG", "train/dog.jpg"),
        ("/data/upload/1/0a1b2c3d-dog.jpg", "0a1b2c3d-dog.jpg"),
        ("/data/upload/1/0a1b2c3d-dog.jpg", "dog.jpg"),
        ("/label-studio/data/upload/1/0a1b2c3d-dog.jpg", "dog.JPG"),
        ("https://studio.example/data/upload/1/0a1b2c3d-dog.jpg?x=1", "dog.jpg"),
        ("/data/upload/1/0a1b2c3d-my_dog_1.jpg", "my dog (1).jpg"),
        ("/data/upload/1/0a1b2c3d-dog.jpg", "sub/dog.jpg"),
        (LOCAL, "photos/my dog.jpg"),
        (LOCAL, "my dog.jpg"),
        ("s3://bucket/photos/dog.jpg", "photos/dog.jpg"),
        ("https://photos.example/2025/my%20dog.jpg", "my dog.jpg"),
    ],
)
def test_a_file_is_found(tmp_path: Path, reference: str, file: str) -> None:
    assert folder(tmp_path, file, "other.jpg").find(reference) == tmp_path / file


@pytest.mark.parametrize(
    ("reference", "files"),
    [
        ("dog.jpg", ["cat.jpg"]),
        ("dog.jpg", ["Dog.jpg"]),
        ("dog.jpg", ["sub/dog.jpg"]),
        ("C:\\photos\\dog.jpg", ["dog.jpg"]),
        ("train\\my_dog.jpg", ["train/my dog.jpg"]),
        ("0a1b2c3d-dog.jpg", ["dog.jpg"]),
        ("dog.jpg", ["dog.JPG", "dog.Jpg"]),
        ("/data/upload/1/0a1b2c3d-dog.jpg", ["a/dog.jpg", "b/dog.jpg"]),
        ("data:image/png;base64," + "A" * 5000, ["dog.jpg"]),
        ("a" * 5000, ["dog.jpg"]),
        ("https://[broken", ["dog.jpg"]),
        ("https://photos.example/../..", ["dog.jpg"]),
        ("", ["dog.jpg"]),
    ],
)
def test_another_or_an_uncertain_file_is_not_taken(tmp_path: Path, reference: str, files: list[str]) -> None:
    assert folder(tmp_path, *files).find(reference) is None


def test_the_names_of_an_address_begin_with_the_likeliest() -> None:
    assert image_names("/data/upload/1/0a1b2c3d-dog.jpg") == (
        *("/data/upload/1/0a1b2c3d-dog.jpg", "data/upload/1/0a1b2c3d-dog.jpg", "upload/1/0a1b2c3d-dog.jpg"),
        *("1/0a1b2c3d-dog.jpg", "0a1b2c3d-dog.jpg", "dog.jpg"),
    )


def test_a_missing_image_is_named_with_the_file_that_resembles_it(tmp_path: Path) -> None:
    text = "image,caption\na.jpg,A dog\ndog.jpg,A dog\nsub/UP.jpg,A cat\nno.jpg,A bird\n"

    captioned = read_captions(source(tmp_path, text, images=("a.jpg", "Dog.jpg", "UP.JPG")))

    assert captioned.left_out.summary() == (
        "left out: missing images: 3 (dog.jpg (there is Dog.jpg), sub/UP.jpg (there is UP.JPG), no.jpg)"
    )


def test_a_path_of_windows_is_named_with_the_file_of_its_last_part(tmp_path: Path) -> None:
    text = "image,caption\na.jpg,A cat\nC:\\photos\\dog.jpg,A dog\nC:\\no.jpg,A bird\n"

    captioned = read_captions(source(tmp_path, text, images=("a.jpg", "dog.jpg")))

    assert captioned.left_out.summary() == (
        "left out: missing images: 2 (C:\\photos\\dog.jpg (there is dog.jpg), C:\\no.jpg)"
    )


def test_two_spellings_of_one_file_are_one_image(tmp_path: Path) -> None:
    text = "image,caption\nUP.jpg,A dog\nUP.JPG,A brown dog\n"

    captioned = read_captions(source(tmp_path, text, images=("UP.JPG",)), strict=True)

    assert [image.captions for image in captioned.images] == [("A dog", "A brown dog")]


def test_uploads_of_one_name_are_left_out_unless_their_prefix_tells_them_apart(tmp_path: Path) -> None:
    first, second = "/data/upload/1/0a1b2c3d-1.jpg", "/data/upload/1/4e5f6a7b-1.jpg"
    text = f"image,caption\n{first},A dog\n{second},A cat\nb.jpg,A bird\n"

    uncertain = read_captions(source(tmp_path / "one", text, images=("1.jpg", "b.jpg")))
    certain = read_captions(source(tmp_path / "two", text, images=("0a1b2c3d-1.jpg", "4e5f6a7b-1.jpg", "b.jpg")))

    assert [image.file.name for image in uncertain.images] == ["b.jpg"]
    assert uncertain.left_out.counts() == {"several pictures that 1.jpg may be": 2}
    assert [image.captions for image in certain.images] == [("A dog",), ("A cat",), ("A bird",)]


def test_a_list_of_names_selects_uploads_by_their_own_name(tmp_path: Path) -> None:
    text = "image,caption\n/data/upload/1/0a1b2c3d-a.jpg,A dog\nb.jpg,A bird\n"

    captioned = read_captions(source(tmp_path, text, names="a.jpg\n"), strict=True)

    assert [image.captions for image in captioned.images] == [("A dog",)]


@pytest.mark.parametrize(
    ("listed", "named", "file"),
    [
        (normalize("NFD", "café.jpg"), normalize("NFC", "café.jpg"), normalize("NFC", "café.jpg")),
        (normalize("NFC", "café.jpg"), normalize("NFD", "café.jpg"), normalize("NFC", "café.jpg")),
        ("dog.JPG", "dog.jpg", "dog.jpg"),
        ("dog.jpg", "dog.JPG", "dog.jpg"),
        ("train/dog.jpg", "train\\dog.jpg", "train/dog.jpg"),
        ("train\\dog.jpg", "train/dog.jpg", "train/dog.jpg"),
        ("my dog.jpg", "/data/upload/1/0a1b2c3d-my_dog.jpg", "my dog.jpg"),
    ],
)
def test_a_list_of_names_may_have_other_spellings(tmp_path: Path, listed: str, named: str, file: str) -> None:
    text = f"image,caption\n{named},A dog\nb.jpg,A bird\n"

    captioned = read_captions(source(tmp_path, text, names=f"{listed}\n", images=(file, "b.jpg")), strict=True)

    assert [image.captions for image in captioned.images] == [("A dog",)]


def test_a_list_does_not_select_another_file_of_a_similar_name(tmp_path: Path) -> None:
    text = "image,caption\ndog.jpg,A dog\ndog.JPG,A cat\n"

    captioned = read_captions(source(tmp_path, text, names="dog.jpg\n", images=("dog.jpg", "dog.JPG")), strict=True)

    assert [image.captions for image in captioned.images] == [("A dog",)]


def test_a_listed_image_that_is_missing_is_counted_as_missing_in_any_spelling(tmp_path: Path) -> None:
    text = "image,caption\ngone.jpg,A dog\nb.jpg,A bird\n"

    captioned = read_captions(source(tmp_path, text, names="gone.JPG\nb.jpg\n"))

    assert captioned.left_out.summary() == "left out: missing images: 1 (gone.jpg)"
