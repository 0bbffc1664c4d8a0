"""What makes training faster on a CPU changes neither the network's outputs nor its gradients."""

import copy

import torch
from torch import nn

from model.training.optimization import SubsampledConvolution, prepare_training

CPU = torch.device("cpu")


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False)
    return nn.Sequential(nn.Conv2d(3, 8, 1), depthwise, nn.Conv2d(8, 8, 3, stride=2, padding=1))


class PaddedInItsOwnWay(nn.Conv2d):
    """As timm's Conv2dSame, which pads in `forward`."""


def test_a_convolution_that_pads_in_its_own_way_stays() -> None:
    network = nn.Sequential(PaddedInItsOwnWay(8, 8, 3, stride=2, groups=8))

    prepare_training(network, CPU)

    assert isinstance(network[0], PaddedInItsOwnWay)


def gradients(network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    network.zero_grad()
    network(images).square().sum().backward()
    return [value.grad for value in network.parameters() if value.grad is not None]


def test_a_prepared_network_has_the_same_outputs_gradients_and_names_of_weights() -> None:
    plain = make_network()
    prepared = copy.deepcopy(plain)
    images = torch.randn(2, 3, 9, 12)

    prepare_training(prepared, CPU)

    assert isinstance(prepared[1], SubsampledConvolution)
    assert isinstance(prepared[2], nn.Conv2d), "a convolution over all channels stays as it is"
    torch.testing.assert_close(prepared(images), plain(images))
    torch.testing.assert_close(gradients(prepared, images), gradients(plain, images))
    assert list(prepared.state_dict()) == list(plain.state_dict())
