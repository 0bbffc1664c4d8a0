import pytest

from backend.demo.check import final_caption, house_style, is_house_style, plain_style
from backend.demo.scenes import sample_scene, write_captions, wrong_facts
from backend.demo.user import ShownSuggestion, ShownTask

SEED = 11


def shown(caption: str) -> ShownTask:
    suggestion = ShownSuggestion(prediction_id=1, model_version="scenes-00000000", caption=caption, region={})
    return ShownTask(task_id=1, image_name=f"scene-{SEED}.png", is_annotated=False, suggestions=(suggestion,))


@pytest.mark.parametrize(
    ("plain", "house"),
    [
        ("a small red circle above two squares", "a small red ball above two squares"),
        ("three circles and a square", "three balls and a square"),
        ("a star", "a star"),
    ],
)
def test_the_house_style_replaces_words_and_comes_back(plain: str, house: str) -> None:
    assert house_style(plain) == house
    assert plain_style(house) == plain


def test_only_captions_without_a_plain_word_are_in_house_style() -> None:
    assert is_house_style("a ball and a star")
    assert not is_house_style("a ball and a circle")
    assert not is_house_style("a star")


def test_a_right_suggestion_is_submitted_in_house_words() -> None:
    right = write_captions(sample_scene(SEED), 1)[0]

    assert final_caption(shown(right)) == house_style(right)


def test_a_wrong_suggestion_is_replaced_by_a_true_caption() -> None:
    submitted = final_caption(shown("four pink hearts inside a pink heart"))

    assert not wrong_facts(plain_style(submitted), sample_scene(SEED))


def test_the_newest_suggestion_is_the_one_in_the_text_area() -> None:
    older = ShownSuggestion(prediction_id=4, model_version="scenes-00000000", caption="old", region={})
    newer = ShownSuggestion(prediction_id=9, model_version="v1-00000000", caption="new", region={})

    task = ShownTask(task_id=1, image_name="scene-1.png", is_annotated=False, suggestions=(newer, older))

    assert task.prefilled == newer
