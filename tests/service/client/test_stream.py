"""Events out of the bytes of a stream, wherever those are cut."""

from __future__ import annotations

import pytest

from service.client.stream import Sent, sent

TEXT = (
    ': keep-alive\n\nid: 3\nevent: event\ndata: {"words":"a\u2028b\u0085c"}\n\n'
    "data:one\r\ndata: two\r\n\r\nid\ndata\n\nid: 7\revent: end\rdata: {}\r\rdata: never whole\n"
)
EVENTS = [
    Sent("event", '{"words":"a\u2028b\u0085c"}', "3"),
    Sent("message", "one\ntwo", "3"),
    Sent("message", "", ""),
    Sent("end", "{}", "7"),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_wherever_the_bytes_are_cut(size: int) -> None:
    whole = TEXT.encode()
    assert list(sent(whole[at : at + size] for at in range(0, len(whole), size))) == EVENTS


def test_an_event_that_was_cut_off_is_none() -> None:
    assert list(sent([b"data: 1\n\ndata: 2\n"])) == [Sent("message", "1", "")]
