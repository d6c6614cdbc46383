"""Where the addresses that somebody without the right to it has set may not lead: to this machine, its link, private
networks, and whatever else is not the public net."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from bursar.net.transport import NotSentError

# Addresses of the fourth version inside the sixth, by which a private one could be meant (RFC 6052, RFC 3056).
_TRANSLATED = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = IPv6Network("2002::/16")


class Guard:
    """Lets only addresses of the public net through, and what is allowed by name or network."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """`allowed` are networks (`10.1.0.0/16`), addresses and host names. Raises ValueError that names what is
        neither."""
        self._networks = []
        self._hosts: set[str] = set()
        for one in allowed:
            try:
                self._networks.append(ip_network(one.strip("[]"), strict=False))
            except ValueError:
                if "/" in one or ":" in one or not one:
                    raise ValueError(f"'{one}' is no network, address or host name") from None
                self._hosts.add(one.lower().rstrip("."))

    async def addresses(self, host: str, port: int) -> list[str]:
        """The addresses of a host, none of which is refused: to be connected to as they are, for a name may mean
        another one the next time it is asked for. Raises NotSentError, OSError."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(info[4][0]) for info in found]
        if host.lower().rstrip(".") in self._hosts:
            return addresses
        for address in addresses:
            if not self._lets(ip_address(address.partition("%")[0])):
                raise NotSentError(
                    f"'{host}' is at {address}, and addresses set without an administrator's right lead to the public "
                    "net only: an administrator of the installation may allow it in server.private_hosts"
                )
        return addresses

    def _lets(self, address: IPv4Address | IPv6Address) -> bool:
        meant = _meant(address)
        if any(address in network or meant in network for network in self._networks):
            return True
        return meant.is_global and not meant.is_multicast


def _meant(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The address of the fourth version that one of the sixth stands for, else itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _SIX_TO_FOUR and address.sixtofour is not None:
        return address.sixtofour
    return address
