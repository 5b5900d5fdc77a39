"""Every snippet of the README and the docs runs, in order, one fresh directory and one namespace a page."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from leftover_services import end_services

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "internals").glob("*.md"))]
FOREIGN_WARNINGS = [
    "-W", "ignore:`torch.jit.script` is deprecated:DeprecationWarning",  # importing torch_geometric 2.8 on torch 2.13
    "-W", "ignore:Support for class-based `config` is deprecated:DeprecationWarning",  # importing flyte.io of 2.12 on pydantic 2.14
]  # fmt: skip
_BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _blocks(page: Path) -> list[tuple[str, str, int]]:
    text = page.read_text(encoding="utf-8")
    return [(match[1], match[2], text.count("\n", 0, match.start()) + 2) for match in _BLOCK.finditer(text)]


@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page)], ids=lambda page: page.name)
def test_the_snippets_of_a_page_run_in_order(page: Path, tmp_path: Path) -> None:
    """`python` blocks share one interpreter; `console` blocks run their `$ fondaco ...` lines. A page runs in a process of its own."""
    lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
    script = ["import linecache, subprocess, sys"]
    script.append(f"linecache.cache[{page.name!r}] = (0, None, {lines!r}, {page.name!r})")  # Flyte reads the source of its tasks
    for language, body, line in _blocks(page):
        if language == "python":
            script.append(f"exec(compile({chr(10) * (line - 1) + body!r}, {page.name!r}, 'exec'), globals())")
        else:
            for command in re.findall(r"^\$ (fondaco .*)$", body, re.MULTILINE):
                words = [sys.executable, "-c", "from fondaco.cli import main; main()", *shlex.split(command)[1:]]
                script.append(f"subprocess.run({words!r}, check=True)")
    environment = {name: value for name, value in os.environ.items() if name != "FONDACO_DIR"}
    environment["PATH"] = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))  # `python` on a page is this one
    command = [sys.executable, "-W", "error", *FOREIGN_WARNINGS, "-c", "\n".join(script)]
    with (tmp_path / ".output").open("w+") as output:  # a file: servers that a page starts would hold a pipe open when it fails
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            status = process.wait(timeout=250)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            end_services(tmp_path)
        output.seek(0)
        assert status == 0, f"{page.name}:\n{output.read()[-6000:]}"


def test_the_make_targets_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named
    assert named <= targets
