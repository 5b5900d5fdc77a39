"""The compiler: a resolved plan becomes the op-codes of `_ops`, for the fields that are wanted.

One pass over the steps, in the order of the bytes. Each `_value` emits what reads one value into its node, each `_pass` what goes past one
that nobody asked for, each `_fill` what a null leaves behind. Jumps forward are patched when their target is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

import numpy as np

from fondaco.core.errors import SchemaError
from fondaco.schema import _ops as o
from fondaco.schema._code import CompiledCode
from fondaco.schema._default_bytes import default_bytes
from fondaco.schema._nodes import Layout, Node, NodeBuilder, is_copied, member_path
from fondaco.schema.logical import time_range
from fondaco.schema.resolution import (
    ReadArray,
    ReadEnum,
    ReadFixed,
    ReadMap,
    ReadPrimitive,
    ReadRecord,
    ReadUnion,
    Refuse,
    Skip,
    Step,
    WrapUnion,
    min_step_size,
    min_wire_size,
    resolve,
)
from fondaco.schema.types import Array, Date, Decimal, Enum, Fixed, Map, Primitive, Record, Time, Timestamp, Type, Union, Uuid

_ITEM_BYTES_MAX: Final = (1 << 31) - 1
_INT: Final = (-(1 << 31), (1 << 31) - 1)

_PRIMITIVE_OPS: Final = {
    ("int", "int"): o.INT,
    ("int", "long"): o.INT_AS_LONG,
    ("int", "float"): o.INT_AS_FLOAT,
    ("int", "double"): o.INT_AS_DOUBLE,
    ("long", "long"): o.LONG,
    ("long", "float"): o.LONG_AS_FLOAT,
    ("long", "double"): o.LONG_AS_DOUBLE,
    ("float", "double"): o.FLOAT_AS_DOUBLE,
    ("boolean", "boolean"): o.BOOLEAN,
}
_CONSTANT_BYTES: Final = {"null": 0, "boolean": 1, "float": 4, "double": 8}


class Compiler:
    """Emits the instructions of one choice of fields. `_path` is the field at hand, for the errors of what is emitted."""

    def __init__(self, step: Step, target: Type, name: str, fields: Sequence[str]) -> None:
        """
        Args:
            step, target: the plan, and the reader's type that it gives. name: of the column, if that is no record.
            fields: of the record that are wanted.
        """
        self._step, self._target, self._name = step, target, name
        self._names = tuple(dict.fromkeys(fields))
        self._code: list[int] = []
        self._tables: list[int] = []
        self._paths: list[str] = []
        self._reasons: list[str] = []
        self._constants: list[bytes] = []
        self._builder = NodeBuilder()
        self._open: list[Record] = []  # writer's records around the type that is skipped
        self._path = ""
        self._depth = self._depth_max = 0
        self._label = 0  # nothing before here may be merged with what follows: something jumps here

    def compile(self) -> CompiledCode:
        """The code.

        Raises:
            SchemaError: a recursive schema, or a type that columns cannot hold; names the field.
        """
        step, target = self._step, self._target
        nodes: dict[str, Node]
        if isinstance(step, ReadRecord) and isinstance(target, Record):
            kinds = {member.name: member.type for member in target.fields}
            nodes = {name: self._builder.build(kinds[name], name) for name in self._names}
            self._record(step, [nodes.get(member.name) for member in target.fields])
        else:
            nodes = {self._name: self._builder.build(target, self._name)}
            self._value_at(self._name, step, nodes[self._name])
        self._emit(o.END)
        fill_pc = self._here()
        for node in nodes.values():
            self._fill(node)
        self._emit(o.END)
        return CompiledCode(
            np.array(self._code, np.int64),
            np.array(self._tables, np.int64),
            fill_pc,
            {name: nodes[name] for name in self._names},
            tuple(self._builder.buffers),
            self._builder.scope_count,
            self._depth_max,
            tuple(self._paths),
            tuple(self._reasons),
            tuple(self._constants),
        )

    # -- instructions -----------------------------------------------------------------------------------------------------------

    def _emit(self, op: int, *operands: int) -> int:
        """Append an instruction; where its words begin."""
        word = len(self._code)
        self._code += [op, *operands, *[0] * (o.WIDTH - 1 - len(operands))]
        self._paths.append(self._path)
        return word

    def _here(self) -> int:
        """The pc of the next instruction, to jump to."""
        self._label = len(self._code)
        return self._label

    @contextmanager
    def _in(self, path: str) -> Iterator[None]:
        outer, self._path = self._path, path
        yield
        self._path = outer

    def _push(self, words: int) -> None:
        self._depth += words
        self._depth_max = max(self._depth_max, self._depth)

    def _table(self, values: Sequence[int]) -> int:
        self._tables += values
        return len(self._tables) - len(values)

    # -- values that are wanted -------------------------------------------------------------------------------------------------

    def _value(self, step: Step, node: Node) -> None:
        """Read what the writer wrote into `node`, validity included."""
        match step:
            case WrapUnion():
                self._land(step.inner, step.target, step.target_index, node)
            case ReadUnion(target=Union() as target):
                self._union_into_union(step, target, node)
            case ReadUnion():
                self._branches([partial(self._value, branch, node) for branch in step.branches])
            case Refuse():
                self._refuse(step)
            case _:
                if node.validity is not None:
                    self._emit(o.VALID, node.validity)
                self._plain(step, node)

    def _plain(self, step: Step, node: Node) -> None:
        match step:
            case ReadPrimitive():
                self._primitive(step, node)
            case ReadFixed():
                self._fixed(step.target, node)
            case ReadEnum():
                self._emit(o.ENUM, node.buffers[0], self._table(step.index_map), len(step.index_map))
            case ReadArray():
                self._array(step, node)
            case ReadMap():
                self._map(step, node)
            case ReadRecord():
                self._record(step, list(node.children))
            case _:
                raise AssertionError(f"{type(step).__name__} is no plain value")

    def _value_at(self, path: str, step: Step, node: Node) -> None:
        with self._in(path):
            self._value(step, node)

    def _primitive(self, step: ReadPrimitive, node: Node) -> None:
        wire, target = step.wire, step.target.kind
        match step.target.logical:
            case Decimal(precision):
                width = 16 if precision <= 38 else 32
                self._emit(o.DECIMAL_BYTES, node.buffers[0], width, self._decimal_bounds(precision, width))
            case Uuid():
                self._emit(o.UUID_STRING, node.buffers[0])
            case Date() | Time() | Timestamp():
                bounds = time_range(step.target)
                assert bounds is not None, step.target
                low, high = bounds
                if wire == "int":
                    low, high = max(low, _INT[0]), min(high, _INT[1])
                self._emit(o.INT_WITHIN if target == "int" else o.LONG_WITHIN, node.buffers[0], low, high)
            case _ if target == "null":
                pass
            case _ if target == "string":
                self._emit(o.STRING, *node.buffers)
            case _ if target == "bytes":
                self._emit(o.BYTES, *node.buffers)
            case _ if wire == target and target in ("float", "double"):
                self._emit(o.FIXED, node.buffers[0], 4 if target == "float" else 8)
            case _:
                self._emit(_PRIMITIVE_OPS[wire, target], node.buffers[0])

    def _fixed(self, kind: Fixed, node: Node) -> None:
        match kind.logical:
            case Decimal(precision):
                width = 16 if precision <= 38 else 32
                self._emit(o.DECIMAL_FIXED, node.buffers[0], width, self._decimal_bounds(precision, width), kind.size)
            case _ if node.layout is Layout.VECTOR_INT8:
                self._emit(o.VECTOR_INT8, *node.buffers, kind.size - 4)
            case _:
                self._emit(o.FIXED, node.buffers[0], kind.size)

    def _decimal_bounds(self, precision: int, width: int) -> int:
        bound = 10**precision - 1
        words = b"".join(value.to_bytes(width, "little", signed=True) for value in (-bound, bound))
        return self._table(np.frombuffer(words, np.int64).tolist())

    def _array(self, step: ReadArray, node: Node) -> None:
        (items,) = node.children
        width = _copied_bytes(step.item)
        if width is not None:
            self._emit(o.ARRAY_FIXED, items.scope, width, node.buffers[0], items.buffers[0])
            return
        with self._blocks(o.BLOCK, items.scope, min_step_size(step.item), node.buffers[0]):
            self._value(step.item, items)

    def _map(self, step: ReadMap, node: Node) -> None:
        keys, values = node.children
        with self._blocks(o.BLOCK, keys.scope, 1 + min_step_size(step.value), node.buffers[0]):
            self._emit(o.STRING, *keys.buffers)
            self._value(step.value, values)

    @contextmanager
    def _blocks(self, op: int, scope: int, item_bytes: int, offsets: int = 0) -> Iterator[None]:
        """Around the code for one item: the loop over the items of an array or a map."""
        block = self._here()
        word = self._emit(op, scope, min(item_bytes, _ITEM_BYTES_MAX), offsets)
        self._push(3)
        body = self._here()
        yield
        self._emit(o.NEXT, scope, body, block)
        self._depth -= 3
        self._code[word + 4] = self._here()

    def _record(self, step: ReadRecord, nodes: list[Node | None]) -> None:
        """The writer's members in their order, then the reader's defaults. `nodes` by the reader's field; None: not wanted."""
        for member in step.members:
            wanted = None if member.reader_index is None else nodes[member.reader_index]
            if wanted is not None:
                self._value_at(wanted.path, member.step, wanted)
            else:
                with self._in(member_path(self._path, member.name)):
                    self._pass(member.step)
        for default in step.defaults:
            node = nodes[default.reader_index]
            if node is not None:
                self._default(step.target, default.reader_index, node)

    def _default(self, record: Record, index: int, node: Node) -> None:
        member = record.fields[index]
        data = default_bytes(member)
        self._constants.append(data)  # the code holds its address, the program keeps it alive
        self._emit(o.CONSTANT, np.frombuffer(data or b"\x00", np.uint8).ctypes.data, len(data))
        self._push(2)
        self._value_at(node.path, resolve(member.type), node)
        self._depth -= 2
        self._emit(o.CONSTANT_END)

    # -- unions -----------------------------------------------------------------------------------------------------------------

    def _union_into_union(self, step: ReadUnion, target: Union, node: Node) -> None:
        null = target.null_index
        if target.optional is None or null is None or len(step.branches) != 2 or not _is_optional(step, null):
            lands = zip(step.branches, step.targets, strict=True)
            return self._branches([partial(self._land, branch, target, to, node) for branch, to in lands])
        assert node.validity is not None
        writer_null = step.targets.index(null)
        word = self._emit(o.OPTIONAL, node.validity, writer_null)
        self._plain_at(step.branches[1 - writer_null], node)
        self._code[word + 3] = self._here()
        before = len(self._code)
        skip_fill = self._emit(o.JUMP)
        self._fill(node)
        if len(self._code) == before + o.WIDTH:  # nothing to fill: no need to jump over it
            del self._code[before:], self._paths[before // o.WIDTH :]
            self._label = before
        else:
            self._code[word + 3] = before + o.WIDTH
            self._code[skip_fill + 1] = self._here()
        return None

    def _plain_at(self, step: Step, node: Node) -> None:
        if isinstance(step, Refuse):
            self._value(step, node)
        else:
            self._plain(step, node)

    def _branches(self, emitters: Sequence[Callable[[], None]]) -> None:
        """Read a branch index and jump to what `emitters` emit for it."""
        table = self._table([0] * len(emitters))
        self._emit(o.UNION, table, len(emitters))
        jumps = []
        for index, emit in enumerate(emitters):
            self._tables[table + index] = self._here()
            emit()
            jumps.append(self._emit(o.JUMP))
        end = self._here()
        for word in jumps:
            self._code[word + 1] = end

    def _land(self, step: Step, target: Union, index: int, node: Node) -> None:
        """Read a value without branch index into branch `index` of the reader's union."""
        if isinstance(step, Refuse):
            self._value(step, node)
        elif target.optional is None:
            child = node.children[index]
            with self._branch(node, index):
                self._value(step, child)
        elif index == target.null_index:
            self._fill(node)
        else:
            self._value(step, node)

    @contextmanager
    def _branch(self, node: Node, index: int) -> Iterator[None]:
        """Around the code for a value of branch `index` of a dense union."""
        scope = node.children[index].scope
        self._emit(o.BRANCH, scope, *node.buffers, index)
        self._push(1)
        yield
        self._depth -= 1
        self._emit(o.BRANCH_END, scope)

    def _fill(self, node: Node) -> None:
        """What a null leaves behind in buffers that need an entry for it. Validity and values are zero from the start."""
        match node.layout:
            case Layout.TEXT | Layout.LIST | Layout.MAP:
                self._emit(o.FILL_OFFSET, node.buffers[0])
            case Layout.STRUCT:
                for child in node.children:
                    self._fill(child)
            case Layout.UNION:
                with self._branch(node, node.null_branch):
                    self._fill(node.children[node.null_branch])
            case _:
                pass

    # -- values that are not wanted ---------------------------------------------------------------------------------------------

    def _pass(self, step: Step) -> None:
        """Go past a value of the writer that nobody asked for. Lengths, counts and branches are checked, what lies between them is not."""
        match step:
            case Skip():
                self._skip(step.wire)
            case ReadPrimitive():
                self._skip(Primitive(step.wire))
            case ReadFixed():
                self._skip_bytes(step.target.size)
            case ReadEnum():
                self._emit(o.SKIP_VARINT)
            case ReadArray():
                self._pass_items(_constant_bytes(step.item), min_step_size(step.item), partial(self._pass, step.item))
            case ReadMap():
                self._pass_entries(min_step_size(step.value), partial(self._pass, step.value))
            case ReadRecord():
                for member in step.members:
                    with self._in(member_path(self._path, member.name)):
                        self._pass(member.step)
            case ReadUnion():
                self._branches([partial(self._pass, branch) for branch in step.branches])
            case WrapUnion():
                self._pass(step.inner)
            case Refuse():
                self._refuse(step)

    def _skip(self, kind: Type) -> None:
        """The same, for a value that the reader's schema does not have: all that is known is its type."""
        match kind:
            case Primitive():
                width = _constant_wire_bytes(kind)
                if width is not None:
                    self._skip_bytes(width)
                else:
                    self._emit(o.SKIP_VARINT if kind.kind in ("int", "long") else o.SKIP_BYTES)
            case Fixed():
                self._skip_bytes(kind.size)
            case Enum():
                self._emit(o.SKIP_VARINT)
            case Array():
                self._pass_items(_constant_wire_bytes(kind.items), min_wire_size(kind.items), partial(self._skip, kind.items))
            case Map():
                self._pass_entries(min_wire_size(kind.values), partial(self._skip, kind.values))
            case Union():
                self._branches([partial(self._skip, branch) for branch in kind.branches])
            case Record():
                self._skip_record(kind)

    def _skip_record(self, kind: Record) -> None:
        if any(kind is outer for outer in self._open):
            reason = f"record {kind.fullname!r} contains itself, which batches cannot pass over; read it row by row (Codec.decode)"
            raise SchemaError(self._path, reason)
        self._open.append(kind)
        for member in kind.fields:
            with self._in(member_path(self._path, member.name)):
                self._skip(member.type)
        self._open.pop()

    def _skip_bytes(self, size: int) -> None:
        last = len(self._code) - o.WIDTH
        if last >= self._label and self._code[last] == o.SKIP_FIXED:
            self._code[last + 2] += size
        elif size:
            self._emit(o.SKIP_FIXED, 0, size)

    def _pass_items(self, constant: int | None, item_bytes: int, pass_item: Callable[[], None]) -> None:
        if constant is not None:
            self._emit(o.SKIP_ARRAY_FIXED, 0, min(constant, _ITEM_BYTES_MAX))
            return
        with self._blocks(o.SKIP_BLOCK, self._counting_scope(), item_bytes):
            pass_item()

    def _pass_entries(self, value_bytes: int, pass_value: Callable[[], None]) -> None:
        with self._blocks(o.SKIP_BLOCK, self._counting_scope(), 1 + value_bytes):
            self._emit(o.SKIP_BYTES)
            pass_value()

    def _counting_scope(self) -> int:
        """A scope without buffers, for a loop that keeps nothing."""
        self._builder.scope_count += 1
        return self._builder.scope_count - 1

    def _refuse(self, step: Refuse) -> None:
        self._emit(o.REFUSE, len(self._reasons))
        self._reasons.append(step.reason)


# -- sizes --------------------------------------------------------------------------------------------------------------------------


def _copied_bytes(step: Step) -> int | None:
    """Bytes of an item that lies in the row just as its column wants it, so that whole blocks are copied; None for others."""
    match step:
        case ReadPrimitive("float", Primitive("float")):
            return 4
        case ReadPrimitive("double", Primitive("double")):
            return 8
        case ReadFixed(target) if target.size and is_copied(target):
            return target.size
    return None


def _constant_bytes(step: Step) -> int | None:
    """Bytes of a value whose size is always the same; None for others."""
    match step:
        case ReadPrimitive():
            return _constant_wire_bytes(Primitive(step.wire))
        case ReadFixed():
            return step.target.size
        case WrapUnion():
            return _constant_bytes(step.inner)
    return None


def _constant_wire_bytes(kind: Type) -> int | None:
    match kind:
        case Primitive():
            return _CONSTANT_BYTES.get(kind.kind)
        case Fixed():
            return kind.size
    return None


def _is_optional(step: ReadUnion, null: int) -> bool:
    """Whether the writer's two branches are a null for the reader's null and something else for the other."""
    if sorted(step.targets) != [0, 1]:
        return False
    source = step.branches[step.targets.index(null)]
    return isinstance(source, ReadPrimitive) and source.wire == "null"
