"""The embedded log meets every expectation of the contract, with segments of usual and of the smallest size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fondaco.log import EmbeddedLog, TopicConfig
from fondaco.testing.log import LogContract


class TestEmbeddedLog(LogContract):
    @pytest.fixture
    def log(self, tmp_path: Path) -> Iterator[EmbeddedLog]:
        with EmbeddedLog(tmp_path / "log") as log:
            yield log


class _TinySegments(EmbeddedLog):
    """Every batch begins a segment of its own."""

    def create_topic(self, name: str, config: TopicConfig) -> None:
        super().create_topic(name, msgspec.structs.replace(config, segment_bytes=1))


class TestEmbeddedLogOfManyFiles(LogContract):
    @pytest.fixture
    def log(self, tmp_path: Path) -> Iterator[EmbeddedLog]:
        with _TinySegments(tmp_path / "log") as log:
            yield log


def test_the_expectations_are_named_and_a_wrong_name_is_noticed() -> None:
    assert {"records_come_back_as_they_were_given", "retention_gives_up_what_is_too_old"} <= set(LogContract.expectations())
    broken = type("Broken", (LogContract,), {"cannot": frozenset({"fly"})})
    with pytest.raises(AssertionError):
        broken().test_only_expectations_are_listed_as_impossible()


def test_what_a_log_cannot_do_fails_once_it_can(pytester_like: Path) -> None:
    """The strict xfail, seen from outside."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", pytester_like, pytester_like],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "1 failed" in done.stdout, done.stdout
    assert "1 xfailed" in done.stdout, done.stdout
    assert "XPASS(strict)] this log cannot: partitions_do_not_see_each_other" in done.stdout, done.stdout


@pytest.fixture
def pytester_like(tmp_path: Path) -> Path:
    (tmp_path / "test_it.py").write_text(
        """
import pytest
from fondaco.log import EmbeddedLog
from fondaco.testing.log import LogContract

class NoTimes(EmbeddedLog):
    def offset_for_time(self, topic, partition, timestamp_ms):
        return None

class TestIt(LogContract):
    cannot = frozenset({"partitions_do_not_see_each_other", "a_time_is_found_as_the_first_record_not_before_it"})

    @pytest.fixture
    def log(self, tmp_path):
        with NoTimes(tmp_path) as log:
            yield log

for name in [name for name in dir(LogContract) if name.startswith("test_") and name[5:] not in TestIt.cannot]:
    setattr(TestIt, name, None)
"""
    )
    return tmp_path
