import pytest
import torch

from model.decoders.base import predicted
from model.decoders.build import build_decoder
from model.decoders.cells import CELLS
from model.decoders.sizes import TRANSFORMER, DecoderSizes
from model.errors import BundleError
from model.training.batches import padded
from tests.factories import make_decoder


def test_attention_weights_sum_to_one_over_the_regions() -> None:
    decoder = make_decoder(features=8)
    memory = decoder.remember(torch.randn(2, 6, 8))

    _, _, weights = decoder.step(torch.tensor([[5], [6]]), decoder.start(memory), memory)

    assert weights.shape == (2, 1, 6)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 1))


def test_teacher_forcing_gives_the_logits_of_step_by_step_decoding() -> None:
    decoder = make_decoder(features=8)
    features, tokens = torch.randn(3, 6, 8), torch.randint(5, 270, (3, 5))

    forced = decoder(features, tokens).view(3, 4, -1)

    memory = decoder.remember(features)
    state = decoder.start(memory)
    for t in range(4):
        logits, state, _ = decoder.step(tokens[:, t : t + 1], state, memory)
        assert torch.allclose(forced[:, t], logits[:, 0], atol=1e-5)


def test_captions_of_different_length_and_image_are_read_as_if_each_were_alone() -> None:
    decoder = make_decoder(features=8)
    features, captions = torch.randn(2, 6, 8), [[1, 9, 2], [1, 7, 8, 9, 2], [1, 7, 2]]
    images = torch.tensor([0, 0, 1])

    logits = decoder(features, padded(captions), images)

    alone = [
        decoder(features[image : image + 1], torch.tensor([caption]))
        for image, caption in zip(images, captions, strict=True)
    ]
    assert torch.allclose(logits, torch.cat(alone), atol=1e-5)
    assert predicted(padded(captions)).tolist() == [9, 2, 7, 8, 9, 2, 7, 2]


@pytest.mark.parametrize("cell", [*CELLS, TRANSFORMER])
@pytest.mark.parametrize(("layers", "attention", "residual"), [(1, 16, False), (2, 16, False), (3, 0, True)])
def test_every_kind_of_decoder_decodes_as_it_was_trained_and_learns(
    cell: str, layers: int, attention: int, residual: bool
) -> None:
    sizes = DecoderSizes(
        vocabulary=12,
        features=8,
        hidden=16,
        embedding=16,
        attention=attention,
        layers=layers,
        cell=cell,
        residual=residual,
        recurrent_regions=residual,
    )
    torch.manual_seed(0)
    decoder = build_decoder(sizes)
    features, tokens = torch.randn(2, 6, 8), torch.tensor([[1, 5, 6, 7, 2], [1, 8, 9, 10, 2]])

    memory = decoder.remember(features)
    state = decoder.start(memory)
    for t in range(4):
        logits, state, weights = decoder.step(tokens[:, t : t + 1], state, memory)
        assert torch.allclose(decoder(features, tokens).view(2, 4, -1)[:, t], logits[:, 0], atol=1e-5)
        assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 1))
    optimizer = torch.optim.Adam(decoder.parameters(), 0.02)
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(decoder(features, tokens), predicted(tokens))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert decoder(features, tokens).argmax(dim=-1).tolist() == predicted(tokens).tolist()


def test_standardised_features_are_read_in_their_own_units() -> None:
    decoder = make_decoder(features=8)
    features, tokens = torch.randn(2, 6, 8), torch.tensor([[1, 5, 2]] * 2)
    decoder.standardise(features)
    before = decoder(features, tokens)

    decoder.standardise(features * 100 + 7)

    assert torch.allclose(decoder(features * 100 + 7, tokens), before, atol=1e-2)


def test_beams_share_an_image_without_mixing() -> None:
    decoder = make_decoder(features=8)
    memory = decoder.remember(torch.randn(1, 6, 8))
    one_beam = decoder.start(memory)
    three_beams = type(one_beam)(*(part.expand(1, 3, *part.shape[2:]) for part in one_beam))

    logits, _, _ = decoder.step(torch.tensor([[7, 8, 9]]), three_beams, memory)

    for beam, token in enumerate([7, 8, 9]):
        alone, _, _ = decoder.step(torch.tensor([[token]]), one_beam, memory)
        assert torch.allclose(logits[:, beam], alone[:, 0], atol=1e-6)


def test_new_words_do_not_change_old_logits_and_start_improbable() -> None:
    decoder = make_decoder(features=8)
    features, tokens = torch.randn(2, 6, 8), torch.randint(5, 270, (2, 5))

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
