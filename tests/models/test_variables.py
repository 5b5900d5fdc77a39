"""Jobs find what they are told under the documented names, and words in braces are checked before anything runs."""

from __future__ import annotations

import pytest

from fondaco.core.errors import InputError
from fondaco.models.runs import secretless
from fondaco.models.variables import Facts, Features, Served, check_asked, filled, variables, words

ROUTES = Served("graph-routes", "graph-routes-0123456789", ("a:1", "b:2"), {"FONDACO_SERVICE_NAME": "graph-routes-0123456789"}, "routes", 3)
SOCIAL = Served("graph-my-net", "graph-my-net-9876543210", ("c:3",), {"FONDACO_SERVICE_NAME": "graph-my-net-9876543210"}, "my.net", 7)
LATE = Features("late", "abc", {"late.Plane": 3, "late.Airport": 2})
FACTS = Facts("run-1", "nightly", "/data", (ROUTES, SOCIAL), (LATE,))


def test_every_documented_variable_is_set() -> None:
    assert variables(FACTS) == {
        "FONDACO_RUN_ID": "run-1",
        "FONDACO_RUN_NAME": "nightly",
        "FONDACO_DIR": "/data",
        "FONDACO_GRAPH_ENDPOINTS": "a:1,b:2",
        "FONDACO_GRAPH_NAME": "routes",
        "FONDACO_GRAPH_VERSION": "3",
        "FONDACO_GRAPH_ROUTES_ENDPOINTS": "a:1,b:2",
        "FONDACO_GRAPH_ROUTES_VERSION": "3",
        "FONDACO_GRAPH_MY_NET_ENDPOINTS": "c:3",
        "FONDACO_GRAPH_MY_NET_VERSION": "7",
        "FONDACO_SERVICES": "graph-routes-0123456789,graph-my-net-9876543210",
        "FONDACO_SERVICE_NAME": "graph-routes-0123456789",  # of the first that exports it
        "FONDACO_SERVICE_GRAPH_ROUTES_ENDPOINTS": "a:1,b:2",
        "FONDACO_SERVICE_GRAPH_MY_NET_ENDPOINTS": "c:3",
        "FONDACO_FEATURES": "late",
        "FONDACO_FEATURES_LATE_PLAN": "abc",
        "FONDACO_FEATURES_LATE_STORES": "late.Plane=3,late.Airport=2",
    }


def test_deepgnns_names_are_set_on_request() -> None:
    added = variables(FACTS, deepgnn=True).items() - variables(FACTS).items()
    assert dict(added) == {"GE_ENDPOINTS": "a:1,b:2", "DEEPGNN_SERVERS": "a:1,b:2", "GE_COUNT": "2"}


def test_words_in_braces_stand_for_what_they_name() -> None:
    asked = {
        "A": "{graph.endpoints}|{graph.my.net.endpoints}|{graph.count}",
        "B": "{service.graph-routes.host}:{service.graph-routes.port} {service.graph-my-net.name}",
        "C": "{{{run.id}}} {run.name} {dir} {graph.version} {features.late.stores}",
        "D": "as it is",
    }
    check_asked(asked, words(FACTS))
    assert filled(asked, words(FACTS)) == {
        "A": "a:1,b:2|c:3|2",
        "B": "a:1 graph-my-net-9876543210",
        "C": "{run-1} nightly /data 3 late.Plane=3,late.Airport=2",
        "D": "as it is",
    }


def test_the_names_of_words_are_known_before_anything_runs() -> None:
    before = Facts("", "", "", (Served("graph-routes", "x", graph="routes", version=3),), ())
    assert words(before).keys() == words(Facts("r", "n", "/d", (ROUTES,), ())).keys()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("A", "{graph.endpoint}", r"did you mean \{graph\.endpoints\}"),
        ("A", "{nothing}", r"there are: \{dir\}, \{features\.late\.plan\}"),
        ("A", '{"json": 1}', "write {{ and }} for braces"),
        ("A", "{graph.endpoints:>9}", "without ':' and '!'"),
        ("A", "{graph.endpoints!r}", "without ':' and '!'"),
        ("A", "}", "write {{ and }} for braces"),
        ("A", "{}", "nothing is called"),
        ("A-B", "x", "names no variable"),
        ("", "x", "names no variable"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_with_what_can(name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_asked({name: text}, words(FACTS))


def test_values_that_may_be_secrets_are_not_recorded() -> None:
    asked = {"TOKEN": "s3cret", "SERVERS": "{graph.endpoints}"}
    given = {"FONDACO_RUN_ID": "run-1", "TOKEN": "s3cret", "SERVERS": "a:1,b:2"}
    assert secretless(given, asked) == {"FONDACO_RUN_ID": "run-1", "TOKEN": "", "SERVERS": "a:1,b:2"}
