"""Which addresses this app may call, and the pooled sessions it calls them with.

The owner's endpoints, from flags and environment, may be anywhere. An address that a visitor types is fetched by
this server, from inside the owner's network: so it must be a public one, and the connection goes to the very address
that was found to be one (a name may point elsewhere a moment later). Redirects are never followed.
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
from urllib3.exceptions import NameResolutionError, NewConnectionError

from backend.errors import BadSettingError, RemoteUnreachableError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_UNICAST = ipaddress.ip_network("2000::/3")
"""All that is handed out for the open internet of IPv6 (RFC 4291); the rest is local, special or unused."""
_IPV4_EMBEDDED = tuple(
    ipaddress.ip_network(prefix)
    for prefix in (
        "::/96",  # IPv4-compatible (RFC 4291), deprecated
        "::ffff:0:0/96",  # IPv4-mapped (RFC 4291)
        "::ffff:0:0:0/96",  # IPv4-translated (RFC 2765)
        "64:ff9b::/96",  # NAT64 (RFC 6052)
    )
)
"""Forms of IPv6 whose last 32 bits are an IPv4 address."""
_SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # IETF protocol assignments (RFC 6890); Oracle's metadata server is in it
        "192.88.99.0/24",  # 6to4 relays (RFC 7526), deprecated
        "168.63.129.16/32",  # Azure's metadata and DNS server: a public number that only its own machines reach
        "3fff::/20",  # documentation (RFC 9637)
        "5f00::/16",  # segment routing (RFC 9602)
    )
)
"""What Python calls global, at least in some version, and is not."""


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


def redact_url(url: str) -> str:
    """The address without query, fragment or credentials, fit for a log or a message."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def is_public(address: Address) -> bool:
    """Whether an address is on the open internet: not loopback, private, link-local (cloud metadata), multicast…

    An IPv6 address with an IPv4 address inside is judged by that one.
    """
    if isinstance(address, ipaddress.IPv6Address):
        embedded = _embedded_ipv4(address)
        if embedded is not None:
            return is_public(embedded)
        if address not in _UNICAST:
            return False
    if any(address.version == network.version and address in network for network in _SPECIAL):
        return False
    return address.is_global and not address.is_multicast


def _embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address inside, None if there is none."""
    inner = address.sixtofour or (address.teredo[1] if address.teredo else None)
    is_isatap = int(address) >> 32 & 0xFDFFFFFF == 0x5EFE  # RFC 5214, with and without its universal bit
    if inner is None and (is_isatap or any(address in network for network in _IPV4_EMBEDDED)):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return inner


def check_visitor_url(url: str) -> None:
    """Let a visitor's URL pass only if every address its name has is public.

    Raises:
        BadSettingError: not a web address, or one inside a network. RemoteUnreachableError: an unknown name.
    """
    parts = split_url(url)
    host = parts.hostname or ""
    try:
        _public_addresses(host, parts.port or (443 if parts.scheme == "https" else 80))
    except (OSError, UnicodeError) as error:
        raise RemoteUnreachableError(
            "No computer called {host} was found.",
            "Check the address for a typing mistake.",
            url=redact_url(url),
            host=host,
        ) from error


def _public_addresses(host: str, port: int) -> list[str]:
    """Every address that `host` has now, as numbers.

    Raises:
        BadSettingError: one of them is not public. OSError: there is none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    numbers = list(dict.fromkeys(str(place[0]) for *_, place in found))
    if not numbers:
        raise OSError("no address")
    for number in numbers:
        if "%" in number or not is_public(ipaddress.ip_address(number)):
            raise _not_public()
    return numbers


def _not_public() -> BadSettingError:
    return BadSettingError(
        "This address belongs to a private network, which this page does not call.",
        "Give one on the open internet, or ask the owner to configure it.",
    )


_current = threading.local()


class AbortHandle:
    """Remembers the connection of the request that a thread sends within the `with` block, for another to abort it."""

    def __init__(self) -> None:
        self.connection: HTTPConnection | None = None

    def __enter__(self) -> AbortHandle:
        _current.handle = self
        return self

    def __exit__(self, *_: object) -> None:
        _current.handle = None

    def abort(self) -> None:
        """End the request: its thread gets an error, and the server sees the connection close."""
        sock = getattr(self.connection, "sock", None)
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # already closed


class _Connection(HTTPConnection):
    public_only = False

    def _new_conn(self) -> socket.socket:
        """With `public_only` the name is looked up here, once, and the connection goes to the address that was checked:
        a second look-up might give another, and even a refused connection to a private one tells that it exists.
        """
        if not self.public_only:
            return super()._new_conn()
        name = self._dns_host
        try:
            numbers = _public_addresses(name.strip("[]"), self.port)
        except socket.gaierror as error:
            raise NameResolutionError(name, self, error) from error
        except (OSError, UnicodeError) as error:
            raise NewConnectionError(self, str(error)) from error
        last_error: NewConnectionError | None = None
        for number in numbers:
            self._dns_host = number
            try:
                return super()._new_conn()
            except NewConnectionError as error:
                last_error = error
            finally:
                self._dns_host = name  # the certificate is the name's
        assert last_error is not None, "there is at least one address"
        raise last_error

    def request(self, *args: Any, **options: Any) -> None:
        handle: AbortHandle | None = getattr(_current, "handle", None)
        if handle is not None:
            handle.connection = self
        super().request(*args, **options)


class _TLSConnection(_Connection, HTTPSConnection):
    pass


class _PublicConnection(_Connection):
    public_only = True


class _PublicTLSConnection(_TLSConnection):
    public_only = True


def _pool(base: Any, connection: type[HTTPConnection]) -> Any:
    return type(base.__name__, (base,), {"ConnectionCls": connection})


class _Adapter(HTTPAdapter):
    def __init__(self, *, public_only: bool) -> None:
        self._public_only = public_only
        self.seen_origins: set[str] = set()
        super().__init__(pool_connections=8, pool_maxsize=32, max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {
            "http": _pool(HTTPConnectionPool, _PublicConnection if self._public_only else _Connection),
            "https": _pool(
                HTTPSConnectionPool, _PublicTLSConnection if self._public_only else _TLSConnection
            ),
        }


def new_session(*, public_only: bool = False) -> requests.Session:
    """A session whose connections are kept and can be aborted; with `public_only` they refuse private addresses."""
    session = requests.Session()
    adapter = _Adapter(public_only=public_only)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.auth = _no_credentials  # else requests would look for passwords in ~/.netrc
    session.headers["Accept-Encoding"] = "identity"
    if public_only:
        session.trust_env = False  # a proxy would look up the name a second time, out of our sight
    return session


def seen_origins(session: requests.Session) -> set[str]:
    """The origins that a reply of any status came from on this session; the client adds to the set."""
    adapter = session.get_adapter("http://")
    return adapter.seen_origins if isinstance(adapter, _Adapter) else set()


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def shared_session(public_only: bool = False) -> requests.Session:
    """One of the two sessions of this process, so that connections outlive one stage."""
    return _shared_session(public_only)


@cache  # by the argument as it is given, so it must be given always and in one way
def _shared_session(public_only: bool) -> requests.Session:
    return new_session(public_only=public_only)
