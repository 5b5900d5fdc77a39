"""`environment`: a data service's variables for a block of a task; of either Flyte, without the other's SDK."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from fondaco.adapters import flyte1, flyte2
from fondaco.adapters.flyte2 import environment
from fondaco.core.errors import StateError

GRAPH = {"TEST_ENDPOINTS": "127.0.0.1:7000", "TEST_VERSION": "3"}
BLOCKED = """
import os, sys
for package in {blocked}:
    sys.modules[package] = None  # what importing it then finds: nothing
from fondaco.adapters.{adapter} import environment
with environment({{"TEST_ENDPOINTS": "a:1"}}):
    print(os.environ["TEST_ENDPOINTS"])
print("TEST_ENDPOINTS" in os.environ)
"""


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in GRAPH:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("adapter", "blocked"), [("flyte2", ["flytekit", "flyteidl"]), ("flyte1", ["flyte", "flyteidl2"])])
def test_each_adapter_has_it_where_the_other_ones_sdk_is_not_installed(adapter: str, blocked: list[str]) -> None:
    program = BLOCKED.format(adapter=adapter, blocked=blocked)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == ["a:1", "False"]


def test_both_adapters_have_the_same() -> None:
    assert flyte1.environment is flyte2.environment
    assert {"environment"} <= set(flyte1.__all__) & set(flyte2.__all__)


def test_what_was_set_before_is_there_again_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_VERSION", "1")

    def train() -> None:
        with environment(GRAPH):
            assert {name: os.environ[name] for name in GRAPH} == GRAPH
            raise ValueError("the training failed")

    with pytest.raises(ValueError, match="the training"):
        train()
    assert os.environ["TEST_VERSION"] == "1"
    assert "TEST_ENDPOINTS" not in os.environ


def test_tasks_beside_each_other_may_end_in_any_order() -> None:
    """The one that has begun first ends first: the other still needs the variables, and nobody does when it has ended."""

    async def work() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def first() -> None:
            with environment(GRAPH):
                await begun.wait()
            ended.set()

        async def second() -> None:
            with environment(GRAPH):
                begun.set()
                await ended.wait()
                assert os.environ["TEST_ENDPOINTS"] == GRAPH["TEST_ENDPOINTS"]

        await asyncio.wait_for(asyncio.gather(first(), second()), 60)

    asyncio.run(work())
    assert "TEST_ENDPOINTS" not in os.environ


def test_tasks_beside_each_other_that_need_different_values_are_refused() -> None:
    async def work() -> None:
        begun, refused = asyncio.Event(), asyncio.Event()

        async def first() -> None:
            with environment(GRAPH):
                begun.set()
                await refused.wait()
                assert os.environ["TEST_VERSION"] == "3"

        async def second() -> None:
            await begun.wait()
            with pytest.raises(StateError, match="TEST_VERSION"), environment(GRAPH | {"TEST_VERSION": "4"}):
                pass
            refused.set()

        await asyncio.wait_for(asyncio.gather(first(), second()), 60)

    asyncio.run(work())


def test_a_block_within_another_may_set_a_variable_anew() -> None:
    with environment(GRAPH), environment({"TEST_VERSION": "4"}):
        assert (os.environ["TEST_ENDPOINTS"], os.environ["TEST_VERSION"]) == (GRAPH["TEST_ENDPOINTS"], "4")
    assert "TEST_VERSION" not in os.environ
