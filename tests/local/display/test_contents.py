"""What was sent and answered: kept within bounds, found by its text, shown without secrets."""

from __future__ import annotations

from local.display.contents import Contents, document
from local.display.direct import Message
from tests.local.display.facts import accepted


def message(body: bytes, *, is_cut: bool = False) -> Message:
    headers = (("content-type", "text/plain"), ("cookie", "c4nary"))
    return Message(start_line="200", headers=headers, body=body, is_cut=is_cut)


def test_the_oldest_make_room() -> None:
    """Their bodies count; what does not fit at all is not kept."""
    contents = Contents(max_bytes=10)
    first, second = contents.keep(1, message(b"123456")), contents.keep(2, message(b"1234"))
    third = contents.keep(3, message(b"12345"))
    fourth = contents.keep(4, message(b"12345678901"))

    assert contents.get(first, 1) is None
    assert [contents.get(number, 2) for number in (second, third, fourth)] == [None] * 3


def test_a_content_belongs_to_its_request() -> None:
    """Asked for by the number of another one, it is not there."""
    contents = Contents()
    number = contents.keep(7, message(b"x"))

    assert contents.get(number, 7) is not None
    assert contents.get(number, 8) is None
    contents.drop([number])
    assert contents.get(number, 7) is None


def test_bodies_are_searched_in_any_case() -> None:
    """An event's data and a message's body alike."""
    contents = Contents()
    contents.keep(1, accepted(data={"body": "Grüße an Ada"}).event)
    contents.keep(2, message("grüße an niemand".encode()))

    assert contents.search("ADA") == {1}
    assert contents.search("GRÜSSE") == set()
    assert contents.search("niemand") == {2}


def test_a_message_reads_as_it_came() -> None:
    """Start line, headers, and the body: JSON indented, bytes counted, controls escaped."""
    shown = document(message(b'{"a": 1}'), with_secrets=False)
    whole = document(message(b"\x1b[2J\r\nx", is_cut=True), with_secrets=True)
    binary = document(message(b"\xff\xfe"), with_secrets=True)

    assert shown == {
        "text": '200\ncontent-type: text/plain\ncookie: (hidden)\n\n{\n  "a": 1\n}',
        "has_secrets": True,
    }
    assert str(whole["text"]).endswith(
        "cookie: c4nary\n\n\\x1b[2J\\r\nx\n… (only the beginning is kept)"
    )
    assert str(binary["text"]).endswith("\n\n(2 bytes that are no text)")
