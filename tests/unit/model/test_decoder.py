import pytest
import torch

from model.decoder import DecoderSizes
from model.errors import BundleError
from tests.factories import make_decoder


def test_attention_weights_sum_to_one_over_the_regions() -> None:
    decoder = make_decoder(features=8)
    memory = decoder.remember(torch.randn(2, 6, 8))

    _, _, weights = decoder.step(torch.tensor([[5], [6]]), decoder.start(memory), memory)

    assert weights.shape == (2, 1, 6)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 1))


def test_teacher_forcing_gives_the_logits_of_step_by_step_decoding() -> None:
    decoder = make_decoder(features=8)
    features, tokens = torch.randn(3, 6, 8), torch.randint(0, 270, (3, 5))

    forced = decoder(features, tokens)

    memory = decoder.remember(features)
    state = decoder.start(memory)
    for t in range(5):
        logits, state, _ = decoder.step(tokens[:, t : t + 1], state, memory)
        assert torch.allclose(forced[:, t], logits[:, 0], atol=1e-5)


def test_beams_share_an_image_without_mixing() -> None:
    decoder = make_decoder(features=8)
    memory = decoder.remember(torch.randn(1, 6, 8))
    one = decoder.start(memory)
    three = type(one)(*(part.expand(1, 3, -1) for part in one))

    logits, _, _ = decoder.step(torch.tensor([[7, 8, 9]]), three, memory)

    for beam, token in enumerate([7, 8, 9]):
        alone, _, _ = decoder.step(torch.tensor([[token]]), one, memory)
        assert torch.allclose(logits[:, beam], alone[:, 0], atol=1e-6)


def test_new_words_leave_what_is_said_of_old_ones_and_start_improbable() -> None:
    decoder = make_decoder(features=8)
    features, tokens = torch.randn(2, 6, 8), torch.randint(0, 270, (2, 5))

    wide = decoder.widened(decoder.sizes.vocabulary + 3)

    old = decoder.sizes.vocabulary
    assert torch.allclose(wide(features, tokens)[..., :old], decoder(features, tokens), atol=1e-6)
    assert (wide(features, tokens)[..., old:] <= wide(features, tokens).max(dim=-1, keepdim=True).values).all()


def test_a_vocabulary_never_shrinks() -> None:
    with pytest.raises(BundleError, match="cannot shrink to 5"):
        make_decoder(features=8).widened(5)


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(BundleError, match="hidden must be 1 or more, got 0"):
        DecoderSizes(vocabulary=10, features=4, hidden=0)
