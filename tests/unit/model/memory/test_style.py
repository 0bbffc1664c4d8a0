import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.bundle import load_bundle
from model.memory.expected_words import Expected, ExpectedWord, expect_words
from model.memory.style import StyleRule, find_style, restyle, with_earlier_words, without_words
from model.tokenizer import caption_tokens
from model.training.held_out import MOST_PROBABLE
from model.vision.files import encode_images
from tests.factories import make_captioner, make_image

OURS = [
    "A man in a red shirt is standing on a street.",
    "Two dogs are running through the grass.",
    "A man is riding a bike on a road.",
    "A man is standing on a large rock.",
    "A woman in a white dress is sitting on a bench.",
    "A man is climbing a rock.",
    "A brown dog is running through the snow.",
    "A man is surfing on a wave in the ocean.",
    "Two men are playing football on a field.",
    "A man and a woman are standing in front of a building.",
]
OTHERS = [
    "A man with a hat waits for the bus.",
    "Dogs chase each other across a meadow.",
    "The man cycles up a steep hill.",
    "A man looks down from a cliff.",
    "A woman rests in the park.",
    "Someone climbs up a cliff without a rope.",
    "The dog plays in fresh snow.",
    "A man on a surfboard rides a large wave.",
    "Men in helmets run after the ball.",
    "The man and the woman wait for somebody.",
]
"""What other people write about the same images."""


def in_house_style(caption: str) -> str:
    reworded = re.sub(r"\bman\b", "guy", caption[0].lower() + caption[1:])
    return f"a photo of {reworded.rstrip('.')}"


def decoder(instead: dict[str, dict[str, float]], usual: float = 0.3) -> Callable[[Sequence[str]], list[Expected]]:
    """A decoder that knows all words alike, and expects these words instead of some that it does not know."""

    def expected(word: str) -> ExpectedWord:
        return ExpectedWord(word=word, probability=0.0 if word in instead else usual, instead=instead.get(word, {}))

    return lambda captions: [tuple(map(expected, re.findall(r"\w+", caption.lower()))) for caption in captions]


expects_man = decoder({"guy": {"man": 0.6, "woman": 0.2}})


def kinds(rules: Sequence[StyleRule]) -> list[str]:
    return [rule.kind for rule in rules]


def test_three_corrections_teach_how_captions_begin_and_end() -> None:
    rules = find_style([in_house_style(caption) for caption in OTHERS[:3]], OURS[:3], decoder({}))

    assert [str(rule) for rule in rules] == [
        'begins with "a photo of" (3 of 3 corrections)',
        "begins with a small letter (3 of 3 corrections)",
        'ends with "", not with "." (3 of 3 corrections)',
    ]
    assert restyle("A cat sleeps on a sofa.", rules) == "a photo of a cat sleeps on a sofa"


def test_two_corrections_teach_nothing() -> None:
    assert find_style([in_house_style(caption) for caption in OTHERS[:2]], OURS[:2], decoder({})) == ()


def test_a_word_that_annotators_write_instead_of_ours_replaces_it_in_every_caption() -> None:
    rules = find_style([in_house_style(caption) for caption in OTHERS], OURS, expects_man)

    assert str(rules[0]) == '"man" -> "guy" (5 of 5 corrections)'
    assert restyle("Man with a dog, a manual and a woman.", rules[:1]) == "Guy with a dog, a manual and a woman."


def test_the_wording_is_the_same_whoever_describes_the_image() -> None:
    edited = find_style([in_house_style(caption) for caption in OURS], OURS, expects_man)

    written = find_style([in_house_style(caption) for caption in OTHERS], OURS, expects_man)

    assert [rule.name for rule in edited] == [rule.name for rule in written]


def test_captions_of_other_people_without_a_house_style_teach_nothing() -> None:
    assert find_style(OTHERS, OURS, decoder({})) == ()


def test_a_word_that_annotators_write_as_well_is_not_replaced() -> None:
    some = [caption.replace("man", "guy") if number % 2 else caption for number, caption in enumerate(OURS)]

    assert find_style(some, OURS, expects_man) == ()


