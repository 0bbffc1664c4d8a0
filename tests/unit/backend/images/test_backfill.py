"""An image inside its task is found again by its hash."""

import pytest

from backend.images.backfill import find_image_ref
from backend.label_studio.client import LabelStudioClient
from backend.protocol.label_config import CaptionControl, compact_image_ref, read_image_ref
from tests.factories import make_correction

CONTROL = CaptionControl(from_name="caption", to_name="image", image_field="image")


@pytest.mark.parametrize("written", ["data:image/png;base64,AAAA", "DATA:image/png;base64,AAAA", " Data:,a\n"])
def test_an_image_inside_its_task_is_found_however_it_is_written(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"image": written}
    client = LabelStudioClient("http://127.0.0.1:9", "f" * 40)
    monkeypatch.setattr(client, "task", lambda _: {"id": 1, "data": data})
    correction = make_correction(image_ref=compact_image_ref(read_image_ref(data, CONTROL)))

    assert correction.image_ref.startswith("data:,sha256=")
    assert find_image_ref(client, correction) == read_image_ref(data, CONTROL)
