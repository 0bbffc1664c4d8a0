"""The tokenizer restores every text, keeps its ids, and decodes any ids."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model.errors import BundleError
from model.tokenizer import END, FIRST_BYTE, FIRST_WORD, GLUE, PAD, SPELL, START, Tokenizer

CAPTIONS = ("a dog runs .", "a dog sleeps .", "一个人在走。", "一只狗在走。")
TOKENIZER = Tokenizer.build(CAPTIONS)

texts = st.one_of(
    st.text(),
    st.text(alphabet=list(" \n\t.,'a一个人。é😀\u200d\u0301_-dog")),
    st.lists(st.sampled_from(["a", "dog", "一", "。", " ", "  ", "\n", "?", "zebra", ""])).map("".join),
)


@given(texts)
@example(" a dog ")
@example("一个 人 在走。\n")
@example("a dog一只狗 runs。 .")
@example("👩‍👩‍👧 and e\u0301, don't\x00\x1c")
def test_decoding_gives_back_the_very_text(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.lists(st.integers(0, TOKENIZER.size - 1)))
def test_any_ids_decode_to_a_text(ids: list[int]) -> None:
    text = TOKENIZER.decode(ids)

    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(texts, st.lists(texts))
def test_words_learned_later_leave_old_ids_where_they_were(text: str, later: list[str]) -> None:
    extended = TOKENIZER.extended(later, min_count=1)

    assert extended.words[: len(TOKENIZER.words)] == TOKENIZER.words
    assert extended.decode(TOKENIZER.encode(text)) == text
    assert extended.decode(extended.encode(text)) == text


def test_words_stand_by_frequency_then_alphabet() -> None:
    assert Tokenizer.build(CAPTIONS, min_count=2).words == (".", "a", "dog", "。", "一", "在", "走")
    assert Tokenizer.build(["b b a a c"], min_count=2).words == ("a", "b")


def test_the_usual_spacing_costs_no_tokens() -> None:
    dog = TOKENIZER.encode("a dog .")

    assert dog == [FIRST_WORD + 1, FIRST_WORD + 2, FIRST_WORD + 0]
    assert TOKENIZER.encode("a dog.") == [FIRST_WORD + 1, FIRST_WORD + 2, GLUE, FIRST_WORD + 0]
    assert len(TOKENIZER.encode("一在走。")) == 4


def test_an_unknown_word_and_unusual_space_are_spelled_in_bytes() -> None:
    assert TOKENIZER.encode("é") == [SPELL, FIRST_BYTE + 0xC3, FIRST_BYTE + 0xA9]
    assert TOKENIZER.encode("a  a") == [
        FIRST_WORD + 1,
        SPELL,
        FIRST_BYTE + 32,
        FIRST_BYTE + 32,
        FIRST_WORD + 1,
    ]


def test_padding_start_and_end_are_passed_over() -> None:
    assert TOKENIZER.decode([START, *TOKENIZER.encode("a dog"), END, PAD, PAD]) == "a dog"


def test_broken_utf8_shows_as_replacement_characters() -> None:
    assert TOKENIZER.decode([SPELL, FIRST_BYTE + 0xFF]) == "\ufffd"


def test_a_lone_surrogate_does_not_stop_a_correction() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode("a \ud83d dog")) == "a ? dog"


def test_every_id_has_a_readable_token() -> None:
    tokens = [TOKENIZER.token(token_id) for token_id in range(TOKENIZER.size)]

    assert tokens[:5] == ["<pad>", "<start>", "<end>", "<glue>", "<spell>"]
    assert tokens[FIRST_BYTE + 0x41] == "<0x41>"
    assert tokens[FIRST_WORD:] == list(TOKENIZER.words)


def test_json_gives_the_same_tokenizer_back() -> None:
    assert Tokenizer.from_json(json.loads(json.dumps(TOKENIZER.to_json()))) == TOKENIZER


@pytest.mark.parametrize("fields", [{}, {"words": "a"}, {"words": [1]}, {"words": [""]}, [], {"words": ["a", "a"]}])
def test_a_damaged_vocabulary_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="a vocabulary must"):
        Tokenizer.from_json(fields)
