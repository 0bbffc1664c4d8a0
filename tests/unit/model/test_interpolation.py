import torch

from model.decoders.base import CaptionDecoder
from model.decoders.build import build_decoder
from model.decoders.sizes import DecoderSizes
from model.interpolation import interpolated


def make_decoder(seed: int) -> CaptionDecoder:
    torch.manual_seed(seed)
    return build_decoder(DecoderSizes(vocabulary=270, features=4, hidden=8, embedding=8, attention=8))


def test_the_ends_of_the_way_are_the_two_decoders() -> None:
    before, after = make_decoder(1), make_decoder(2)

    for alpha, end in ((0.0, before), (1.0, after)):
        weights = interpolated(before, after, alpha).state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in end.state_dict().items())


def test_every_weight_goes_the_same_part_of_the_way_and_the_two_decoders_stay_as_they_were() -> None:
    before, after = make_decoder(1), make_decoder(2)
    kept = {name: value.clone() for name, value in after.state_dict().items()}

    between = interpolated(before, after, 0.3)

    for name, value in between.state_dict().items():
        expected = 0.7 * before.state_dict()[name] + 0.3 * after.state_dict()[name]
        torch.testing.assert_close(value, expected)
    assert all(torch.equal(value, kept[name]) for name, value in after.state_dict().items())
    assert not between.training
