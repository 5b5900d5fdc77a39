"""Arguments of a graph's methods, checked and put into the form that travels.

Errors name the value, where it stands and what would do. Pure functions; any thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fondaco.core.clock import EARLIEST_US, LATEST_US, to_us
from fondaco.core.errors import InputError, KeyTypeError
from fondaco.graph.queries import STRATEGIES, Ids, StringIds
from fondaco.graph.schema import DIRECTIONS, EdgeType, GraphSchema, NodeType

_SEED_MASK: Final = (1 << 64) - 1


def pack_ids(values: Any, node_type: NodeType, what: str) -> Ids:
    """Ids of nodes as they travel: anything that NumPy takes for int64 [n], or strings.

    Raises:
        KeyTypeError: an id of the wrong kind; says which and where. InputError: not one-dimensional.
    """
    return _pack_strings(values, node_type, what) if node_type.id == "string" else _pack_longs(values, node_type, what)


def _pack_longs(values: Any, node_type: NodeType, what: str) -> npt.NDArray[np.int64]:
    if isinstance(values, (Set, Iterator)):
        raise InputError(f"{what} is a {type(values).__name__}; give a list or an array, in the order that the answer should have")
    array = np.asarray(values)
    if array.ndim == 0:
        raise InputError(f"{what} is {values!r}; give a list of ids, as [{'...' if values is None else repr(values)}]")
    if array.ndim != 1:
        raise InputError(f"{what} has shape {array.shape}; give one id after the other: shape [n]")
    if array.dtype == np.int64:
        return np.ascontiguousarray(array)
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.dtype.kind == "i" or (array.dtype.kind == "u" and array.max() <= np.iinfo(np.int64).max):
        return array.astype(np.int64)
    expected = f"long (ids of nodes of type {node_type.name!r}, in {what})"
    for position, value in enumerate(array.tolist()):
        if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
            raise KeyTypeError(f"{value!r} at position {position}", expected)
    return np.array(array.tolist(), np.int64)


def _pack_strings(values: Any, node_type: NodeType, what: str) -> StringIds:
    if isinstance(values, StringIds):
        return values
    if isinstance(values, (Set, Iterator)):
        raise InputError(f"{what} is a {type(values).__name__}; give a list or an array, in the order that the answer should have")
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        raise InputError(f"{what} is {values!r}; give a list of ids, as [{'...' if values is None else repr(values)}]")
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    try:
        joined = "".join(listed)
        encoded = joined.encode()
        is_ascii = len(encoded) == len(joined)
        sizes = [len(value) if is_ascii else len(value.encode()) for value in listed]
    except (TypeError, UnicodeEncodeError):
        for position, value in enumerate(listed):
            if not isinstance(value, str) or any("\ud800" <= letter <= "\udfff" for letter in value):
                expected = f"string (ids of nodes of type {node_type.name!r}, in {what})"
                raise KeyTypeError(f"{value!r} at position {position}", expected) from None
        raise
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return StringIds(offsets, np.frombuffer(encoded, np.uint8))


def pack_as_of(moment: Any, count: int) -> npt.NDArray[np.int64]:
    """One moment, or one for each of `count` seeds, as int64 microseconds [1] or [count]. NumPy's moments have no zone: UTC.

    Raises:
        InputError: not a moment, without a zone, outside the years 1 to 9999, or not as many as seeds.
    """
    if moment is None or _is_missing(moment):
        raise InputError(f"as_of is {moment!r}, which is no moment; leave as_of out to see every edge")
    if isinstance(moment, (datetime, str, int)) and not isinstance(moment, bool):
        return np.array([_moment(moment)], np.int64)
    array = np.asarray(moment.to_numpy() if hasattr(moment, "to_numpy") else moment)
    if array.dtype.kind == "M":
        if hasattr(moment, "to_numpy") and not _has_zone(moment):  # pandas, Polars, Arrow: they could have one
            raise InputError("as_of has no time zone; give it one, as tz_localize('UTC') does")
        if np.isnat(array).any():
            raise InputError(f"as_of has no time at position {int(np.isnat(array).argmax())}; leave as_of out to see every edge")
        seconds = array.astype("datetime64[s]")  # of far years, microseconds would wrap around
        far = np.atleast_1d((seconds < np.datetime64("0001-01-01")) | (seconds > np.datetime64("9999-12-31T23:59:59")))
        if far.any():
            raise InputError(f"as_of lies outside the years 1 to 9999 at position {int(far.argmax())}")
        array = array.astype("datetime64[us]").astype(np.int64)
    elif array.dtype.kind in "OUiu":
        if array.dtype.kind in "OU" or _is_far(array):
            array = np.array([_moment(value) for value in array.ravel().tolist()], np.int64).reshape(array.shape)
    elif array.size:
        raise InputError(f"as_of is {moment!r}; give a datetime with a zone, whole microseconds since 1970, or an array of either")
    array = array.astype(np.int64)
    if array.ndim == 0:
        return array.reshape(1)
    if array.shape != (count,):
        raise InputError(f"as_of has shape {array.shape} for {count} seeds; give one moment, or one for each seed")
    return np.ascontiguousarray(array)


def _is_missing(moment: Any) -> bool:
    """pandas' NaT: a datetime that is not one."""
    return isinstance(moment, datetime) and moment != moment


