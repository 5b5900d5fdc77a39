import os
import threading
from pathlib import Path

from fondaco.processes.lines import LINE_BYTES_MAX, LineWriter


def test_lines_are_written_whole_with_the_name_of_who_said_them(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb", buffering=0) as file:
        writer = LineWriter(file.fileno())
        writer.say("data", "first")
        writer.say("control", b"second \xff")
        writer.say("data", "x" * 10_000)
        writer.close()
    said = (tmp_path / "log").read_bytes()
    assert said == b"data     | first\ncontrol  | second \xff\ndata     | " + b"x" * LINE_BYTES_MAX + b"\n"


def test_what_nobody_reads_is_dropped_and_counted_and_nobody_waits() -> None:
    reading, writing = os.pipe()
    writer = LineWriter(writing, lines_max=10)
    for _ in range(1000):  # the pipe holds 64 KiB, the queue ten lines
        writer.say("data", "x" * 1000)
    heard = bytearray()

    def read() -> None:
        while chunk := os.read(reading, 65536):
            heard.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    writer.close(timeout_s=10)
    os.close(writing)
    reader.join(10)
    os.close(reading)
    said = heard.decode().splitlines()
    lines = [line for line in said if line.startswith("data")]
    dropped = [int(line.split()[2]) for line in said if line.endswith("lines were dropped: nobody read them in time")]
    assert 10 <= len(lines) < 1000
    assert len(lines) + sum(dropped) == 1000
    assert len(lines) + len(dropped) == len(said)


def test_a_reader_that_leaves_harms_nobody() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = LineWriter(writing)
    for _ in range(100):
        writer.say("data", "x")
    writer.close()
    os.close(writing)
