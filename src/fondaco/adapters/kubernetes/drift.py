"""Drift: what differs between what was applied and what is there, in words, with the name of whoever changed it.

Only what we applied is looked at. What others added (defaults of the server, another manager's fields, containers that were injected) is
theirs. The server writes some values in its own way, which is no difference: empty ones are left out, quantities are rewritten ("1000m" is
"1"). Who changed a field stands in the object's managedFields (Kubernetes reference, Server-Side Apply). Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from fondaco.adapters.kubernetes.place import MANAGER, Object
from fondaco.core.errors import InputError
from fondaco.services.quantities import parse_quantity

_QUANTITIES: Final = frozenset({"requests", "limits"})  # under these, each value is one
_QUANTITY: Final = frozenset({"sizeLimit", "divisor", "storage"})
_KEYS: Final = (("name",), ("mountPath",), ("containerPort", "protocol"), ("port", "protocol"), ("ip",))
_SHOWN: Final = 80
Path = tuple[str | Mapping[str, Any], ...]  # a step into a list is its item's key, as {"name": "main"}


class Difference(NamedTuple):
    """One field: `path` as people write it; what is there, and what was applied; who changed it, "" where it cannot be told."""

    path: str
    live: object
    applied: object
    by: str

    def __str__(self) -> str:
        now = "is gone" if self.live is None else f"is {_shown(self.live)}, not {_shown(self.applied)}"
        return f"{self.path} {now}" + (f" (changed by {self.by})" if self.by else "")


def differences(applied: Object, live: Object) -> list[Difference]:
    """Where a live object is not what was applied: its spec and its labels, and annotations that were applied."""
    found: list[Difference] = []
    managed = live["metadata"].get("managedFields") or []
    for part in ("labels", "annotations"):
        _compare(applied["metadata"].get(part) or {}, live["metadata"].get(part) or {}, ("metadata", part), found, managed)
    _compare(applied["spec"], live.get("spec") or {}, ("spec",), found, managed)
    return found


def _compare(applied: Any, live: Any, path: Path, found: list[Difference], managed: list[Object]) -> None:
    if isinstance(applied, Mapping) and isinstance(live, Mapping):
        for key, value in applied.items():
            _compare(value, live.get(key), (*path, key), found, managed)
    elif isinstance(applied, list) and isinstance(live, list) and (keys := _keys_of(applied, live)):
        by_key = {tuple(item.get(key) for key in keys): item for item in live}
        for item in applied:
            step = {key: item[key] for key in keys if key in item}
            _compare(item, by_key.get(tuple(item.get(key) for key in keys)), (*path, step), found, managed)
    elif isinstance(applied, list) and isinstance(live, list) and len(applied) == len(live):
        for index, (one, other) in enumerate(zip(applied, live, strict=True)):
            _compare(one, other, (*path, str(index)), found, managed)
    elif not _same(applied, live, path):
        found.append(Difference(_written(path), live, applied, _who(path, managed)))


def _same(applied: Any, live: Any, path: Path) -> bool:
    if applied == live or (live is None and _is_empty(applied)):
        return True
    is_quantity = _is_one_of(path[-1], _QUANTITY) or _is_one_of(path[-2], _QUANTITIES)
    if is_quantity and isinstance(live, str):
        try:
            return parse_quantity(str(applied)) == parse_quantity(live)
        except InputError:
            return False
    return isinstance(applied, int | float) and isinstance(live, int | float) and applied == live


def _is_one_of(step: str | Mapping[str, Any], names: frozenset[str]) -> bool:
    return isinstance(step, str) and step in names


def _is_empty(value: Any) -> bool:
    """Whether the server leaves it out: "", 0, False, None, [], {}, and what holds nothing else."""
    return not value or (isinstance(value, Mapping) and all(map(_is_empty, value.values())))


def _keys_of(applied: list[Any], live: list[Any]) -> tuple[str, ...]:
    """By which fields the items of two lists are the same item; none: by their place."""
    items = [*applied, *live]
    if not all(isinstance(item, Mapping) for item in items):
        return ()
    return next((keys for keys in _KEYS if applied and all(keys[0] in item for item in items)), ())


def _written(path: Path) -> str:
    text = ""
    for step in path:
        if isinstance(step, Mapping):
            text += f"[{next(iter(step.values()), '')}]"
        elif step.isdecimal():
            text += f"[{step}]"
        else:
            text += ("." if text else "") + step
    return text


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _who(path: Path, managed: list[Object]) -> str:
    """The manager that owns a field and is not us; of several, the one that wrote last."""
    others = [entry for entry in managed if not (entry.get("manager") == MANAGER and entry.get("operation") == "Apply")]
    owners = [entry for entry in others if _owns(path, entry.get("fieldsV1") or {})]
    return str(max(owners, key=lambda entry: str(entry.get("time", "")))["manager"]) if owners else ""


def _owns(path: Path, fields: Mapping[str, Any]) -> bool:
    for step in path:
        below = fields.get(f"f:{step}") if isinstance(step, str) else _item(step, fields)
        if below is None:
            return False
        if not below.keys() - {"."}:
            return True  # the field as a whole, whatever is in it
        fields = below
    return True


def _item(step: Mapping[str, Any], fields: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for name, below in fields.items():
        if name.startswith("k:") and isinstance(below, Mapping):
            key = json.loads(name[2:])
            if key.items() <= dict(step).items() or dict(step).items() <= key.items():
                return below
    return None
