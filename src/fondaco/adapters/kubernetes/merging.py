"""Merging: a piece of a pod template laid over another, as a strategic merge does it.

Objects are merged key by key, null takes a key away. Lists of things that have a key of their own (containers, volumes and variables by
`name`, mounts by `mountPath`, ports by `containerPort`, host aliases by `ip`) are merged thing by thing, new ones at the end; tolerations
and pull secrets are added to; every other list is replaced. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fondaco.adapters.kubernetes.place import Object
from fondaco.core.errors import InputError

_KEYS: Final = {"volumeMounts": "mountPath", "volumeDevices": "devicePath", "ports": "containerPort", "hostAliases": "ip"}
_ADDED: Final = frozenset({"tolerations"})


def merged(base: Mapping[str, Any], over: Mapping[str, Any], *, path: str) -> Object:
    """`over` laid over `base`; neither is changed.

    Raises:
        InputError: a list or object stands where the other has something else; names the path.
    """
    result = dict(base)
    for key, value in over.items():
        where = f"{path}.{key}"
        if value is None:
            result.pop(key, None)
        elif key not in result:
            result[key] = merged({}, value, path=where) if isinstance(value, dict) else value
        else:
            result[key] = _merged_value(result[key], value, key, where)
    return result


def _merged_value(base: Any, over: Any, key: str, path: str) -> Any:
    for kind, name in ((dict, "an object"), (list, "a list")):
        if isinstance(base, kind) and not isinstance(over, kind | (tuple if kind is list else kind)):
            raise InputError(f"{path}: {over!r} stands where {name} belongs")
    if isinstance(base, dict):
        return merged(base, over, path=path)
    if not isinstance(base, list):
        return over
    if key in _ADDED:
        return [*base, *over]
    by = _KEYS.get(key, "name")
    if not all(isinstance(item, dict) and by in item for item in [*base, *over]):
        return list(over)
    result: dict[object, Object] = {item[by]: item for item in base}
    for item in over:
        known = result.get(item[by])
        result[item[by]] = item if known is None else merged(known, item, path=f"{path}[{item[by]}]")
    return list(result.values())
