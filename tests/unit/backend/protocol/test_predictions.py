"""Our captions as Label Studio's predictions."""

from typing import Any

import pytest

from backend.protocol.label_config import CaptionControl
from backend.protocol.predictions import SuggestedCaption, make_prediction, make_predictions, texts_of

CAPTION = CaptionControl(from_name="caption", to_name="image", image_field="captioning")
TITLE = CaptionControl(from_name="Titel", to_name="Bild", image_field="b")


def make_caption(text: str, score: float) -> SuggestedCaption:
    return SuggestedCaption(text=text, score=score)


def test_a_prediction_is_what_label_studio_stores() -> None:
    assert make_prediction({CAPTION: make_caption("a dog", 0.75)}, "v1-0a1b2c3d") == {
        "model_version": "v1-0a1b2c3d",
        "score": 0.75,
        "result": [
            {
                "id": "ed58e9cdd2",
                "from_name": "caption",
                "to_name": "image",
                "type": "textarea",
                "value": {"text": ["a dog"]},
                "score": 0.75,
            }
        ],
    }


def test_a_prediction_is_as_sure_as_its_least_sure_caption() -> None:
    prediction = make_prediction({CAPTION: make_caption("a dog", 0.75), TITLE: make_caption("a cat", 0.5)}, "v1")

    assert prediction["score"] == 0.5
    assert [region["score"] for region in prediction["result"]] == [0.75, 0.5]
    assert [region["to_name"] for region in prediction["result"]] == ["image", "Bild"]


def test_regions_of_one_task_never_share_an_id() -> None:
    same = make_caption("a dog", 0.5)

    first, second = make_prediction({CAPTION: same, TITLE: same}, "v1")["result"]
    (newer,) = make_prediction({CAPTION: same}, "v2")["result"]

    assert len({first["id"], second["id"], newer["id"]}) == 3


def test_alternatives_come_worst_first_because_the_last_one_is_shown() -> None:
    alternatives = {CAPTION: [make_caption("best", 0.9), make_caption("second", 0.5)]}

    texts = [prediction["result"][0]["value"]["text"] for prediction in make_predictions(alternatives, "v1")]

    assert texts == [["second"], ["best"]]


def test_a_control_with_fewer_captions_repeats_its_last() -> None:
    alternatives = {
        CAPTION: [make_caption("best", 0.9), make_caption("second", 0.5)],
        TITLE: [make_caption("only", 0.8)],
    }

    texts = [
        [region["value"]["text"][0] for region in prediction["result"]]
        for prediction in make_predictions(alternatives, "v1")
    ]

    assert texts == [["second", "only"], ["best", "only"]]


def test_without_any_caption_to_show_there_is_one_empty_prediction_of_the_version() -> None:
    assert make_predictions({}, "v1") == [{"model_version": "v1", "result": []}]


@pytest.mark.parametrize(
    ("region", "texts"),
    [
        ({"value": {"text": ["a dog", "it runs"]}}, ["a dog", "it runs"]),
        ({"value": {"text": "a dog"}}, ["a dog"]),
        ({"value": {"text": None}}, []),
        ({"value": {"text": [5, None, "a dog"]}}, ["a dog"]),
        ({"value": {"choices": ["dog"]}}, []),
        ({"type": "relation", "from_id": "a", "to_id": "b"}, []),
        ({"value": None}, []),
    ],
)
def test_anything_may_stand_in_predictions_of_others(region: dict[str, Any], texts: list[str]) -> None:
    assert texts_of(region) == texts
