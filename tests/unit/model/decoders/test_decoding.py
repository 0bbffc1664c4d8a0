import math

import pytest
import torch
from torch import Tensor

from model.decoders.base import CaptionDecoder, DecoderState, Memory, log_probabilities
from model.decoders.search import DecodingOptions, Hypothesis, beam_search
from model.decoders.sizes import DecoderSizes
from model.errors import SettingsError
from model.tokenizer import END, FIRST_WORD, GLUE, START
from tests.factories import make_decoder

A, B = FIRST_WORD, FIRST_WORD + 1
CHAIN = {
    START: {A: 0.6, B: 0.4},
    A: {A: 0.1, B: 0.5, END: 0.4},
    B: {A: 0.05, B: 0.05, END: 0.9},
}
"""Probability of the next token after each token. The language is small enough to search by hand."""


class ChainDecoder(CaptionDecoder):
    """Predicts the tokens of this language for every image."""

    def __init__(self) -> None:
        super().__init__(DecoderSizes(vocabulary=B + 1, features=1, hidden=1, embedding=1, attention=1))
        self.table = torch.full((B + 1, B + 1), float("-inf"))
        for token, following in CHAIN.items():
            for after, probability in following.items():
                self.table[token, after] = math.log(probability)

    def remember(self, features: Tensor) -> Memory:
        return Memory(features, features)

    def start(self, memory: Memory) -> DecoderState:
        return DecoderState(*[memory.keys[:, :1]] * 3)

    def step(self, tokens: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, DecoderState, Tensor]:
        return self.table[tokens], state, torch.full((*tokens.shape, 2), 0.5)


def search_chain(options: DecodingOptions) -> list[Hypothesis]:
    return beam_search(ChainDecoder(), torch.zeros(1, 2, 1), options)[0]


def test_beam_two_finds_the_sentence_that_greedy_search_misses() -> None:
    options = DecodingOptions(beam_size=2, length_penalty=0.0, max_tokens=6)

    best, second = search_chain(options)

    # P(B) = .4 * .9 = .36 beats P(A B) = .6 * .5 * .9 = .27, though A is the likelier start.
    assert best.token_ids == (B,)
    assert best.log_prob == pytest.approx(math.log(0.36))
    assert second.token_ids == (A, B)
    assert second.log_prob == pytest.approx(math.log(0.27))


def test_greedy_search_follows_the_likeliest_token() -> None:
    (best,) = search_chain(DecodingOptions(beam_size=1, length_penalty=0.0, max_tokens=6))

    assert best.token_ids == (A, B)


def test_the_length_penalty_favours_the_longer_sentence() -> None:
    best, _ = search_chain(DecodingOptions(beam_size=2, length_penalty=1.0, max_tokens=6))

    # ln .27 / 3 = -.436 ranks above ln .36 / 2 = -.511.
    assert best.token_ids == (A, B)
    assert best.rank_score == pytest.approx(math.log(0.27) / 3)


def test_attention_has_one_row_per_token() -> None:
    best, second = search_chain(DecodingOptions(beam_size=2, length_penalty=0.0, max_tokens=6))

    assert best.attention.shape == (1, 2)
    assert second.attention.shape == (2, 2)


def test_beam_one_equals_greedy_decoding_of_a_network() -> None:
    decoder = make_decoder(features=8, seed=3)
    features = torch.randn(4, 6, 8)

    hypotheses = beam_search(decoder, features, DecodingOptions(beam_size=1, max_tokens=12))

    assert [best.token_ids for best, *_ in hypotheses] == greedy(decoder, features, 12)


def greedy(decoder: CaptionDecoder, features: Tensor, max_tokens: int) -> list[tuple[int, ...]]:
    written = []
    for image in features:
        memory = decoder.remember(image.unsqueeze(0))
        state, token, tokens = decoder.start(memory), START, []
        for _ in range(max_tokens):
            logits, state, _ = decoder.step(torch.tensor([[token]]), state, memory)
            log_probs = log_probabilities(logits)
            token = int(log_probs.argmax())
            if token == END:
                break
            tokens.append(token)
        written.append(tuple(tokens))
    return written


def ending_decoder(seed: int) -> CaptionDecoder:
    """A network whose captions end at different lengths."""
    decoder = make_decoder(features=8, seed=seed)
    with torch.no_grad():
        decoder.bias[END] += 2
    return decoder