def _has_zone(column: Any) -> bool:
    kind = getattr(column, "type", None) or getattr(column, "dtype", None)
    return any(getattr(kind, name, None) is not None for name in ("tz", "time_zone"))


def _is_far(moments: npt.NDArray[Any]) -> bool:
    """Whether some microseconds lie outside the years 1 to 9999, as nanoseconds do."""
    return bool(moments.size) and not EARLIEST_US <= int(moments.min()) <= int(moments.max()) <= LATEST_US


def _moment(value: Any) -> int:
    try:
        return to_us(value)
    except ValueError as error:
        raise InputError(f"as_of: {error}") from None


def pack_seed(seed: int | None) -> int:
    """A seed as 64 bits; None: a random one."""
    if seed is None:
        return int.from_bytes(os.urandom(8), "little") >> 1
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise InputError(f"seed is a whole number or None (random), not {seed!r}")
    return seed.__index__() & _SEED_MASK


def whole(value: Any, what: str, least: int, most: int = (1 << 31) - 1) -> int:
    """A whole number within bounds.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or not least <= value.__index__() <= most:
        raise InputError(f"{what} is a whole number from {least} to {most}, not {value!r}")
    return int(value.__index__())


def number(value: Any, what: str, least: float, most: float = float("inf"), *, open_at_least: bool = False) -> float:
    """A finite number within bounds; `open_at_least`: above the lower one.

    Raises:
        InputError: it is none.
    """
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if not (found > least if open_at_least else found >= least) or not found <= most or found == float("inf"):
        bound = "above" if open_at_least else "at least"
        raise InputError(
            f"{what} is a finite number {bound} {least:g}" + (f" and at most {most:g}" if most != float("inf") else "") + f", not {value!r}"
        )
    return found


def pack_direction(direction: str) -> Any:
    """ "out" or "in"."""
    if direction not in DIRECTIONS:
        raise InputError(f'direction is "out" (along the edges) or "in" (against them), not {direction!r}')
    return direction


def pack_strategy(strategy: str, replace: bool) -> Any:
    """A known strategy, which allows `replace`."""
    if strategy not in STRATEGIES:
        raise InputError(f"strategy is one of {', '.join(map(repr, STRATEGIES))}; not {strategy!r}")
    if replace and strategy not in ("uniform", "weighted"):
        raise InputError(f'replace=True goes with strategy "uniform" or "weighted"; {strategy!r} never takes a neighbour twice')
    return strategy


def pack_pad(on_unknown: str) -> bool:
    """Whether unknown ids are padded."""
    if on_unknown not in ("error", "pad"):
        raise InputError(f'on_unknown is "error" (unknown ids are refused) or "pad" (they get nothing), not {on_unknown!r}')
    return on_unknown == "pad"


def pack_edges(schema: GraphSchema, edges: Any) -> tuple[str, ...] | None:
    """Edge types as text; None stays None: all of them."""
    if edges is None:
        return None
    if isinstance(edges, (str, EdgeType)) or (isinstance(edges, tuple) and len(edges) == 3 and _is_key(schema, edges)):
        edges = [edges]
    return tuple(dict.fromkeys(schema.edge(edge).name for edge in edges))


def _is_key(schema: GraphSchema, names: tuple[Any, ...]) -> bool:
    return any(edge.key == names for edge in schema.edges)


def pack_fan_outs(schema: GraphSchema, fan_outs: Any) -> tuple[int | dict[str, int], ...]:
    """Fan-outs: one entry a hop, numbers or {edge type: number}.

    Raises:
        InputError, EdgeTypeNotFoundError: an entry that is neither; names its place.
    """
    if isinstance(fan_outs, (str, bytes, Mapping)) or not hasattr(fan_outs, "__iter__"):
        raise InputError(f"fan_outs has one entry for each hop, for example [15, 10]; not {fan_outs!r}")
    packed: list[int | dict[str, int]] = []
    for hop, entry in enumerate(fan_outs):
        if isinstance(entry, Mapping):
            packed.append({schema.edge(edge).name: whole(value, f"fan_outs[{hop}][{edge!r}]", -1) for edge, value in entry.items()})
        else:
            packed.append(whole(entry, f"fan_outs[{hop}] (-1: all neighbours)", -1))
    return tuple(packed)


def pack_node_features(schema: GraphSchema, features: Any) -> tuple[tuple[str, str], ...]:
    """Features as (node type, name) pairs. Names alone mean every node type that has such a feature.

    Raises:
        FeatureNotFoundError, NodeTypeNotFoundError.
    """
    if isinstance(features, str):
        features = (features,)
    if isinstance(features, Mapping):
        pairs = [(node, name) for node, names in features.items() for name in _names(names)]
        for node, name in pairs:
            schema.node(node).feature(name)
    else:
        pairs = []
        for name in features:
            owners = [node.name for node in schema.nodes if any(feature.name == name for feature in node.features)]
            if not owners:
                _no_feature(name, [feature.name for node in schema.nodes for feature in node.features], "the graph's nodes")
            pairs += [(owner, name) for owner in owners]
    return tuple(dict.fromkeys(pairs))


def pack_edge_features(schema: GraphSchema, features: Any) -> tuple[tuple[str, str], ...]:
    """Features as (edge type, name) pairs, as `pack_node_features`."""
    if isinstance(features, str):
        features = (features,)
    if isinstance(features, Mapping):
        pairs = [(schema.edge(edge), name) for edge, names in features.items() for name in _names(names)]
        for edge, name in pairs:
            edge.feature(name)
        return tuple(dict.fromkeys((edge.name, name) for edge, name in pairs))
    found: list[tuple[str, str]] = []
    for name in features:
        owners = [edge.name for edge in schema.edges if any(feature.name == name for feature in edge.features)]
        if not owners:
            _no_feature(name, [feature.name for edge in schema.edges for feature in edge.features], "the graph's edges")
        found += [(owner, name) for owner in owners]
    return tuple(dict.fromkeys(found))


def _names(names: str | Sequence[str]) -> Sequence[str]:
    return (names,) if isinstance(names, str) else names


def _no_feature(name: str, available: list[str], where: str) -> None:
    from fondaco.core.errors import FeatureNotFoundError

    raise FeatureNotFoundError(str(name), list(dict.fromkeys(available)), where)
