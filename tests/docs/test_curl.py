"""The curl lines of the README and of the page on serving, against `fondaco up` as it is started there."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fondaco as fd
from fondaco.core.errors import InputError, StateError

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "docs" / "serving.md"]
FONDACO = [sys.executable, "-c", "from fondaco.cli import main; main()"]

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def _curl_lines(page: Path) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("curl ")]


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the pages' ports became."""
    directory = tmp_path_factory.mktemp("served") / "data"
    with fd.open(directory) as platform:
        value = {
            "type": "record",
            "name": "Row",
            "fields": [
                {"name": "clicks", "type": ["null", "long"], "default": None},
                {"name": "emb", "type": fd.schema.vector(4)},
            ],
        }
        store = platform.create_store("members", key="long", value=value, partitions=2)
        store.push([{"key": key, "clicks": key, "emb": [1.0, 0.5, 0.0, key]} for key in range(100)], progress=False)
    command = [*FONDACO, "up", "--dir", str(directory), "--port", "0", "--control-port", "0", "--json"]
    said = directory.with_name("said")
    with said.open("w") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, said.read_text()
        told = json.loads(line)
        yield {"localhost:7071": told["data"], "localhost:7070": told["control"], "directory": str(directory)}
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        process.kill()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_curl_line_answers(page: Path, ports: dict[str, str]) -> None:
    lines = _curl_lines(page)
    assert lines, "the page shows none"
    for line in lines:
        for given, real in list(ports.items())[:2]:
            line = line.replace(given, real)
        done = subprocess.run(f"{line} --silent --show-error --fail-with-body", shell=True, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        assert done.stdout


def test_the_tiers_of_a_store_that_is_served_here_agree(ports: dict[str, str]) -> None:
    with fd.open(ports["directory"], create=False) as platform:
        store = platform.store("members")
        with store.reader() as embedded, store.reader(tier="fast") as fast, store.reader(tier="thin") as thin:
            for key in (1, 2, -1):
                rows = [reader.get(key) for reader in (embedded, fast, thin)]
                assert [row if row is None else row["clicks"] for row in rows] == [None if key < 0 else key] * 3


def test_a_tier_that_needs_servers_says_so_where_none_run(tmp_path: Path) -> None:
    with fd.open(tmp_path / "data") as platform:
        store = platform.create_store("members", value={"type": "record", "name": "R", "fields": [{"name": "x", "type": "int"}]})
        with pytest.raises(StateError, match="fondaco up --dir"):
            store.reader(tier="thin")
        with pytest.raises(InputError, match='"embedded", "fast" or "thin"'):
            store.reader(tier="near")  # type: ignore[call-overload]
