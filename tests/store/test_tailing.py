"""The process that tails all stores of a platform: started, watched and ended as a supervisor does."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fondaco as fd
from fondaco.core.files import FileLock
from fondaco.store.freshness import Freshness
from fondaco.store.tailing import Tailing

VALUE = {"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}]}


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[fd.Platform]:
    with fd.open(tmp_path / "p") as opened:
        yield opened


class _Process:
    def __init__(self, platform: fd.Platform, *arguments: str, stdin: int | None = None) -> None:
        self.ready_file = platform.directory.parent / "tailer.ready"
        self.said = platform.directory.parent / "said"
        command = [sys.executable, "-m", "fondaco.store.tailing", str(platform.directory), "--ready-file", str(self.ready_file), *arguments]
        with open(self.said, "wb") as said:
            self.process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=said)

    def until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.said.read_text()
            assert time.monotonic() < deadline, self.said.read_text()
            time.sleep(0.01)

    def until_ready(self) -> None:
        self.until(lambda: self.ready_file.exists() and self.ready_file.read_text() == f"{self.process.pid}\n")

    def ended(self) -> int:
        return self.process.wait(30)


@contextlib.contextmanager
def _tailing(platform: fd.Platform, *arguments: str, stdin: int | None = None) -> Iterator[_Process]:
    child = _Process(platform, *arguments, stdin=stdin)
    try:
        yield child
    finally:
        if child.process.poll() is None:
            child.process.kill()
            child.process.wait()
        for pipe in (child.process.stdin, child.process.stdout):
            if pipe is not None:
                pipe.close()


def _freshness(platform: fd.Platform, store: str) -> Freshness:
    return Freshness.of(platform.directory / "stores" / store / "overlay", target_ms=1000)


def test_it_tails_stores_that_were_there_and_stores_that_come_and_lets_go_of_deleted_ones(platform: fd.Platform) -> None:
    for name in ("first", "second"):
        platform.create_store(name, key="long", value=VALUE, partitions=2)
    with platform.store("first").writer("w", tail=False) as writer, _tailing(platform) as child:
        position = writer.put(1, {"a": 5})
        writer.flush()
        child.until_ready()
        with platform.store("first").reader() as reader:
            row = reader.get(1, min_position=position, timeout_s=30)
            assert row is not None
            assert row["a"] == 5
        later = platform.create_store("later", key="long", value=VALUE, partitions=1)
        with later.writer("w", tail=False) as more, later.reader() as reader:
            position = more.put(1, {"a": 6})
            assert reader.get(1, min_position=position, timeout_s=30) is not None
        child.until(lambda: (_freshness(platform, "later").heartbeat_age_ms or 1e9) < 5000)  # heartbeats come through the log
        platform.delete_store("second")
        child.until(lambda: "'second' was deleted" in child.said.read_text())
        assert not (platform.directory / "stores" / "second").exists()
        touched = child.ready_file.stat().st_mtime_ns
        child.until(lambda: child.ready_file.stat().st_mtime_ns > touched)
        begun = time.monotonic()
        child.process.send_signal(signal.SIGTERM)
        assert child.ended() == 0
        assert time.monotonic() - begun < 10
        assert "stopped" in child.said.read_text()
    with contextlib.ExitStack() as locks:  # it let go of everything
        for name in ("first", "later"):
            lock = locks.enter_context(FileLock(platform.directory / "stores" / name / "overlay" / "tailer.lock"))
            assert lock.held


def test_it_waits_for_another_that_tails_and_takes_over_when_that_one_ends(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=VALUE, partitions=1)
    with store.writer("w") as writer, store.reader() as reader:
        position = writer.put(1, {"a": 1})
        assert reader.get(1, min_position=position, timeout_s=30) is not None  # this process tails
        with _tailing(platform) as child:
            child.until_ready()
            assert f"tailed by process {os.getpid()}" in child.said.read_text()
            reader.close()
            writer.close()
            child.until(lambda: "tailing store 's'" in child.said.read_text())
    with platform.store("s").reader() as again:
        assert again.get(1, min_position=position, timeout_s=30) is not None


def test_it_ends_with_its_stdin_and_says_on_stdout_when_it_can_take_over(platform: fd.Platform) -> None:
    with _tailing(platform, "--until-stdin-closes", stdin=subprocess.PIPE) as child:
        assert child.process.stdout is not None
        assert child.process.stdin is not None
        assert child.process.stdout.readline() == b"ready\n"
        child.process.stdin.close()
        assert child.ended() == 0


def test_it_ends_when_the_process_it_works_for_is_gone(platform: fd.Platform) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    assert other.stdin is not None
    with _tailing(platform, "--parent-pid", str(other.pid)) as child:
        child.until_ready()
        other.stdin.close()
        assert other.wait(30) == 0
        assert child.ended() == 0


def test_a_directory_that_is_no_platform_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fondaco.store.tailing", str(tmp_path / "nothing")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "it does not exist" in result.stderr
    assert "Traceback" not in result.stderr


def test_trouble_with_one_store_is_said_once_and_does_not_keep_the_others_waiting(platform: fd.Platform) -> None:
    for name in ("bad", "good"):
        store = platform.create_store(name, key="long", value=VALUE, partitions=1)
        with store.writer("w", tail=False) as writer:
            writer.put(1, {"a": 1})
    shutil.rmtree(platform.directory / "stores" / "bad" / "overlay", ignore_errors=True)
    (platform.directory / "stores" / "bad" / "overlay").write_text("a file where a directory belongs")
    said: list[str] = []
    tailing = Tailing(platform, say=said.append)
    try:
        for _ in range(5):
            tailing.round()
            tailing.wait()
        assert _freshness(platform, "good").records == 1
        assert not tailing.ready
        assert len([text for text in said if "'bad'" in text]) == 1
    finally:
        tailing.close()


def test_the_log_is_trimmed_to_what_versions_can_show(platform: fd.Platform) -> None:
    store = platform.create_store("s", key="long", value=VALUE, partitions=1, rewind="1h")
    now_ms = platform.clock.now_us() // 1000
    with store.writer("w", tail=False) as writer:
        for number in range(50):
            writer.put(number, {"a": number}, timestamp_ms=now_ms - (50 - number) * 3_600_000)
    tailing = Tailing(platform, say=lambda _: None)
    try:
        tailing.round()
        tailing._each("trimming", tailing._trim)
        assert platform.log.low_watermark("s.rt", 0) == 0  # without a version everything can be seen
        store.push([{"key": 1, "a": 1}], as_of=(now_ms - 10 * 3_600_000) * 1000)
        tailing._each("trimming", tailing._trim)
        assert platform.log.low_watermark("s.rt", 0) == 39  # ten hours and one: the write of 11 hours ago is the first that counts
    finally:
        tailing.close()