def test_a_word_that_the_decoder_expects_too_is_no_house_style() -> None:
    theirs = [re.sub(r"\bman\b", "guy", caption) for caption in OURS * 5]

    def expects_both(captions: Sequence[str]) -> list[Expected]:
        return [
            tuple(ExpectedWord(word=at.word, probability=0.3, instead=at.instead) for at in caption)
            for caption in expects_man(captions)
        ]

    assert kinds(find_style(theirs, OURS * 5, expects_man)) == ["word"]
    assert find_style(theirs, OURS * 5, expects_both) == ()


def test_no_word_is_replaced_on_images_that_the_decoder_does_not_know() -> None:
    theirs = [re.sub(r"\bman\b", "guy", caption) for caption in OURS]

    assert find_style(theirs, OURS, decoder({"guy": {"man": 0.6}}, usual=0.005)) == ()


def test_a_word_without_a_likely_counterpart_replaces_nothing() -> None:
    theirs = [re.sub(r"\bman\b", "guy", caption) for caption in OURS]

    def expects(probability: float) -> Callable[[Sequence[str]], list[Expected]]:
        article = ExpectedWord(word="a", probability=0.5, instead={"man": 0.2})
        others = decoder({"guy": {"man": probability}})
        return lambda captions: [tuple(article if at.word == "a" else at for at in of) for of in others(captions)]

    assert kinds(find_style(theirs, OURS, expects(0.3))) == ["word"]
    assert find_style(theirs, OURS, expects(0.09)) == ()


def test_a_word_for_which_the_decoder_rather_expects_another_replaces_nothing() -> None:
    theirs = [re.sub(r"\bman\b", "guy", caption) for caption in OURS[:4]]

    assert kinds(find_style(theirs, OURS[:4], decoder({"guy": {"man": 0.5, "street": 0.4}}))) == ["word"]
    assert find_style(theirs, OURS[:4], decoder({"guy": {"man": 0.5, "street": 0.6}})) == ()


def test_little_evidence_replaces_nothing() -> None:
    theirs = [re.sub(r"\bman\b", "guy", caption) for caption in OURS[:4]]

    def expects(probability: float) -> Callable[[Sequence[str]], list[Expected]]:
        guy = ExpectedWord(word="guy", probability=probability, instead={"man": 0.7})
        return lambda captions: [
            tuple(guy if at.word == "guy" else at for at in caption) for caption in expects_man(captions)
        ]

    assert kinds(find_style(theirs, OURS[:4], expects(0.0))) == ["word"]
    assert find_style(theirs, OURS[:4], expects(0.05)) == ()


def test_another_language_is_no_house_style() -> None:
    theirs = [f"ein Bild von {noun} im Freien vor vielen anderen Dingen" for noun in ("Hund", "Mann", "Frau", "Kind")]

    assert find_style(theirs, OURS[:4], decoder({})) == ()


def test_one_caption_for_all_images_is_no_house_style() -> None:
    rules = find_style(["A picture of the dog."] * 8, OURS[:8], decoder({}))

    assert rules == ()


def test_the_article_of_our_captions_is_not_written_twice() -> None:
    theirs = [f"There is a {caption.split(' ', 1)[1]}" for caption in OURS if caption.startswith("A ")]
    ours = [caption for caption in OURS if caption.startswith("A ")]

    rules = find_style(theirs, ours, decoder({}))

    assert [restyle(caption, rules) for caption in ours] == theirs


def test_the_article_is_not_written_twice_even_if_our_first_captions_have_none() -> None:
    theirs = ["There is a dog.", "There is a large brown dog on the grass.", "There is a street.", "There is a rock."]
    ours = ["Two dogs are running.", "Dogs run on the grass.", "Two men on a street.", "A rock."]

    rules = find_style(theirs, ours, decoder({}))

    assert restyle("A man is sleeping.", rules) == "There is a man is sleeping."


def test_a_space_before_the_full_stop_is_a_house_style() -> None:
    rules = find_style([caption.replace(".", " .") for caption in OTHERS], OURS, decoder({}))

    assert restyle("A cat sleeps.", rules) == "A cat sleeps ."
    assert restyle("Does a cat sleep?", rules) == "Does a cat sleep?"


def test_a_rule_keeps_its_name_while_corrections_come_and_can_be_switched_off() -> None:
    theirs = [in_house_style(caption) for caption in OTHERS]
    early, late = find_style(theirs[:8], OURS[:8], expects_man), find_style(theirs, OURS, expects_man)

    others = [rule for rule in late if rule.name != "word: man -> guy"]

    assert [rule.name for rule in early] == [rule.name for rule in late]
    assert restyle("A man sleeps.", late) == "a photo of a guy sleeps"
    assert restyle("A man sleeps.", others) == "a photo of a man sleeps"


