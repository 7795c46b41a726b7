"""Which addresses this app may call, and the pooled sessions it calls them with.

The owner's endpoints, from flags and environment, may be anywhere. An address that a visitor types is fetched by
this server, from inside the owner's network: so it must be a public one, both when its name is looked up and on the
socket that is really opened (a name may point elsewhere a moment later). Redirects are never followed.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from functools import cache
from typing import Any
from urllib.parse import SplitResult, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from backend.errors import BadSettingError, RemoteUnreachableError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def split_url(url: str) -> SplitResult:
    """A web address in its parts.

    Raises:
        BadSettingError: not http or https, no host, or a name and password inside.
    """
    try:
        parts = urlsplit(url.strip())
        _ = parts.port  # raises for a port that is no number
    except ValueError as error:
        raise BadSettingError(
            "This is not a web address.", "It looks like https://example.org/vae."
        ) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadSettingError("This is not a web address.", "It must start with http:// or https://.")
    if parts.username is not None or parts.password is not None:
        raise BadSettingError(
            "An endpoint's address must not hold a name or password.", "Give the token in its own field."
        )
    return parts


def bare_url(url: str) -> str:
    """The address without query, fragment or credentials, fit for a log or a message."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def is_public(address: Address) -> bool:
    """Whether an address is on the open internet: not loopback, private, link-local (cloud metadata), multicast…

    IPv6 forms that carry an IPv4 address are judged by that one.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


def check_visitor_url(url: str) -> None:
    """Let a visitor's URL pass only if every address its name has is public.

    Raises:
        BadSettingError: not a web address, or one inside a network. RemoteUnreachableError: an unknown name.
    """
    parts = split_url(url)
    host = parts.hostname or ""
    try:
        found = socket.getaddrinfo(
            host, parts.port or (443 if parts.scheme == "https" else 80), type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError) as error:
        raise RemoteUnreachableError(
            f"No computer called {host} was found.",
            "Check the address for a typing mistake.",
            url=bare_url(url),
        ) from error
    for *_, place in found:
        if not is_public(ipaddress.ip_address(str(place[0]).partition("%")[0])):
            raise _not_public()


def _not_public() -> BadSettingError:
    return BadSettingError(
        "This address belongs to a private network, which this page does not call.",
        "Give one on the open internet, or ask the owner to configure it.",
    )


_current = threading.local()


class Watched:
    """Remembers the connection that this thread's request uses, so that another thread can cut it."""

    def __init__(self) -> None:
        self.connection: HTTPConnection | None = None

    def __enter__(self) -> Watched:
        _current.watched = self
        return self

    def __exit__(self, *_: object) -> None:
        _current.watched = None

    def cut(self) -> None:
        """End the request: its thread gets an error, and the server sees that nobody waits any more."""
        sock = getattr(self.connection, "sock", None)
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # already gone, which is all that was wanted


class _Checked(HTTPConnection):
    public_only = False

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        if self.public_only and not is_public(ipaddress.ip_address(sock.getpeername()[0].partition("%")[0])):
            sock.close()
            raise _not_public()
        return sock

    def request(self, *args: Any, **options: Any) -> None:
        watched: Watched | None = getattr(_current, "watched", None)
        if watched is not None:
            watched.connection = self
        super().request(*args, **options)


class _CheckedTLS(_Checked, HTTPSConnection):
    pass


class _Public(_Checked):
    public_only = True


class _PublicTLS(_CheckedTLS):
    public_only = True


def _pool(base: Any, connection: type[HTTPConnection]) -> Any:
    return type(base.__name__, (base,), {"ConnectionCls": connection})


class _Adapter(HTTPAdapter):
    def __init__(self, *, public_only: bool) -> None:
        self._public_only = public_only
        self.answered: set[str] = set()
        super().__init__(pool_connections=8, pool_maxsize=32, max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {
            "http": _pool(HTTPConnectionPool, _Public if self._public_only else _Checked),
            "https": _pool(HTTPSConnectionPool, _PublicTLS if self._public_only else _CheckedTLS),
        }


def new_session(*, public_only: bool = False) -> requests.Session:
    """A session whose connections are kept and can be cut; with `public_only` they refuse private addresses."""
    session = requests.Session()
    adapter = _Adapter(public_only=public_only)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.auth = _add_nothing  # else requests would look for passwords in ~/.netrc
    session.headers["Accept-Encoding"] = "identity"
    if public_only:
        session.trust_env = False  # a proxy would look up the name a second time, out of our sight
    return session


def answered(session: requests.Session) -> set[str]:
    """Origins that have answered on this session, whatever they said; for the caller to add to."""
    adapter = session.get_adapter("http://")
    return adapter.answered if isinstance(adapter, _Adapter) else set()


def _add_nothing(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


@cache
def shared_session(public_only: bool = False) -> requests.Session:
    """The process's own two sessions, so that connections outlive one stage."""
    return new_session(public_only=public_only)
