"""Whom a request counts for, where one client may not have all the places."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address


def counted_client(host: str | None, per_client: int | None) -> str | None:
    """The client that a request from `host` counts for, None if it counts for nobody.

    `per_client` as in `Limits`. An IPv6 client has a whole /64 network to itself, so that counts as one.
    """
    if host is None or per_client == 0:
        return None
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None if per_client is None else host
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    # A proxy, whose address is that of all who come through it, is on this machine or in its network.
    if per_client is None and not address.is_global:
        return None
    return address.exploded[:19] if isinstance(address, IPv6Address) else str(address)
