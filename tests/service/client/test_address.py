"""Where a token may be sent."""

from __future__ import annotations

import pytest

from service.client.address import Address
from service.client.errors import ApiAddressError, InsecureAddressError, TokenError


@pytest.mark.parametrize(
    ("given", "url", "local"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000", True),
        ("http://localhost:8000/", "http://localhost:8000", True),
        ("http://[::1]:8000/v1/", "http://[::1]:8000", True),
        ("https://reco.example/team/v1", "https://reco.example/team", False),
        (" HTTPS://Reco.Example ", "https://reco.example", False),
        ("http://127.0.0.1.example:80", "http://127.0.0.1.example:80", False),
        ("http://localhost.example", "http://localhost.example", False),
    ],
)
def test_an_address_is_brought_into_one_form(given: str, url: str, local: bool) -> None:
    assert Address.of(given) == Address(url, local)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "reco.example:8000",
        "ftp://reco.example",
        "http://",
        "http://h:port",
        "http://[::1",
        "https://h?x=1",
        "http://ä..b",
        "file:///x",
    ],
)
def test_what_is_no_address_is_refused_with_what_to_do(given: str) -> None:
    with pytest.raises(ApiAddressError) as raised:
        Address.of(given)
    assert raised.value.hint is not None
    assert "RECO_API" in raised.value.hint


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ApiAddressError) as raised:
        Address.of("https://ann:hunter2@reco.example")
    assert "hunter2" not in str(raised.value)


def test_a_token_goes_over_plain_http_to_this_machine_only() -> None:
    for safe in ("http://127.0.0.1:8000", "http://localhost", "https://reco.example"):
        Address.of(safe).admit("reco_abc")
    Address.of("http://reco.example").admit(None)
    with pytest.raises(InsecureAddressError) as raised:
        Address.of("http://reco.example").admit("reco_abc")
    assert "reco_abc" not in str(raised.value)
    assert "RECO_INSECURE=1" in str(raised.value)
    Address.of("http://reco.example").admit("reco_abc", insecure=True)


@pytest.mark.parametrize("token", ["", "reco_abc\n", "reco_abc x", "reco_äbc", "reco_abc\r\nX-Other: 1"])
def test_what_cannot_be_a_token_is_not_sent_and_not_repeated(token: str) -> None:
    with pytest.raises(TokenError) as raised:
        Address.of("https://reco.example").admit(token)
    assert "bc" not in str(raised.value)