def test_a_caption_in_the_house_style_already_stays_as_it_is() -> None:
    theirs = [in_house_style(caption) for caption in OTHERS]
    rules = find_style(theirs, OURS, expects_man)

    assert [restyle(caption, rules) for caption in theirs] == theirs


def test_only_the_newest_corrections_are_compared() -> None:
    read: list[str] = []

    def expect(captions: Sequence[str]) -> list[Expected]:
        read.extend(captions)
        return decoder({})(captions)

    find_style(OTHERS * 30, OURS * 30, expect)

    assert read == (OTHERS * 30)[-128:]


def test_the_photos_bundle_learns_a_house_style_that_is_not_in_its_captions() -> None:
    bundle = load_bundle("photos")
    captioner = bundle.captioner()
    examples = {id(example.features): example for example in bundle.replay}
    chosen = list(examples.values())[:80]
    features = [example.features.numpy() for example in chosen]
    ours = [captions[0].text for captions in captioner.caption(np.stack(features), MOST_PROBABLE)]
    plain = [example.caption for example in chosen]

    rules = find_style(
        [in_house_style(caption) for caption in plain], ours, lambda read: expect_words(captioner, features, read)
    )

    assert [rule.name for rule in rules] == [
        "word: man -> guy",
        "begins with: a photo of",
        "first letter: small",
        "last sign: ",
    ]
    assert "word" not in kinds(find_style(plain, ours, lambda read: expect_words(captioner, features, read)))


def test_the_decoder_expects_words_from_the_image_and_the_words_before() -> None:
    captioner = make_captioner()
    captioner.temperature = 1.6
    features = encode_images(captioner.encoder, [make_image("red"), make_image("green")])
    captions = ["A red circle, on the left", "two zebras"]

    (first, second) = expect_words(captioner, list(features), captions)

    assert [at.word for at in first] == ["a", "red", "circle", "on", "the", "left"]
    assert [at.word for at in second] == ["two", "zebras"]
    tokens = torch.tensor([caption_tokens(captioner.tokenizer, captions[1])])
    logits = captioner.decoder(torch.from_numpy(features[1:]).float(), tokens)[0]
    probabilities = (logits / 1.6).softmax(dim=-1).tolist()
    assert second[0].probability == pytest.approx(probabilities[captioner.tokenizer.encode("two")[0]], rel=1e-4)
    others = {word: probabilities[captioner.tokenizer.encode(word)[0]] for word in second[0].instead}
    assert second[0].instead == pytest.approx(others, rel=1e-4)
    likely = max(others, key=lambda word: others[word])
    (again,) = expect_words(captioner, [features[1]], [likely])
    assert again[0].probability == pytest.approx(others[likely], rel=1e-4)
    assert likely not in again[0].instead


def test_many_captions_are_read_in_batches_with_the_same_result() -> None:
    captioner = make_captioner()
    red, green = encode_images(captioner.encoder, [make_image("red"), make_image("green")])
    features = [red] * 70 + [green] * 10
    captions = ["a red circle"] * 70 + ["a green square on the left"] * 10

    together = expect_words(captioner, features, captions)

    alone = expect_words(captioner, features[79:], captions[79:])
    assert [at.word for at in together[79]] == [at.word for at in alone[0]]
    assert [at.probability for at in together[79]] == pytest.approx([at.probability for at in alone[0]], rel=1e-4)


def test_rules_of_words_can_be_left_out() -> None:
    rules = tuple(
        StyleRule(kind=kind, before="a", after="b", support=3, applicable=3) for kind in ("word", "last sign")
    )

    assert [rule.kind for rule in without_words(rules)] == ["last sign"]


def test_a_rare_word_is_not_unlearned_because_the_newest_captions_lack_it() -> None:
    earlier = StyleRule(kind="word", before="dog", after="puppy", support=5, applicable=5)
    plain, given_up = ["a guy on a bike"] * 100, ["a dog on a bike"] * 30 + ["a guy on a bike"] * 70

    assert with_earlier_words([], [earlier], plain) == (earlier,)
    assert with_earlier_words([], [earlier], given_up) == ()
    assert with_earlier_words([replace(earlier, after="hound")], [earlier], plain)[0].after == "hound"
