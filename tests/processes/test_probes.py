"""Probes against real servers and programs: when they say yes, and what they say instead of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fondaco.processes.probes import CommandProbe, FileProbe, HttpProbe, RunningProbe, TcpProbe
from waiting import free_port, wait_for

ANSWERS = {
    b"/ready": b"HTTP/1.1 200 OK\r\n\r\n",
    b"/moved": b"HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n",
    b"/loading": b"HTTP/1.1 503 Wait\r\nx: y\r\n\r\n3/8 partitions loaded\nmore",
    b"/silent": b"",
    b"/odd": b"\x16\x03\x01 what\r\n",
    b"/endless": b"HTTP/1.1 " + b"9" * 200_000,
}


async def with_server(ask: Callable[[int], Awaitable[None]]) -> None:
    """Serve ANSWERS while `ask` is at work with the port."""
    held = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
            if not ANSWERS[path]:
                await held.wait()
            writer.write(ANSWERS[path])
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        await ask(server.sockets[0].getsockname()[1])
    finally:
        held.set()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("path", "yes", "why"),
    [
        ("/ready", True, ""),
        ("/moved", True, ""),
        ("/loading", False, "was answered with 503: 3/8 partitions loaded"),
        ("/silent", False, "was not answered within 0.3 s"),
        ("/odd", False, "was answered with something that is not HTTP"),
        ("/endless", False, "was answered with something that is not HTTP"),
    ],
)
def test_http(path: str, yes: bool, why: str) -> None:
    async def ask(port: int) -> None:
        probe = HttpProbe("127.0.0.1", port, ready=path, alive="/ready", statuses=range(200, 400), timeout_s=30 if yes else 0.3)
        assert await probe.is_ready(1) is yes
        assert probe.why == (f"GET http://127.0.0.1:{port}{path} {why}" if why else "")

    asyncio.run(with_server(ask))


def test_nobody_there() -> None:
    port = free_port()

    async def ask() -> None:
        http, tcp = HttpProbe("127.0.0.1", port), TcpProbe("127.0.0.1", port)
        assert not await http.is_ready(1)
        assert not await http.is_alive(1)
        assert not await tcp.is_ready(1)
        assert http.why == f"GET http://127.0.0.1:{port}/healthz: connection refused"
        assert tcp.why == f"port {port}: connection refused"

    asyncio.run(ask())


def test_tcp() -> None:
    async def ask(port: int) -> None:
        assert await TcpProbe("127.0.0.1", port).is_alive(1)

    asyncio.run(with_server(ask))


def test_commands(tmp_path: Path) -> None:
    async def ask() -> None:
        assert await CommandProbe(("/bin/sh", "-c", 'test "$X" = 1 && test "$PWD" = ' + str(tmp_path)), {"X": "1"}, tmp_path).is_ready(1)
        no = CommandProbe(("/bin/sh", "-c", "exit 7"))
        assert not await no.is_alive(1)
        assert no.why == "the readiness command '/bin/sh' ended with exit code 7"
        missing = CommandProbe(("/no/such",))
        assert not await missing.is_ready(1)
        assert missing.why == "the readiness command '/no/such' could not be started: no such file or directory"

    asyncio.run(ask())


def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    probe = CommandProbe(("/bin/sh", "-c", f"sleep 1000 & echo $! > {note}; wait"), timeout_s=1.0)
    assert asyncio.run(probe.is_ready(1)) is False
    assert probe.why == "the readiness command '/bin/sh' did not end within 1 s"
    pid = int(note.read_text())
    wait_for(lambda: not _runs(pid), "its child runs on")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_files(tmp_path: Path) -> None:
    probe = FileProbe(tmp_path / "ready")
    assert not asyncio.run(probe.is_ready(7))
    assert not asyncio.run(probe.is_alive(7))
    (tmp_path / "ready").write_text("7 and more")
    assert asyncio.run(probe.is_ready(7))
    assert not asyncio.run(probe.is_ready(8))
    assert asyncio.run(probe.is_alive(7))
    os.utime(tmp_path / "ready", (1, 1))
    assert not asyncio.run(probe.is_alive(7))
    assert probe.why == "it has not touched ready for 30 s"


def test_one_that_is_not_asked_is_ready_when_it_has_run_for_a_while() -> None:
    async def ask() -> None:
        probe = RunningProbe(settle_s=0.05)
        assert not await probe.is_ready(7)
        await asyncio.sleep(0.06)
        assert await probe.is_ready(7)
        assert not await probe.is_ready(8)

    asyncio.run(ask())
    assert asyncio.run(RunningProbe().is_ready(os.getpid()))
