import errno
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fondaco.core.errors import DiskFullError, LockedError, ReadOnlyError
from fondaco.core.files import FileLock, os_errors, write_atomically


def test_an_atomic_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]


def test_a_secret_is_never_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "secret", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(os.fstat(descriptor).st_mode & 0o777))
    write_atomically(path, b"one", mode=0o600)
    assert seen[0] == path.stat().st_mode & 0o777 == 0o600


def test_a_failed_atomic_write_leaves_the_old_content_and_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "manifest.json"
    write_atomically(path, b"one")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskFullError, match=r"manifest\.json"):
        write_atomically(path, b"two")
    assert path.read_bytes() == b"one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, DiskFullError), (errno.EDQUOT, DiskFullError), (errno.EROFS, ReadOnlyError), (errno.EACCES, ReadOnlyError)],
)
def test_the_systems_errors_become_ours(number: int, error: type[Exception]) -> None:
    with pytest.raises(error), os_errors("somewhere"):
        raise OSError(number, os.strerror(number))


def test_a_lock_that_is_held_is_refused_with_the_pid_of_its_holder(tmp_path: Path) -> None:
    with FileLock(tmp_path / "push.lock"), pytest.raises(LockedError, match=str(os.getpid())):
        FileLock(tmp_path / "push.lock").acquire()
    with FileLock(tmp_path / "push.lock") as lock:
        assert lock.held


def _hold(path: Path, held: object, end: object) -> None:
    FileLock(path).acquire()
    held.set()  # type: ignore[attr-defined]
    end.wait(30)  # type: ignore[attr-defined]


def test_a_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, end = context.Event(), context.Event()
    child = context.Process(target=_hold, args=(tmp_path / "push.lock", held, end))
    child.start()
    assert held.wait(30)
    with pytest.raises(LockedError):
        FileLock(tmp_path / "push.lock").acquire()
    child.kill()
    child.join()
    with FileLock(tmp_path / "push.lock") as lock:
        assert lock.held


def test_threads_that_write_the_same_file_at_once_all_succeed(tmp_path: Path) -> None:
    path, contents = tmp_path / "FONDACO", [bytes([65 + number]) * 1000 for number in range(8)]
    start = threading.Barrier(len(contents))

    def write(content: bytes) -> None:
        start.wait(30)
        for _ in range(20):
            write_atomically(path, content)

    with ThreadPoolExecutor(len(contents)) as pool:
        for written in [pool.submit(write, content) for content in contents]:
            written.result()
    assert path.read_bytes() in contents
    assert [entry.name for entry in tmp_path.iterdir()] == ["FONDACO"]