@pytest.mark.parametrize("alternatives", [1, 3])
def test_an_image_is_captioned_the_same_alone_and_in_a_batch(alternatives: int) -> None:
    decoder = ending_decoder(seed=4)
    features = torch.randn(5, 6, 8)
    options = DecodingOptions(beam_size=3, alternatives=alternatives, max_tokens=15)

    together = beam_search(decoder, features, options)

    for image, hypotheses in zip(features, together, strict=True):
        (alone,) = beam_search(decoder, image.unsqueeze(0), options)
        assert [h.token_ids for h in alone] == [h.token_ids for h in hypotheses]
        assert alone[0].log_prob == pytest.approx(hypotheses[0].log_prob, abs=1e-4)


def test_the_log_probability_is_that_of_the_whole_caption_whatever_it_was_chosen_by() -> None:
    decoder = ending_decoder(seed=4)
    with torch.no_grad():
        decoder.bias[FIRST_WORD] += 4  # so that alternatives write it too, though it was taken
    features = torch.randn(1, 6, 8)

    (hypotheses,) = beam_search(decoder, features, DecodingOptions(beam_size=3, alternatives=3, max_tokens=15))

    for hypothesis in hypotheses:
        logits = decoder(features, torch.tensor([[START, *hypothesis.token_ids, END]])).detach()
        expected = log_probabilities(logits).gather(1, torch.tensor([[*hypothesis.token_ids, END]]).T).sum()
        assert hypothesis.log_prob == pytest.approx(float(expected), abs=1e-4)


def test_a_caption_that_never_ends_is_cut_at_the_limit() -> None:
    decoder = make_decoder(features=8)
    with torch.no_grad():
        decoder.bias[END] = -50

    hypotheses = beam_search(decoder, torch.randn(1, 6, 8), DecodingOptions(beam_size=2, max_tokens=7))

    assert len(hypotheses[0][0].token_ids) == 7


def test_a_decoder_writes_words_and_never_spells_its_own() -> None:
    hypotheses = beam_search(make_decoder(features=8, seed=5), torch.randn(4, 6, 8), DecodingOptions(max_tokens=10))

    written = {token for of_image in hypotheses for h in of_image for token in h.token_ids}
    assert written <= {GLUE, *range(FIRST_WORD, 300)}


def test_no_image_gives_no_caption() -> None:
    assert beam_search(make_decoder(features=8), torch.zeros(0, 6, 8), DecodingOptions()) == []


def test_an_alternative_starts_where_the_best_caption_does_not() -> None:
    best, alternative = search_chain(DecodingOptions(beam_size=1, alternatives=2, length_penalty=0.0, max_tokens=6))

    # Greedy search writes A B. After it A is worth ln .6 - 1 = -1.51 at the start, less than ln .4 = -.92 of B.
    assert best.token_ids == (A, B)
    assert alternative.token_ids == (B,)
    assert alternative.log_prob == pytest.approx(math.log(0.4 * 0.9))


@pytest.mark.parametrize("beam_size", [1, 3])
def test_alternatives_leave_the_beam_as_it_is(beam_size: int) -> None:
    decoder = ending_decoder(seed=4)
    features = torch.randn(5, 6, 8)

    alone = beam_search(decoder, features, DecodingOptions(beam_size=beam_size, max_tokens=15))
    hypotheses = beam_search(decoder, features, DecodingOptions(beam_size=beam_size, alternatives=4, max_tokens=15))

    for without, with_alternatives in zip(alone, hypotheses, strict=True):
        best, *others = (hypothesis.token_ids for hypothesis in with_alternatives)
        assert [best, *others[3:]] == [hypothesis.token_ids for hypothesis in without]
        assert all(h.attention.shape == (len(h.token_ids), 6) for h in with_alternatives)
        ranks = [hypothesis.rank_score for hypothesis in with_alternatives[1:4]]
        assert ranks == sorted(ranks, reverse=True)


def test_each_alternative_keeps_away_from_all_before_it() -> None:
    undecided = make_decoder(features=8)  # untrained, so no word is worth a nat more than another

    hypotheses = beam_search(undecided, torch.randn(1, 6, 8), DecodingOptions(beam_size=1, alternatives=4))

    assert len({hypothesis.token_ids[0] for hypothesis in hypotheses[0]}) == 4


@pytest.mark.parametrize("name", ["beam_size", "alternatives", "max_tokens"])
def test_an_option_below_one_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} must be 1 or more, got 0"):
        DecodingOptions(**{name: 0})
