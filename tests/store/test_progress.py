"""How a push tells how far it is: lines where there is no terminal, a bar where there is one, nothing when it is told to be silent."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from fondaco.store import progress
from fondaco.store.progress import PushProgress

PROGRAM = """
from fondaco.store.progress import PushProgress
with PushProgress("push members", shown=True) as bar:
    bar.expect(1000)
    bar.rows(500)
    bar.files("sealed", 1, 8)
"""


def _show(*, shown: bool) -> None:
    with PushProgress("push members", shown=shown) as bar:
        bar.rows(7)
        bar.expect(1_000_000)
        bar.rows(500_000)
        bar.files("sealed", 3, 8)


def test_lines_say_what_is_done_of_what(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    _show(shown=True)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "push members: 7 rows",
        "push members: 500,000 of 1,000,000 rows",
        "push members: 3 of 8 files sealed",
    ]
    assert captured.out == ""


def test_a_short_push_without_a_terminal_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    _show(shown=True)
    assert capsys.readouterr().err == ""


def test_silence_is_kept(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_INTERVAL_S", 0.0)
    _show(shown=False)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar() -> None:
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", PROGRAM], stderr=terminal, check=True, env=environment)
    os.close(terminal)
    shown = os.read(controller, 1 << 16).decode()
    os.close(controller)
    assert "push members" in shown
    assert "500/1000" in shown
    assert "files sealed" in shown
