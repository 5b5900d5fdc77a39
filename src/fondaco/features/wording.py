"""Wording: plans as people read them, for `explain()`, messages and `repr`. Never parsed back."""

from __future__ import annotations

from typing import Final

from fondaco.core.clock import from_us
from fondaco.core.units import format_duration
from fondaco.features.kinds import STRING, TIMESTAMP
from fondaco.features.plan import Aggregate, Call, Column, Literal, Node, Refresh, SetPlan, ViewPlan

_INFIX: Final = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "floordiv": "//",
    "mod": "%",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "and": "&",
    "or": "|",
}


def describe(node: Node) -> str:
    """An expression in the notation of its author."""
    if isinstance(node, Column):
        return node.name
    if isinstance(node, Literal):
        if node.kind == TIMESTAMP and isinstance(node.value, int):
            return from_us(node.value).isoformat()
        return repr(node.value) if node.kind == STRING else str(node.value)
    if isinstance(node, Call):
        if node.op in _INFIX:
            return f"({describe(node.args[0])} {_INFIX[node.op]} {describe(node.args[1])})"
        return f"{node.op}({', '.join(map(describe, node.args))})"
    return _describe_aggregate(node)


def _describe_aggregate(node: Aggregate) -> str:
    parts = [] if node.value is None else [describe(node.value)]
    if node.k is not None:
        parts.append(str(node.k))
    if node.where is not None:
        parts.append(f"where {describe(node.where)}")
    if node.window_us is not None:
        width = format_duration(node.window_us)
        parts.append(f"in (t - {width}, t{')' if node.closed == 'left' else ']'}")
    elif node.closed == "left":
        parts.append("before t")
    if node.max_age_us is not None:
        parts.append(f"not older than {format_duration(node.max_age_us)}")
    if node.skip_null:
        parts.append("skipping nulls")
    if node.default is not None:
        parts.append(f"else {describe(node.default)}")
    return f"{node.op}({', '.join(parts)})"


def describe_refresh(refresh: Refresh) -> str:
    """How fresh serving is, in words."""
    if refresh.interval_us is None:
        return "fresh from the stream"
    return f"refreshed every {format_duration(refresh.interval_us)} from {format_duration(refresh.offset_us)} past 1970-01-01T00:00Z"


def describe_view(view: ViewPlan) -> list[str]:
    """A view and its features, one line each."""
    source = f"{view.scan.source[0]} {', '.join(view.scan.source[1:])}"
    keys = ", ".join(
        f"{field} = {column}" if field != column else field for field, column in zip(view.key.fields, view.key.columns, strict=True)
    )
    times = "static facts" if view.scan.time is None else f"events at {view.scan.time}"
    if view.scan.known_at is not None:
        times += f", known at {view.scan.known_at}"
    if view.scan.tz is not None:
        times += f", zone {view.scan.tz}"
    refresh = describe_refresh(view.refresh)
    head = f"view {view.name} of {view.key.entity} ({keys}) from {source}: {times}; {refresh}; version {view.version[:12]}"
    return [head, *(f"  {feature.name}: {feature.dtype} = {describe(feature.value)}" for feature in view.features)]


def describe_set(plan: SetPlan) -> str:
    """The whole set, as `explain()` prints it."""
    lines = [f"feature set {plan.name}, version {plan.version[:12]}"]
    for view in plan.views:
        lines += describe_view(view)
    for selection in plan.selections:
        view = plan.views[selection.view]
        place = ", ".join(selection.binding.columns)
        lines.append(f"column {selection.output} = {view.name}.{selection.feature} where {view.key.entity} is in {place}")
    return "\n".join(lines)
