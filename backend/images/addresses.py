"""Which addresses images may be fetched from.

Whoever imports tasks chooses these addresses. So by default nothing is fetched from this machine, from addresses of the
local link, where clouds keep credentials, or from IPv6 addresses that stand for such addresses. Private networks are
allowed, because that is where teams keep their pictures. ALLOWED_IMAGE_HOSTS narrows that to what the operator lists.
Label Studio's own address is always allowed.
"""

import ipaddress
from dataclasses import dataclass
from typing import Self

from model.errors import ImageError, SettingsError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_METADATA = tuple(
    ipaddress.ip_network(network)
    for network in (
        "100.100.100.200/32",  # Alibaba Cloud
        "168.63.129.16/32",  # Azure's wire server
        "192.0.0.192/32",  # Oracle Cloud
        "fd00:ec2::254/128",  # Amazon
        "fd20:ce::254/128",  # Google
    )
)
_NAT64 = tuple(ipaddress.ip_network(network) for network in ("64:ff9b::/96", "64:ff9b:1::/48"))
_COMPATIBLE = ipaddress.ip_network("::/96")


@dataclass(frozen=True, kw_only=True)
class AllowedHosts:
    """Hosts that the operator lists: networks, and names with or without `*.` in front."""

    networks: tuple[Network, ...] = ()
    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, listed: str) -> Self:
        """Read entries such as `10.0.0.0/8`, `192.168.1.7`, `images.example.org` and `*.example.org`, with commas.

        Raises:
            SettingsError: an entry is neither a network nor a name.
        """
        networks: list[Network] = []
        names: list[str] = []
        for entry in filter(None, (entry.strip() for entry in listed.split(","))):
            try:
                networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                name = entry.lower().rstrip(".")
                if not name.removeprefix("*.").replace("-", "").replace(".", "").replace("_", "").isalnum():
                    raise SettingsError(
                        f"ALLOWED_IMAGE_HOSTS has {entry!r}, expected a network such as 10.0.0.0/8 or a host name such "
                        "as images.example.org or *.example.org"
                    ) from None
                names.append(name)
        return cls(networks=tuple(networks), names=tuple(names))

    def has_name(self, host: str) -> bool:
        host = host.lower().rstrip(".")
        return any(host == name or (name.startswith("*.") and host.endswith(name[1:])) for name in self.names)

    def has_address(self, address: Address) -> bool:
        return any(address in network for network in self.networks if address.version == network.version)


@dataclass(frozen=True, kw_only=True)
class AddressPolicy:
    """Decides by the name of a host and by the address that it leads to."""

    label_studio: tuple[str, int]
    """Host and port of Label Studio."""
    allowed: AllowedHosts | None = None
    """None: the operator lists nothing, and the defaults decide."""

    def check(self, host: str, port: int, address: str) -> None:
        """Raise ImageError if nothing may be fetched from there.

        Args:
            host: as the URL names it.
            port: of the URL.
            address: that the host leads to.
        """
        if (host.lower().strip("[]"), port) == self.label_studio:
            return
        parsed = ipaddress.ip_address(address.partition("%")[0])
        meant = _meant_by(parsed)
        if self.allowed is not None:
            if any(self.allowed.has_address(each) for each in meant):
                return
            if not self.allowed.has_name(host):
                raise ImageError(f"images are not fetched from {host}: ALLOWED_IMAGE_HOSTS does not list it", "address")
        if any(_is_refused(each) for each in meant) or (len(meant) > 1 and any(each.is_private for each in meant)):
            raise ImageError(
                f"images are not fetched from {host}: its address is a loopback address, a link-local address or a "
                "metadata service of a cloud; ALLOWED_IMAGE_HOSTS can list it",
                "address",
            )


def _meant_by(address: Address) -> list[Address]:
    """Return an address, and the IPv4 address that it stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    inside = address.sixtofour or (address.teredo or (None, None))[1]
    if any(address in network for network in _NAT64) or (address in _COMPATIBLE and int(address) > 1):
        inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return [address] if inside is None else [address, inside]


def _is_refused(address: Address) -> bool:
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_unspecified
        or address.is_multicast
        or any(address in network for network in _METADATA if network.version == address.version)
    )
