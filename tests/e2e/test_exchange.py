"""Captions come from files and go to files, through a real Label Studio and its own exports."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import requests
from redis import Redis

from backend.cli import main
from backend.demo.user import LabelStudioUser
from model.caption_files.read import CaptionSet, CaptionSource, read_captions
from tests.e2e.conftest import Connected, LabelStudio, Product
from tests.e2e.drawn_pictures import draw_pictures
from worker.feedback.feedback_store import FeedbackStore

SEEDS = (1, 2, 3)
SKIPPED = 1
"""Place of the picture that an annotator skips."""


def captions(read: CaptionSet) -> list[list[str]]:
    """Return the captions of each image, in an order that is the same for all exports."""
    return sorted(sorted(image.captions) for image in read.images)


def test_imported_captions_are_learned_and_every_export_has_them(
    product: Product,
    label_studio: LabelStudio,
    user: LabelStudioUser,
    connect: Callable[[Product, str, Sequence[int]], Connected],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in product.settings.items():
        monkeypatch.setenv(name, value)
    project_id = connect(product, "captions from a file", SEEDS).project_id
    (tmp_path / "pictures").mkdir()
    pictures = draw_pictures(tmp_path / "pictures", SEEDS)
    user.skip(project_id, user.tasks(project_id)[SKIPPED])
    file = tmp_path / "captions.csv"
    rows = [f"{picture.name};une scène n° {at}; {word}" for at, picture in enumerate(pictures) for word in ("a", "b")]
    quoted = [f'{row.partition(";")[0]};"{row.partition(";")[2]}"' for row in rows]
    file.write_text("\n".join(["image;caption", *quoted]), "utf-16")

    codes = [main(["import", str(project_id), str(file)]) for _ in range(2)]

    wanted = [[f"une scène n° {at}; {word}" for word in ("a", "b")] for at in range(3) if at != SKIPPED]
    with Redis.from_url(product.settings["REDIS_URL"]) as redis:
        feedback = FeedbackStore(redis)
        product.wait("to hear of four captions", lambda: len(feedback.corrections(project_id)) == 4)
    assert codes == [1, 1]  # the skipped task is left alone
    token = {"Authorization": f"Token {label_studio.account.token}"}
    for kind in ("JSON", "JSON_MIN", "CSV"):
        address = f"{label_studio.url}/api/projects/{project_id}/export"
        exported = requests.get(address, params={"exportType": kind}, headers=token, timeout=60)
        exported.raise_for_status()
        (tmp_path / kind).write_bytes(exported.content)
        read = read_captions(CaptionSource(captions=tmp_path / kind, images=tmp_path / "pictures"), strict=True)
        assert captions(read) == wanted, kind
    for layout, written, folder in (("coco", "captions.json", "images"), ("huggingface", "metadata.jsonl", ".")):
        out = tmp_path / layout
        assert main(["export", str(project_id), "--format", layout, "--images", "--out", str(out)]) == 0
        read = read_captions(CaptionSource(captions=out / written, images=out / folder), strict=True)
        assert captions(read) == wanted, layout
