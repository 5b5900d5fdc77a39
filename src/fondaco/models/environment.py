"""Environment: what a job ran on, as a digest: two runs with the same one had the same packages in the same versions.

The packages are those of the interpreter that the command starts with, which need not be ours: `python` of another virtual environment, or
the one that a script's first line names. They are read from the names of the folders in which pip leaves its records (PEP 376:
`name-version.dist-info`), which costs milliseconds; a package that was edited in place does not show. Nothing is started, but git.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_GIT_S: Final = 2.0  # for what a huge working tree may take; then nothing is said of changes
_RECORD: Final = re.compile(r"(.+?)-([^-]+?)(?:\.dist-info|(?:-py[\d.]+)?\.egg-info)")


@dataclass(frozen=True, slots=True)
class Environment:
    """Attributes:
    python: the interpreter's path. version: of Python, "" if unknown. system: kernel and machine.
    packages: "name==version", sorted. commit: of the git working tree that the job runs in, or None. changed: whether tracked files differ
        from it; None if not known.
    """

    python: str
    version: str
    system: str
    packages: tuple[str, ...]
    commit: str | None = None
    changed: bool | None = None

    @property
    def digest(self) -> str:
        """Of the packages."""
        return digest_of(self.packages)

    def to_dict(self) -> dict[str, str]:
        """As it is recorded: the packages by their digest and number."""
        document = {"python": self.python, "version": self.version, "platform": self.system}
        document |= {"packages": self.digest, "package_count": str(len(self.packages))}
        if self.commit is not None:
            document |= {"commit": self.commit, "changed": "unknown" if self.changed is None else "yes" if self.changed else "no"}
        return document


def digest_of(packages: Sequence[str]) -> str:
    """SHA-256 (hex) of packages, one a line."""
    return hashlib.sha256("".join(f"{line}\n" for line in packages).encode()).hexdigest()


def describe(command: Sequence[str], directory: Path) -> Environment:
    """The environment of a command that is to be run in a directory."""
    git = _ask_git(directory)
    python = interpreter_of(command)
    folders = [Path(entry) for entry in sys.path] if python == sys.executable else _site_folders(Path(python))
    version = platform.python_version() if python == sys.executable else _version_of(folders)
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    packages = installed(folders)
    return Environment(python, version, system, packages, *_answer_of(git))


def interpreter_of(command: Sequence[str]) -> str:
    """The Python that a command starts: itself, or the one that its script's first line names; ours, where neither is one."""
    path = shutil.which(command[0])
    if path is None:
        return sys.executable
    if re.fullmatch(r"python[\d.]*", os.path.basename(path)):
        return _same_as_ours(path)
    with contextlib.suppress(OSError), open(path, "rb") as file:
        first = file.readline(512)
        if first.startswith(b"#!"):
            words = first[2:].decode(errors="replace").split()
            words = words[1:] if words and os.path.basename(words[0]) == "env" else words
            if words and os.path.basename(words[0]).startswith("python") and (found := shutil.which(words[0])):
                return _same_as_ours(found)
    return sys.executable


def installed(folders: Iterable[Path]) -> tuple[str, ...]:
    """The distributions in some folders, "name==version" with names as PEP 503 writes them; of two of one name the first counts."""
    found: dict[str, str] = {}
    for folder in folders:
        try:
            entries = os.listdir(folder)
        except OSError:
            continue
        for entry in entries:
            if match := _RECORD.fullmatch(entry):
                found.setdefault(re.sub(r"[-_.]+", "-", match[1]).lower(), match[2])
    return tuple(sorted(f"{name}=={version}" for name, version in found.items()))


def _same_as_ours(path: str) -> str:
    """`path`, or our own interpreter's if it is the same one: in the same folder, and the same file."""
    same = os.path.dirname(os.path.abspath(path)) == os.path.dirname(sys.executable) and os.path.realpath(path) == os.path.realpath(
        sys.executable
    )
    return sys.executable if same else os.path.abspath(path)


def _site_folders(python: Path) -> list[Path]:
    """Where an interpreter has its packages: beside it if it is a virtual environment's, else under its prefix."""
    prefix = python.parent.parent
    if not (prefix / "pyvenv.cfg").is_file():
        prefix = Path(os.path.realpath(python)).parent.parent
    folders = [folder for pattern in ("site-packages", "dist-packages") for folder in sorted(prefix.glob(f"lib/python3*/{pattern}"))]
    return [*folders, *sorted(prefix.glob("lib/python3/dist-packages"))]


def _version_of(folders: Sequence[Path]) -> str:
    for folder in folders:
        with contextlib.suppress(OSError):
            for line in (folder.parents[2] / "pyvenv.cfg").read_text().splitlines():
                name, _, value = line.partition("=")
                if name.strip() in ("version", "version_info"):
                    return value.strip()
        if match := re.fullmatch(r"python(3\.\d+)", folder.parent.name):
            return match[1]
    return ""


def _ask_git(directory: Path) -> subprocess.Popen[bytes] | None:
    """Begin to ask; the answer is waited for when all else is known. Untracked files are left out, which would cost a walk of the tree."""
    if not any((parent / ".git").exists() for parent in (directory, *directory.parents)):
        return None
    command = ["git", "-C", str(directory), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    with contextlib.suppress(OSError):
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            process_group=0,  # a Ctrl-C is not for it
        )
    return None


def _answer_of(git: subprocess.Popen[bytes] | None) -> tuple[str | None, bool | None]:
    """Commit, and whether tracked files differ from it."""
    if git is None:
        return None, None
    with git:
        try:
            told = git.communicate(timeout=_GIT_S)[0].decode(errors="replace").splitlines()
        except subprocess.TimeoutExpired:
            git.kill()
            told = git.communicate()[0].decode(errors="replace").splitlines()
    commit = next((line.split()[2] for line in told if line.startswith("# branch.oid ")), None)
    if commit is None or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        return None, None  # no commit yet
    return commit, any(not line.startswith("#") for line in told) if git.returncode == 0 else None
