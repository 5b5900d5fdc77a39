"""Evolution: which schemas may follow one another, and the superset that holds the rows of all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fondaco.core.errors import SchemaError, SchemaResolutionError
from fondaco.schema import Codec, check_compatible, check_evolution, full_form, parse, superset, vector
from fondaco.schema.canonical import to_json
from schema_strategies import evolutions, rows, same, schemas


def record(*fields: Any, name: str = "R") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": list(fields)}


def field(name: str, kind: Any, **attributes: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, **attributes}


def enum(*symbols: str, **attributes: Any) -> dict[str, Any]:
    return {"type": "enum", "name": "E", "symbols": list(symbols), **attributes}


A = field("a", "long")


# -- compatibility ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "new",
    [
        record(A),
        record(field("a", "long", doc="now with words")),
        record(A, field("b", "string", default="")),
        record(A, field("b", ["null", {"type": "array", "items": "int"}], default=None)),
    ],
)
def test_a_new_field_with_a_default_is_compatible(new: Any) -> None:
    check_compatible(record(A), new)
    check_compatible(new, record(A))


@pytest.mark.parametrize(
    ("old", "new", "path", "reason"),
    [
        (record(A), record(A, field("b", "int")), "$.b", "has no such field and it has no default"),
        (record(A, field("b", "int")), record(A), "$.b", "by those who have the earlier one"),
        (record(A), record(field("a", "double")), "$.a", "rows of the new schema could not be read"),
        (record(A), record(field("a", "string")), "$.a", "rows written before could not be read"),
        (record(field("a", enum("A"))), record(field("a", enum("A", "B"))), "$.a", "give the enum a default"),
        (record(field("a", ["null", "int"])), record(field("a", ["null", "int", "string"])), "$.a[2]", "rows of the new schema"),
        (
            record(field("a", {"type": "array", "items": ["null", "int"]})),
            record(field("a", {"type": "array", "items": "int"})),
            "$.a.items[0]",
            "rows",
        ),
        (record(field("a", vector(4, name="V"))), record(field("a", vector(8, name="V"))), "$.a", "change their meaning"),
        (record(A), record(A, name="S"), "$", "the names differ"),
    ],
)
def test_what_either_side_could_not_read_is_refused(old: Any, new: Any, path: str, reason: str) -> None:
    with pytest.raises(SchemaResolutionError) as caught:
        check_compatible(old, new)
    assert (caught.value.path, reason in caught.value.reason) == (path, True), str(caught.value)


def test_an_enum_with_a_default_may_grow() -> None:
    check_compatible(record(field("a", enum("A", "U", default="U"))), record(field("a", enum("A", "U", "B", default="U"))))


def test_a_recursive_schema_may_evolve() -> None:
    old = record(field("next", ["null", "R"]))
    check_compatible(old, record(field("next", ["null", "R"]), field("x", "int", default=0)))


def test_a_new_schema_must_fit_every_known_one() -> None:
    known = [full_form(parse(record(A))), full_form(parse(record(A, field("b", "int", default=0))))]
    check_evolution(known, record(A, field("c", "int", default=0)))
    with pytest.raises(SchemaResolutionError, match=r"schema 2: .*cannot be read as string"):
        check_evolution(known, record(A, field("b", "string", default="")))


# -- superset -----------------------------------------------------------------------------------------------------------------------


def test_the_superset_has_every_field_that_ever_was() -> None:
    merged = superset(
        [
            record(A, field("b", "int", default=0)),
            record(field("c", "string", default="x"), A),
            record(A, field("b", "int", default=5), field("d", "int", default=0)),
        ]
    )
    assert to_json(merged) == record(A, field("b", "int", default=5), field("c", "string", default="x"), field("d", "int", default=0))


def test_symbols_and_branches_are_united_and_numbers_widened() -> None:
    merged = superset(
        [
            record(field("e", enum("A", "B")), field("u", ["null", "int"]), field("n", "int"), field("m", "double")),
            record(field("e", enum("C", "A", default="A")), field("u", ["string", "null"]), field("n", "long"), field("m", "float")),
        ]
    )
    assert to_json(merged) == record(
        field("e", enum("A", "B", "C", default="A")), field("u", ["null", "int", "string"]), field("n", "long"), field("m", "double")
    )


def test_a_named_type_is_merged_wherever_it_is_referred_to() -> None:
    point = record(field("x", "int"), name="P")
    wider = record(field("x", "int"), field("y", "int", default=0), name="P")
    merged = superset([record(field("a", point), field("b", "P")), record(field("a", wider))])
    assert to_json(merged) == record(field("a", wider), field("b", "P"))
    assert to_json(superset([record(field("a", wider)), record(field("a", point), field("b", ["null", "P"]))])) == record(
        field("a", wider), field("b", ["null", "P"])
    )


def test_a_renamed_field_keeps_its_place() -> None:
    merged = superset([record(A, field("b", "int")), record(field("z", "long", aliases=["a"]), field("b", "int"))])
    assert to_json(merged) == record(field("z", "long", aliases=["a"]), field("b", "int"))


def test_a_recursive_schema_has_a_superset() -> None:
    merged = superset([record(field("next", ["null", "R"])), record(field("x", "int", default=0), field("next", ["null", "R"]))])
    assert to_json(merged) == record(field("next", ["null", "R"]), field("x", "int", default=0))


@pytest.mark.parametrize(
    ("old", "new", "path", "reason"),
    [
        ("int", "string", "$.a", "int becomes string"),
        ({"type": "fixed", "name": "F", "size": 2}, {"type": "fixed", "name": "F", "size": 3}, "$.a", "changes its size from 2 to 3"),
        (vector(4, "float16", "V"), vector(8, "int8", "V"), "$.a", "changes its size"),
        ({"type": "array", "items": "int"}, {"type": "map", "values": "int"}, "$.a", "have no type in common"),
        ({"type": "array", "items": "int"}, {"type": "array", "items": "bytes"}, "$.a.items", "int becomes bytes"),
        (enum("A"), {"type": "fixed", "name": "E", "size": 1}, "$.a", "have no type in common"),
    ],
)
def test_types_without_a_common_one_are_refused_by_place(old: Any, new: Any, path: str, reason: str) -> None:
    with pytest.raises(SchemaError) as caught:
        superset([record(field("a", old)), record(field("a", new))])
    assert (caught.value.path, reason in caught.value.reason) == (path, True), str(caught.value)


@settings(max_examples=60)
@given(data=st.data())
def test_nothing_is_lost_on_the_way_through_the_superset(data: st.DataObject) -> None:
    old = data.draw(schemas(unions=False))
    new = data.draw(evolutions(old))
    merged = superset([old, new])
    assert full_form(superset([old, old])) == full_form(parse(old))
    written = Codec(old).encode(data.draw(rows(old)))
    widened = Codec(merged).encode(Codec(old, merged).decode(written))
    assert same(Codec(merged, new).decode(widened), Codec(old, new).decode(written))
