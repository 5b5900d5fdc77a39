"""Protocol: answers are read however their bytes are cut, and what is no HTTP/1.1 is refused, never misread."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import InputError, ProtocolError
from fondaco.dataplane.protocol import HEAD_BYTES_MAX, AnswerReader, Heads, Request, fixed_lines

PEER = "http://x:1"
FIXED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nFondaco-Version: 7\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: z\r\n\r\n"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + FIXED


def read(data: bytes, cuts: list[int] = []) -> AnswerReader:  # noqa: B006
    reader = AnswerReader(Heads(), PEER)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(places):
        whole = reader.feed(data[start:end])
        assert whole == (reader.answer is not None)
    return reader


@given(data=st.sampled_from([FIXED, CHUNKED, CONTINUED]), cuts=st.lists(st.integers(1, 120), max_size=6, unique=True))
@settings(max_examples=100, deadline=None)
def test_an_answer_is_the_same_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    reader = read(data, [cut for cut in cuts if cut < len(data)])
    assert reader.answer is not None
    assert (reader.answer.status, bytes(reader.answer.body), reader.reusable) == (200, b"hello", True)


def test_a_known_head_is_not_parsed_again() -> None:
    heads = Heads()
    assert heads.parse(FIXED.partition(b"\r\n\r\n")[0]) is heads.parse(FIXED.partition(b"\r\n\r\n")[0])


def test_headers_are_found_in_any_case() -> None:
    answer = read(FIXED).answer
    assert answer is not None
    assert (answer.header("fondaco-VERSION"), answer.number("Fondaco-Version", PEER), answer.number("absent", PEER)) == ("7", 7, None)
    other = read(b"HTTP/1.1 200 OK\r\nA: x\r\nContent-Length: 0\r\n\r\n").answer
    assert other is not None
    with pytest.raises(ProtocolError, match="the header A is 'x', not a number"):
        other.number("A", PEER)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * HEAD_BYTES_MAX + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * HEAD_BYTES_MAX,
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match=PEER):
        read(data)


@given(data=st.binary(max_size=200), cut=st.integers(0, 200))
@settings(max_examples=100, deadline=None)
def test_garbage_is_refused_or_waited_for_and_nothing_else(data: bytes, cut: int) -> None:
    with contextlib.suppress(ProtocolError):
        read(b"HTTP/1.1 200 OK\r\n" + data, [cut])
    with contextlib.suppress(ProtocolError):
        read(data, [cut])


@pytest.mark.parametrize(
    ("data", "reusable"),
    [
        (FIXED, True),
        (FIXED + b"HTTP/1.1 200 OK\r\n", False),
        (FIXED.replace(b"Fondaco-Version: 7", b"Connection: close"), False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (CHUNKED + b"x", False),
    ],
)
def test_a_connection_is_used_again_only_after_a_clean_end(data: bytes, reusable: bool) -> None:
    assert read(data).reusable is reusable


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    reader = AnswerReader(Heads(), PEER)
    assert not reader.feed(b"HTTP/1.1 200 OK\r\n\r\nhel")
    assert not reader.feed(b"lo")
    assert reader.end()
    assert reader.answer is not None
    assert (bytes(reader.answer.body), reader.reusable) == (b"hello", False)
    cut_off = read(FIXED[:-1])
    assert not cut_off.end()


def test_a_body_larger_than_taken_is_refused() -> None:
    for data in (FIXED, CHUNKED, b"HTTP/1.1 200 OK\r\n\r\nhello"):
        reader = AnswerReader(Heads(), PEER, body_bytes_max=4)
        with pytest.raises(ProtocolError, match="more than the 4"):
            reader.feed(data)


def test_a_request_has_its_length_host_token_and_time_left() -> None:
    request = Request("POST", "/v1/x", (("Accept", "a/b"),), b"body")
    fixed = fixed_lines("h:1", "fdc_secret")
    assert request.render(fixed, 1500) == (
        b"POST /v1/x HTTP/1.1\r\nHost: h:1\r\nAuthorization: Bearer fdc_secret\r\nFondaco-Deadline-Ms: 1500\r\n"
        b"Accept: a/b\r\nContent-Length: 4\r\n\r\nbody"
    )
    assert b"Content-Length: 0\r\n" in Request("POST", "/").render(b"", 1)
    assert b"Content-Length" not in Request("GET", "/").render(b"", 1)


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ünicode", "nul\0"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    with pytest.raises(InputError, match="a token is visible ASCII"):
        fixed_lines("h", token)
