"""Nodes: the shape of decoded columns, and which buffers hold them.

A node is one column, or one part of a nested column. Nodes mirror the reader's schema; their buffers have Arrow's shapes, but validity is
one byte an entry (a kernel stores bytes; Arrow's bits are packed afterwards). Immutable once a program is compiled.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from fondaco.core.errors import SchemaError
from fondaco.schema.types import Array, Decimal, Enum, Fixed, Map, Primitive, Record, Type, Union, Uuid, Vector

ROWS: Final = 0  # the scope whose entries are the rows
DECIMAL128_DIGITS: Final = 38
DECIMAL256_DIGITS: Final = 76
UNION_BRANCHES_MAX: Final = 127  # Arrow's type ids are int8

_PRIMITIVE_BYTES: Final = {"boolean": 1, "int": 4, "long": 8, "float": 4, "double": 8}


class Layout(enum.Enum):
    """How a node keeps its entries; its buffers in this order."""

    NULL = enum.auto()  # nothing
    VALUES = enum.auto()  # fixed-width values
    VECTOR_INT8 = enum.auto()  # float32 scales; int8 numbers, `dim` an entry
    TEXT = enum.auto()  # offsets, data: strings and bytes
    LIST = enum.auto()  # offsets; one child
    MAP = enum.auto()  # offsets; children: keys, values
    STRUCT = enum.auto()  # children
    UNION = enum.auto()  # type ids, offsets; a child for each branch


class Role(enum.Enum):
    """What a buffer holds."""

    VALIDITY = enum.auto()
    VALUES = enum.auto()
    OFFSETS = enum.auto()  # one entry more than its scope, from 0
    DATA = enum.auto()  # bytes of strings: belongs to no scope


@dataclass(frozen=True, slots=True)
class BufferPlan:
    """One buffer of a program. `width`: bytes of an entry."""

    role: Role
    scope: int
    width: int
    holes: bool  # entries under a null are never written, so the buffer must begin as zeros


@dataclass(eq=False, slots=True)
class Node:
    """A column or a part of one. `type` is the reader's, without the union that makes it optional."""

    type: Type
    path: str
    layout: Layout
    scope: int
    validity: int | None = None
    buffers: tuple[int, ...] = ()
    children: tuple[Node, ...] = ()
    null_branch: int = 0  # of a UNION: where a null goes

    @property
    def nullable(self) -> bool:
        """Whether the schema allows a null here."""
        return self.validity is not None or self.layout in (Layout.NULL, Layout.UNION)


