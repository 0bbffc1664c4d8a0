"""Addresses that images may come from."""

import pytest

from backend.images.addresses import AddressPolicy, AllowedHosts
from model.errors import ImageError, SettingsError

LABEL_STUDIO = ("labels.example", 8080)


def is_allowed(address: str, host: str = "images.example", listed: str | None = None) -> bool:
    allowed = None if listed is None else AllowedHosts.parse(listed)
    try:
        AddressPolicy(label_studio=LABEL_STUDIO, allowed=allowed).check(host, 80, address)
    except ImageError:
        return False
    return True


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "::1", "::", "169.254.169.254", "fe80::1%eth0", "fd00:ec2::254"),
        *("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd20:ce::254", "224.0.0.1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "64:ff9b::a00:1", "2002:a00:1::"),
    ],
)
def test_addresses_of_this_machine_of_the_link_and_of_clouds_are_refused(address: str) -> None:
    assert not is_allowed(address)
    assert not is_allowed(address, listed="images.example")  # a name does not open them


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "10.1.2.3", "192.168.1.7", "172.16.0.1", "fd12::1", "2606:2800:220:1::1"]
)
def test_public_addresses_and_private_networks_are_allowed(address: str) -> None:
    assert is_allowed(address)


def test_label_studios_own_address_is_allowed_at_its_port_only() -> None:
    policy = AddressPolicy(label_studio=LABEL_STUDIO)

    policy.check("Labels.example", 8080, "127.0.0.1")
    with pytest.raises(ImageError):
        policy.check("labels.example", 80, "127.0.0.1")


@pytest.mark.parametrize(
    ("listed", "host", "address", "allowed"),
    [
        ("10.0.0.0/8", "images.example", "10.1.2.3", True),
        ("10.0.0.0/8", "images.example", "11.1.2.3", False),
        ("10.0.0.0/8", "images.example", "::ffff:10.1.2.3", True),
        ("127.0.0.1", "images.example", "127.0.0.1", True),
        ("images.example", "Images.Example", "93.184.216.34", True),
        ("images.example", "other.example", "93.184.216.34", False),
        ("images.example", "a.images.example", "93.184.216.34", False),
        ("*.images.example", "a.images.example", "93.184.216.34", True),
        ("*.images.example", "evilimages.example", "93.184.216.34", False),
        ("10.0.0.0/8, fd12::/16,images.example", "x.example", "fd12::5", True),
    ],
)
def test_what_the_operator_lists_is_all_that_is_allowed(listed: str, host: str, address: str, allowed: bool) -> None:
    assert is_allowed(address, host, listed) == allowed


@pytest.mark.parametrize("listed", ["10.0.0.0/99", "http://images.example", "a b", "images.example/pictures"])
def test_an_entry_that_is_neither_network_nor_name_is_named(listed: str) -> None:
    with pytest.raises(SettingsError, match="ALLOWED_IMAGE_HOSTS has"):
        AllowedHosts.parse(listed)
