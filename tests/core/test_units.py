from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis.strategies import integers

from fondaco.core.errors import InputError
from fondaco.core.units import format_bytes, format_duration, parse_bytes, parse_duration_us


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("90s", 90_000_000),
        ("1h30m", 5_400_000_000),
        ("7d", 604_800_000_000),
        ("250ms", 250_000),
        ("1.5h", 5_400_000_000),
        ("2w", 1_209_600_000_000),
    ],
)
def test_durations_are_read_as_people_write_them(text: str, us: int) -> None:
    assert parse_duration_us(text) == us


def test_a_timedelta_and_its_microseconds_are_the_same_duration() -> None:
    assert parse_duration_us(timedelta(days=1, microseconds=5)) == 86_400_000_005
    assert parse_duration_us(86_400_000_005) == 86_400_000_005


@given(us=integers(0, 10**15))
def test_a_printed_duration_reads_back_exactly(us: int) -> None:
    assert parse_duration_us(format_duration(us)) == us


@pytest.mark.parametrize("text", ["", "soon", "7 days", "5", "1h?"])
def test_what_is_not_a_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match="1h30m"):
        parse_duration_us(text)


def test_a_negative_duration_is_refused() -> None:
    with pytest.raises(InputError, match="negative"):
        parse_duration_us(timedelta(seconds=-1))


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (412 << 20, "412 MiB"), (3 << 40, "3.0 TiB")])
def test_byte_counts_are_printed_in_binary_units(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("text", "count"), [("0B", 0), ("64 MB", 64_000_000), ("1.5GB", 1_500_000_000), ("512MiB", 512 << 20), ("2 kib", 2048), (77, 77)]
)
def test_sizes_are_read_as_people_write_them(text: str | int, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "much", "5", "1 MiBs", -1, True, 1.5])
def test_what_is_not_a_size_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(InputError, match="512MiB"):
        parse_bytes(text)  # type: ignore[arg-type]
