from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fondaco.core.clock import ManualClock, SystemClock, from_us, to_us
from fondaco.core.config import Config, load_config
from fondaco.core.errors import InputError
from fondaco.core.ids import check_name, check_version_number, new_push_id


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert load_config(tmp_path) == Config()


def test_a_setting_in_the_file_is_taken(tmp_path: Path) -> None:
    (tmp_path / "fondaco.toml").write_text("[store]\npartitions = 2\n")
    assert load_config(tmp_path).store.partitions == 2


@pytest.mark.parametrize(
    ("text", "path"), [("[store]\npartition = 2\n", "partition"), ('[store]\nkeep = "2"\n', r"\$\.store\.keep"), ("[store", "toml")]
)
def test_a_misspelt_or_mistyped_setting_is_refused_with_its_path(tmp_path: Path, text: str, path: str) -> None:
    (tmp_path / "fondaco.toml").write_text(text)
    with pytest.raises(InputError, match=path):
        load_config(tmp_path)


def test_moments_of_any_zone_become_the_same_microseconds() -> None:
    moment = datetime(2013, 1, 1, 10, 15, 0, 7, tzinfo=UTC)
    assert to_us(moment) == to_us(moment.astimezone(timezone(timedelta(hours=-5)))) == 1_357_035_300_000_007
    assert from_us(to_us(moment)) == moment


def test_a_naive_moment_is_refused() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        to_us(datetime(2013, 1, 1))


@pytest.mark.parametrize(
    "moment",
    [
        "2013-01-01T10:15:00.000007Z",
        "2013-01-01T05:15:00.000007-05:00",
        "20130101T101500.000007+00:00",
        pd.Timestamp("2013-01-01T10:15:00.000007Z"),
        pd.Timestamp("2013-01-01T05:15:00.000007", tz="America/New_York"),
        1_357_035_300_000_007,
        np.int64(1_357_035_300_000_007),
    ],
    ids=str,
)
def test_a_moment_may_be_written_in_many_ways(moment: object) -> None:
    assert to_us(moment) == 1_357_035_300_000_007


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        ("2013-01-01T10:15:00", "no time zone; write for example '2013-01-01T10:15:00Z'"),
        ("2013-01-01", "no time zone; write for example '2013-01-01T00:00:00Z'"),
        ("yesterday", "'yesterday' is no moment; write for example"),
        (pd.Timestamp("2013-01-01"), "no time zone"),
        (pd.NaT, "no time zone"),
        (np.datetime64("2013-01-01"), "is no moment"),
        (date(2013, 1, 1), "is no moment; give a datetime with a time zone"),
        (1.5, "1.5 is no moment"),
        (True, "True is no moment"),
        (None, "None is no moment"),
        (2**63, "outside the years 1 to 9999"),
        (-(2**62), "outside the years 1 to 9999"),
    ],
    ids=str,
)
def test_what_is_no_moment_is_refused_with_what_to_write(moment: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_us(moment)


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(5)
    clock.advance(us=10)
    clock.advance(us=-3)
    assert clock.now_us() == 12
    assert SystemClock().now_us() > 1_700_000_000_000_000


@pytest.mark.parametrize("name", ["members", "late_departure.Plane", "a-1"])
def test_names_that_can_be_folders_are_taken(name: str) -> None:
    assert check_name("store", name) == name


@pytest.mark.parametrize("name", ["", "1a", "../up", "a/b", "a b", "é", "a" * 129, "a\n", 5, None, b"a"])
def test_names_that_cannot_are_refused(name: Any) -> None:
    with pytest.raises(InputError, match="cannot name a store"):
        check_name("store", name)


def test_push_ids_differ() -> None:
    assert new_push_id() != new_push_id()


def test_a_version_is_a_whole_number() -> None:
    assert check_version_number(np.int64(3)) == 3
    for wrong in ("2", 2.0, True, None):
        with pytest.raises(InputError, match=f"a version is a whole number, as 3, not {wrong!r}"):
            check_version_number(wrong)