@dataclass(slots=True)
class NodeBuilder:
    """Makes the nodes of a schema and numbers their buffers and scopes."""

    buffers: list[BufferPlan] = field(default_factory=list)
    scope_count: int = 1
    _open: list[Record] = field(default_factory=list)  # the records around the type at hand, to notice recursion

    def build(self, kind: Type, path: str, scope: int = ROWS, *, nullable: bool = False, holes: bool = False) -> Node:
        """The node of `kind`.

        Args:
            nullable: entries may be null although the type says nothing of it. holes: entries may be left unwritten (under a null).
        Raises:
            SchemaError: a recursive schema, or something that Arrow has no room for.
        """
        if isinstance(kind, Union) and kind.optional is not None:
            kind, nullable = kind.optional, True
        holes = holes or nullable
        node = Node(kind, path, _layout(kind), scope)
        if nullable and node.layout not in (Layout.NULL, Layout.UNION):
            node.validity = self._buffer(Role.VALIDITY, scope, 1, holes)
        match node.layout:
            case Layout.VALUES:
                node.buffers = (self._buffer(Role.VALUES, scope, value_bytes(kind, path), holes),)
            case Layout.VECTOR_INT8:
                dim = _vector(kind).dim
                node.buffers = (self._buffer(Role.VALUES, scope, 4, holes), self._buffer(Role.VALUES, scope, dim, holes))
            case Layout.TEXT:
                node.buffers = (self._buffer(Role.OFFSETS, scope, 4, holes), self._buffer(Role.DATA, scope, 1, False))
            case _:
                self._build_children(node, kind, holes)
        return node

    def _build_children(self, node: Node, kind: Type, holes: bool) -> None:
        match kind:
            case Array():
                node.buffers = (self._buffer(Role.OFFSETS, node.scope, 4, holes),)
                node.children = (self.build(kind.items, node.path, self._scope()),)
            case Map():
                node.buffers = (self._buffer(Role.OFFSETS, node.scope, 4, holes),)
                scope = self._scope()
                keys = self.build(Primitive("string"), node.path, scope)
                node.children = (keys, self.build(kind.values, node.path, scope))
            case Record():
                if any(kind is outer for outer in self._open):
                    reason = f"record {kind.fullname!r} contains itself, which columns cannot hold; read it row by row (Codec.decode)"
                    raise SchemaError(node.path, reason)
                self._open.append(kind)
                node.children = tuple(
                    self.build(member.type, member_path(node.path, member.name), node.scope, holes=holes) for member in kind.fields
                )
                self._open.pop()
            case Union():
                if len(kind.branches) > UNION_BRANCHES_MAX:
                    raise SchemaError(node.path, f"a union of {len(kind.branches)} branches; Arrow's have at most {UNION_BRANCHES_MAX}")
                node.buffers = (self._buffer(Role.VALUES, node.scope, 1, holes), self._buffer(Role.VALUES, node.scope, 4, holes))
                node.null_branch = kind.null_index or 0
                # A union in Arrow has no validity of its own, so a missing row is a null of one of its branches.
                node.children = tuple(
                    self.build(branch, node.path, self._scope(), nullable=index == node.null_branch)
                    for index, branch in enumerate(kind.branches)
                )

    def _scope(self) -> int:
        self.scope_count += 1
        return self.scope_count - 1

    def _buffer(self, role: Role, scope: int, width: int, holes: bool) -> int:
        self.buffers.append(BufferPlan(role, scope, width, holes))
        return len(self.buffers) - 1


def value_bytes(kind: Type, path: str) -> int:
    """Bytes of one entry of a VALUES node: Arrow's width of the type."""
    logical = kind.logical if isinstance(kind, Primitive | Fixed) else None
    match logical:
        case Decimal(precision):
            if precision > DECIMAL256_DIGITS:
                raise SchemaError(path, f"a decimal of {precision} digits; columns hold at most {DECIMAL256_DIGITS}. Read it row by row.")
            return 16 if precision <= DECIMAL128_DIGITS else 32
        case Uuid():
            return 16
    match kind:
        case Primitive():
            return _PRIMITIVE_BYTES[kind.kind]
        case Fixed():
            return kind.size
    return 4  # the index of an enum's symbol


def is_copied(kind: Type) -> bool:
    """Whether a `fixed` lies in the row exactly as Arrow wants it."""
    return isinstance(kind, Fixed) and not isinstance(kind.logical, Decimal) and _layout(kind) is Layout.VALUES


def _layout(kind: Type) -> Layout:
    match kind:
        case Primitive("null"):
            return Layout.NULL
        case Primitive("string" | "bytes", None):
            return Layout.TEXT
        case Fixed(logical=Vector(dtype="int8")):
            return Layout.VECTOR_INT8
        case Primitive() | Fixed() | Enum():
            return Layout.VALUES
        case Array():
            return Layout.LIST
        case Map():
            return Layout.MAP
        case Record():
            return Layout.STRUCT
    return Layout.UNION


def _vector(kind: Type) -> Vector:
    assert isinstance(kind, Fixed)
    assert isinstance(kind.logical, Vector)
    return kind.logical


# -- paths: the names of the fields on the way, as in `address.zip`; items of arrays and maps have the path of their array or map -------


def short_path(path: str) -> str:
    """A path for people: of one that is deeper than 16 names, the first and the last six."""
    names = path.split(".")
    return path if len(names) <= 16 else ".".join([*names[:6], f"({len(names) - 12} more)", *names[-6:]])


def member_path(path: str, name: str) -> str:
    """Path of field `name` of the record at `path`."""
    return f"{path}.{name}" if path else name
