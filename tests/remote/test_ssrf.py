"""A visitor's address is fetched from inside the owner's network: by no name, form or trick does it reach into it."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import BadSettingError, RemoteError, RemoteRefusedError, RemoteUnreachableError
from backend.models import BUILTIN
from backend.remote import net
from backend.remote.net import check_visitor_url, is_public, new_session
from backend.remote.vae import RemoteVae
from tests.faults import server
from tests.faults.server import Spoiler, spoiling
from tests.serving import scripted

PRIVATE = ("127.0.0.1", "10.0.0.1", "172.31.255.255", "192.168.0.1", "169.254.169.254", "100.100.100.200", "0.0.0.0",
           "192.0.0.192", "168.63.129.16", "198.18.0.1", "240.0.0.1")  # fmt: skip
"""Loopback, private, link-local, and the metadata servers of AWS, GCP, Alibaba, Oracle and Azure."""

Resolve = Callable[[list[str]], list[str]]
"""The names asked for so far → the addresses of the latest."""


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Resolve], list[str]]]:
    """Install a resolver for names; numbers are looked up as ever. Gives the list of names asked for."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def install(resolve: Resolve) -> list[str]:
        def fake(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
            name = host.decode() if isinstance(host, bytes) else str(host)
            try:
                ipaddress.ip_address(name.partition("%")[0])
            except ValueError:
                asked.append(name)
                return [found for number in resolve(asked) for found in real(number, port, *rest, **more)]
            return real(host, port, *rest, **more)

        monkeypatch.setattr(socket, "getaddrinfo", fake)
        return asked

    yield install


def forms(address: str) -> dict[str, str]:
    """An IPv4 address in every form of IPv6 that carries one."""
    high, low = divmod(int(ipaddress.IPv4Address(address)), 2**16)
    return {
        "mapped": f"::ffff:{address}",
        "compatible": f"::{address}",
        "translated": f"::ffff:0:{address}",
        "NAT64": f"64:ff9b::{address}",
        "local NAT64": f"64:ff9b:1::{high:x}:{low:x}",
        "6to4": f"2002:{high:x}:{low:x}::1",
        "Teredo": f"2001:0:808:808:0:0:{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}",
        "ISATAP": f"2a00:1450::5efe:{high:x}:{low:x}",
        "ISATAP, universal": f"2a00:1450::200:5efe:{high:x}:{low:x}",
    }


@pytest.mark.parametrize("address", PRIVATE)
def test_no_form_of_a_private_address_is_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    for form, text in forms(address).items():
        assert not is_public(ipaddress.ip_address(text)), form


def test_the_same_forms_of_a_public_address_are_judged_by_it() -> None:
    judged = {form: is_public(ipaddress.ip_address(text)) for form, text in forms("8.8.8.8").items()}
    assert judged.pop("local NAT64") is False
    assert all(judged.values()), judged


@pytest.mark.parametrize("address", ["fec0::1", "fe80::1", "fd00:ec2::254", "5f00::1", "100::1", "2001:db8::1",
                                     "ff0e::1", "3fff::1", "4000::1", "::", "::1"])  # fmt: skip
def test_special_ipv6(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@settings(deadline=None)
@given(st.ip_addresses(v=4, network="10.0.0.0/8") | st.ip_addresses(v=4, network="169.254.0.0/16")
       | st.ip_addresses(v=4, network="127.0.0.0/8") | st.ip_addresses(v=4, network="172.16.0.0/12"))  # fmt: skip
def test_any_private_address_in_any_form(address: ipaddress.IPv4Address) -> None:
    assert not any(is_public(ipaddress.ip_address(text)) for text in forms(str(address)).values())


@pytest.mark.parametrize("number", [*PRIVATE, *forms("127.0.0.1").values(), "fe80::1", "fd00:ec2::254"])
def test_names_that_resolve_inside(resolver: Any, number: str) -> None:
    resolver(lambda asked: ["8.8.8.8", number])  # one good address does not make up for a bad one
    with pytest.raises(BadSettingError, match="private network"):
        check_visitor_url("https://vae.example/decode")


@pytest.mark.parametrize("url", ["http://[fe80::1%25lo]/", "http://[fe80::1%lo]/", "http://[::1%25lo]/",
                                 "http://[::ffff:127.0.0.1]/", "http://[::127.0.0.1]/", "http://[::]/",
                                 "http://[64:ff9b::169.254.169.254]/", "http://0177.0.0.1/", "http://0x7f000001/",
                                 "http://127.0.0.1./", "http://LOCALHOST/", "http://localhost./",
                                 "http://①②⑦.⓪.⓪.①/", "http://8.8.8.8@127.0.0.1/",
                                 "http://127.0.0.1#@8.8.8.8/", "http://127.0.0.1\\@8.8.8.8/"])  # fmt: skip
def test_odd_spellings(url: str) -> None:
    with pytest.raises((BadSettingError, RemoteUnreachableError)):
        check_visitor_url(url)


def remote(url: str, **options: Any) -> RemoteVae:
    return RemoteVae(BUILTIN.latents, None, url, session=new_session(public_only=True), timeout=5, **options)


LATENTS = torch.zeros(1, 4, 8, 12)


def test_rebinding_between_check_and_use_is_refused_without_knocking(resolver: Any) -> None:
    """Public when it is checked, loopback when it is used: no connection is even tried."""
    with scripted((200, {}, b"secret")) as (script, url):
        port = url.rpartition(":")[2]
        asked = resolver(lambda asked: ["8.8.8.8"] if len(asked) == 1 else ["127.0.0.1"])
        check_visitor_url(f"http://vae.example:{port}/")
        with pytest.raises(BadSettingError, match="private network"):
            remote(f"http://vae.example:{port}/").decode(LATENTS)
        assert asked == ["vae.example"] * 2
        assert not script.connections


def test_an_open_and_a_closed_port_inside_look_the_same() -> None:
    """Else the page would be a port scanner for the owner's network."""
    said = []
    with scripted((200, {}, b"")) as (_, there), server.refusing() as nobody:
        for url in (there, nobody):
            with pytest.raises(BadSettingError) as caught:
                remote(url).decode(LATENTS)
            said.append(caught.value.sentence)
    assert said[0] == said[1]


@pytest.fixture
def second_loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.2 stands for the open internet here, so that a connection to it can be watched."""
    real = net.is_public
    monkeypatch.setattr(net, "is_public", lambda address: str(address) == "127.0.0.2" or real(address))


def test_the_connection_goes_to_the_address_that_was_checked(
    resolver: Any, second_loopback_is_public: None
) -> None:
    """The resolver changes its answer with each question; only the one that was judged is called."""
    with socket.create_server(("127.0.0.2", 0)) as good, socket.socket() as bad:
        port = good.getsockname()[1]
        bad.bind(("127.0.0.1", port))
        bad.listen()
        bad.settimeout(0.2)
        good.settimeout(5)
        asked = resolver(lambda asked: ["127.0.0.2"] if len(asked) == 1 else ["127.0.0.1"])
        _refuse_one(good)
        with pytest.raises(RemoteRefusedError, match="does not let us in"):
            remote(f"http://vae.example:{port}/").decode(LATENTS)
        with pytest.raises(TimeoutError):
            bad.accept()
        assert asked == ["vae.example"], "looked up once, and called by number"


def _refuse_one(listener: socket.socket) -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        connection.close()

    threading.Thread(target=serve, daemon=True).start()


def test_tls_still_asks_for_the_names_certificate(
    resolver: Any, second_loopback_is_public: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is made by number, but the certificate must be the name's."""
    authority = trustme.CA()
    resolver(lambda asked: ["127.0.0.2"])
    found = []
    for name in ("vae.example", "another.example"):
        spoiler = Spoiler("http://127.0.0.1:9", server.says(403))
        with spoiling(spoiler, authority.issue_cert(name), host="127.0.0.2") as url:
            vae = remote(f"https://vae.example:{url.rpartition(':')[2]}/")
            context = ssl.create_default_context()
            authority.configure_trust(context)
            vae.client.session.get_adapter("https://").poolmanager.connection_pool_kw["ssl_context"] = context  # type: ignore[attr-defined]
            with pytest.raises(RemoteError) as caught:
                vae.decode(LATENTS)
            found.append(type(caught.value))
    assert found == [RemoteRefusedError, RemoteUnreachableError]


def test_a_redirect_inside_is_told_and_not_followed(resolver: Any, second_loopback_is_public: None) -> None:
    resolver(lambda asked: ["127.0.0.2"])
    with scripted((200, {}, b"secret")) as (inside, target):
        spoiler = Spoiler("http://127.0.0.1:9", server.says(302, location=f"{target}/?token=x"))
        with (
            spoiling(spoiler, host="127.0.0.2") as url,
            pytest.raises(RemoteRefusedError, match="has moved to") as caught,
        ):
            remote(f"http://vae.example:{url.rpartition(':')[2]}/").decode(LATENTS)
        assert not inside.connections and "token" not in caught.value.sentence


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would look the name up a second time, out of our sight."""
    with scripted((200, {}, b"")) as (proxy, url):
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, url)
        with pytest.raises(BadSettingError):
            remote("http://127.0.0.1:1/").decode(LATENTS)
        assert not proxy.connections
