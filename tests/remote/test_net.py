"""Which addresses a visitor may make this server call: public ones, checked by name and on the open socket."""

from __future__ import annotations

import ipaddress

import pytest

from backend.errors import BadSettingError, RemoteUnreachableError
from backend.remote.net import check_visitor_url, is_public, new_session, redact_url, shared_session
from tests.serving import scripted


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "fd00:ec2::254",
    ],
)  # fmt: skip
def test_private_addresses(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080/", "http://localhost/", "http://[::1]/", "http://169.254.169.254/latest/meta-data",
        "http://0/", "http://2130706433/", "http://0x7f.1/", "http://127.1/", "http://[::ffff:127.0.0.1]/",
        "http://user:pass@8.8.8.8/", "ftp://8.8.8.8/", "file:///etc/passwd", "gopher://8.8.8.8/", "//8.8.8.8/", "",
        "http://", "http://8.8.8.8:notaport/", "http://[::1", "javascript:alert(1)",
    ],
)  # fmt: skip
def test_urls_that_a_visitor_may_not_use(url: str) -> None:
    with pytest.raises(BadSettingError):
        check_visitor_url(url)


def test_a_public_url_passes_and_an_unknown_name_is_told() -> None:
    check_visitor_url("https://8.8.8.8/vae")
    with pytest.raises(RemoteUnreachableError, match=r"No computer called nowhere\.invalid"):
        check_visitor_url("https://nowhere.invalid/vae")


def test_the_socket_itself_is_checked() -> None:
    """A name may be looked up as public and connect to a private address; the session refuses at the socket."""
    with scripted((200, {}, b"secret")) as (script, url):
        with pytest.raises(BadSettingError, match="private network"):
            new_session(public_only=True).post(url, data=b"", timeout=5)
        assert not script.requests
        with new_session().post(url, data=b"", timeout=5) as response:
            assert response.content == b"secret"


def test_sessions_send_no_passwords_of_their_own(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"  # type: ignore[operator]
    netrc.write_text("machine 127.0.0.1 login me password s3cret")
    monkeypatch.setenv("NETRC", str(netrc))
    with scripted((200, {}, b"")) as (script, url), new_session().post(url, data=b"", timeout=5):
        assert "authorization" not in script.requests[0][1]


def test_sessions_are_shared() -> None:
    assert shared_session() is shared_session(False) and shared_session() is not shared_session(True)
    assert shared_session(True) is shared_session(public_only=True)


def test_a_url_is_told_without_its_secrets() -> None:
    assert redact_url("https://me:s3cret@example.org:8/a?token=s3cret#x") == "https://example.org:8/a"
