"""Resolution: what to do with each value a writer wrote so that a reader sees its own schema. Computed once, before any byte is read.

`resolve(writer, reader)` returns a tree of *steps* in the order of the bytes. Both decoders are made from it: the generated Python one
(`rows`) and the op-code program (`program`), so resolution costs nothing when rows are read. With reader = writer it is the plain plan.
A recursive schema gives a cyclic graph of steps (a record's step is one object per pair of record types).

Source: Apache Avro 1.12.0 specification, "Schema Resolution". A union branch of the writer that the reader cannot hold is an error only
when a row uses it, as the specification asks: such a branch resolves to `Refuse`.

Where the specification leaves room, we read it so:
- Named types match when their unqualified names are equal, or the writer's full name is an alias of the reader's. `match_names=False`
  lifts this for readers whose names were invented (Arrow schemas have none).
- A reader's union: its first branch of exactly the writer's type (full name included) wins; then the first that matches by the rules,
  promotions included, and can really be resolved.
- Two *different* logical types never resolve, whatever their base types: a timestamp in milliseconds read as microseconds, a decimal at
  another scale or a vector of other numbers would change its meaning without a word. A logical type on one side only is the caller's
  choice: the reader without it gets the base value, the reader with it interprets the base value.
- Promotion keeps to the specification's table: int -> long, float, double; long -> float, double; float -> double; string <-> bytes.

`DEPTH_MAX` and `ZERO_SIZE_ITEMS_MAX` bound what any row may ask of a decoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from fondaco.core.errors import SchemaResolutionError
from fondaco.schema.declared import as_type
from fondaco.schema.defaults import default_value
from fondaco.schema.parse import branch_name
from fondaco.schema.types import Array, Enum, Fixed, Map, Named, Primitive, PrimitiveKind, Record, Type, Union

DEPTH_MAX: Final = 128  # how deep values of a recursive schema may nest, counted in records that can contain themselves
ZERO_SIZE_ITEMS_MAX: Final = 65_536  # items without bytes (null, empty records, fixed of 0) that the arrays of one row may hold together

_PROMOTIONS: Final[dict[str, tuple[str, ...]]] = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}


@dataclass(eq=False, slots=True)
class ReadPrimitive:
    """Bytes hold a `wire` value; the reader wants `target` (equal, or promoted: int -> long, float, double; string <-> bytes)."""

    wire: PrimitiveKind
    target: Primitive


@dataclass(eq=False, slots=True)
class ReadFixed:
    """`target.size` bytes as they are (decimal, uuid, duration and vectors included)."""

    target: Fixed


@dataclass(eq=False, slots=True)
class ReadEnum:
    """Writer's symbol index -> reader's; -1 where the reader has neither the symbol nor a default (an error when met)."""

    target: Enum
    index_map: tuple[int, ...]


@dataclass(eq=False, slots=True)
class ReadArray:
    """Blocks of items."""

    target: Array
    item: Step


@dataclass(eq=False, slots=True)
class ReadMap:
    """Blocks of string key, value."""

    target: Map
    value: Step


@dataclass(eq=False, slots=True)
class RecordMember:
    """One field of the writer: read it into field `reader_index`, or (None) skip it."""

    name: str
    step: Step
    reader_index: int | None


@dataclass(eq=False, slots=True)
class DefaultMember:
    """A reader's field that the writer does not have. `value` is a Python value in the form that `Codec.decode` returns."""

    reader_index: int
    value: Any


@dataclass(eq=False, slots=True)
class ReadRecord:
    """The writer's fields in the writer's order, then the reader's defaults. Filled after construction (recursion)."""

    target: Record
    members: tuple[RecordMember, ...] = ()
    defaults: tuple[DefaultMember, ...] = ()


@dataclass(eq=False, slots=True)
class ReadUnion:
    """A branch index, then that branch.

    `branches[i]` reads the writer's branch i. `targets[i]` is the reader's branch it lands in when the reader is a union (`target`),
    else `target` is the reader's plain type and every `targets[i]` is 0.
    """

    target: Type
    branches: tuple[Step, ...]
    targets: tuple[int, ...]


@dataclass(eq=False, slots=True)
class WrapUnion:
    """The writer has no union where the reader has one: read `inner`, it lands in branch `target_index`. No branch index in the bytes."""

    target: Union
    inner: Step
    target_index: int


@dataclass(eq=False, slots=True)
class Skip:
    """The writer's value of type `wire` is passed over. Only what says where it ends is checked (lengths, counts, union branches, ends of
    varints); what lies between, such as text or a date, is not looked at."""

    wire: Type


@dataclass(eq=False, slots=True)
class Refuse:
    """Meeting this value is an error: the reader has no place for it."""

    reason: str
    path: str = field(default="$")


Step = ReadPrimitive | ReadFixed | ReadEnum | ReadArray | ReadMap | ReadRecord | ReadUnion | WrapUnion | Skip | Refuse


def resolve(writer: object, reader: object = None, *, match_names: bool = True) -> Step:
    """The plan for reading rows of `writer` as `reader` (None: as they were written).

    Args:
        writer, reader: Avro schemas (dict, JSON text), `pyarrow.Schema` or `Type`.
        match_names: False for schemas whose names were invented, as those of a `pyarrow.Schema` are.
    Raises:
        SchemaResolutionError: no row of the writer, or none of a field that every row has, can be read so; `path` names the place.
    """
    written = as_type(writer)
    return Resolver(match_names).step(written, as_type(reader) if reader is not None else written, "$")


class Resolver:
    """`resolve` for several pairs of types that share their records' steps."""

    def __init__(self, match_names: bool = True) -> None:
        self._match_names = match_names
        self._records: dict[tuple[int, int], ReadRecord] = {}  # in the order in which they were met
        self._failures: dict[tuple[int, int], SchemaResolutionError] = {}  # without which unions in unions would be tried 2**depth times

    def step(self, writer: Type, reader: Type, path: str = "$") -> Step:
        """The plan for reading `writer` as `reader`; `path` is the place that an error names."""
        if isinstance(writer, Union):
            return self._from_union(writer, reader, path)
        if isinstance(reader, Union):
            index, inner = self._into_union(writer, reader, path)
            return WrapUnion(reader, inner, index)
        self._check_logical(writer, reader, path)
        match writer, reader:
            case Primitive(), Primitive() if writer.kind == reader.kind or reader.kind in _PROMOTIONS.get(writer.kind, ()):
                return ReadPrimitive(writer.kind, reader)
            case Fixed(), Fixed():
                self._check_names(writer, reader, path)
                if writer.size != reader.size:
                    raise SchemaResolutionError(path, f"fixed {reader.fullname!r} has {reader.size} bytes, the writer's has {writer.size}")
                return ReadFixed(reader)
            case Enum(), Enum():
                self._check_names(writer, reader, path)
                return _enum(writer, reader)
            case Array(), Array():
                return ReadArray(reader, self.step(writer.items, reader.items, f"{path}.items"))
            case Map(), Map():
                return ReadMap(reader, self.step(writer.values, reader.values, f"{path}.values"))
            case Record(), Record():
                self._check_names(writer, reader, path)
                return self._known_record(writer, reader, path)
        raise SchemaResolutionError(path, f"the writer's {_describe(writer)} cannot be read as {_describe(reader)}")

    # -- records ----------------------------------------------------------------------------------------------------------------

    def _known_record(self, writer: Record, reader: Record, path: str) -> ReadRecord:
        pair = (id(writer), id(reader))
        if pair in self._failures:
            raise self._failures[pair]
        if pair in self._records:
            return self._records[pair]
        step = self._records[pair] = ReadRecord(reader)
        try:
            self._fill(step, writer, reader, path)
        except SchemaResolutionError as exc:
            self._failures[pair] = exc
            raise
        return step

    def _fill(self, step: ReadRecord, writer: Record, reader: Record, path: str) -> None:
        sources = _match_fields(writer, reader)
        targets = {source: index for index, source in sources.items()}
        step.members = tuple(
            RecordMember(member.name, Skip(member.type), None)
            if index not in targets
            else RecordMember(
                member.name,
                self.step(member.type, reader.fields[targets[index]].type, f"{path}.{reader.fields[targets[index]].name}"),
                targets[index],
            )
            for index, member in enumerate(writer.fields)
        )
        defaults = []
        for index, member in enumerate(reader.fields):
            if index in sources:
                continue
            if not member.has_default:
                raise SchemaResolutionError(
                    f"{path}.{member.name}", f"the writer's {writer.fullname!r} has no such field and it has no default; give it one"
                )
            defaults.append(DefaultMember(index, default_value(member.type, member.default, f"{path}.{member.name}")))
        step.defaults = tuple(defaults)

    # -- unions -----------------------------------------------------------------------------------------------------------------

    def _from_union(self, writer: Union, reader: Type, path: str) -> ReadUnion:
        branches: list[Step] = []
        targets: list[int] = []
        for index, branch in enumerate(writer.branches):
            target = 0
            try:
                if isinstance(reader, Union):
                    target, step = self._into_union(branch, reader, f"{path}[{index}]")
                else:
                    step = self._attempt(branch, reader, f"{path}[{index}]")
            except SchemaResolutionError as exc:
                step = Refuse(exc.reason, exc.path)
            branches.append(step)
            targets.append(target)
        if all(isinstance(step, Refuse) for step in branches):
            refused = branches[0]
            raise SchemaResolutionError(path, f"no branch of the writer's union can be read as {_describe(reader)}: {_reason(refused)}")
        return ReadUnion(reader, tuple(branches), tuple(targets))

    def _into_union(self, writer: Type, reader: Union, path: str) -> tuple[int, Step]:
        """The reader's branch for a writer's plain type, and how to read it."""
        order = sorted(range(len(reader.branches)), key=lambda index: not _is_exact(writer, reader.branches[index]))
        for index in order:
            try:
                return index, self._attempt(writer, reader.branches[index], path)
            except SchemaResolutionError:
                continue
        raise SchemaResolutionError(path, f"the writer's {_describe(writer)} fits no branch of the reader's {_describe(reader)}")

    def _attempt(self, writer: Type, reader: Type, path: str) -> Step:
        """`step`, forgetting on failure the records met on the way: some may be incomplete."""
        before = len(self._records)
        try:
            return self.step(writer, reader, path)
        except SchemaResolutionError:
            while len(self._records) > before:
                self._records.popitem()
            raise

    # -- rules ------------------------------------------------------------------------------------------------------------------

    def _check_names(self, writer: Named, reader: Named, path: str) -> None:
        if not self._match_names or _simple(writer) == _simple(reader) or writer.fullname in reader.aliases:
            return
        raise SchemaResolutionError(
            path,
            f"the writer's {_describe(writer)} cannot be read as {_describe(reader)}: the names differ; "
            f"add {writer.fullname!r} to the reader's aliases if they are the same thing",
        )

    @staticmethod
    def _check_logical(writer: Type, reader: Type, path: str) -> None:
        if isinstance(writer, Primitive | Fixed) and isinstance(reader, Primitive | Fixed):
            ours, theirs = reader.logical, writer.logical
            if ours is not None and theirs is not None and ours != theirs:
                raise SchemaResolutionError(path, f"the writer's {theirs} is not the reader's {ours}; values would change their meaning")


def _match_fields(writer: Record, reader: Record) -> dict[int, int]:
    """Reader's field index -> writer's: by name first, then by the reader's aliases; each of the writer's fields is used once."""
    places = {member.name: index for index, member in enumerate(writer.fields)}
    sources = {index: places.pop(member.name) for index, member in enumerate(reader.fields) if member.name in places}
    for index, member in enumerate(reader.fields):
        if index not in sources:
            alias = next((alias for alias in member.aliases if alias in places), None)
            if alias is not None:
                sources[index] = places.pop(alias)
    return sources


def _enum(writer: Enum, reader: Enum) -> ReadEnum:
    places = {symbol: index for index, symbol in enumerate(reader.symbols)}
    fallback = places[reader.default] if reader.default is not None else -1
    return ReadEnum(reader, tuple(places.get(symbol, fallback) for symbol in writer.symbols))


def _is_exact(writer: Type, reader: Type) -> bool:
    if not isinstance(reader, type(writer)) or branch_name(writer) != branch_name(reader):
        return False
    return not isinstance(writer, Primitive | Fixed) or not isinstance(reader, Primitive | Fixed) or writer.logical == reader.logical


def _simple(named: Named) -> str:
    return named.fullname.rpartition(".")[2]


def _reason(step: Step) -> str:
    return step.reason if isinstance(step, Refuse) else ""


def _describe(kind: Type) -> str:
    match kind:
        case Primitive():
            return kind.kind if kind.logical is None else f"{kind.kind} ({kind.logical})"
        case Record() | Enum() | Fixed():
            return f"{type(kind).__name__.lower()} {kind.fullname!r}"
        case Union():
            return "union of " + ", ".join(branch_name(branch) for branch in kind.branches)
    return type(kind).__name__.lower()


def min_wire_size(kind: Type) -> int:
    """Fewest bytes that a value of `kind` takes in a row; 0 for null, an empty record, a fixed of 0 bytes and records of only such."""
    return _min_size(kind, {})


def min_step_size(step: Step) -> int:
    """Fewest bytes that `step` consumes. Decoders use it to refuse counts that the rest of the row cannot hold."""
    return _min_size(step, {})


def _min_size(node: Type | Step, known: dict[int, int]) -> int:
    match node:
        case Primitive() | ReadPrimitive():
            kind = node.kind if isinstance(node, Primitive) else node.wire
            return {"null": 0, "float": 4, "double": 8}.get(kind, 1)
        case Fixed():
            return node.size
        case ReadFixed():
            return node.target.size
        case Skip():
            return _min_size(node.wire, known)
        case WrapUnion():
            return _min_size(node.inner, known)
        case Union() | ReadUnion():
            return 1 + min(_min_size(branch, known) for branch in node.branches)
        case Record() | ReadRecord():
            if id(node) not in known:
                known[id(node)] = 0  # a record that contains itself without a way out has no values at all
                parts = [f.type for f in node.fields] if isinstance(node, Record) else [m.step for m in node.members]
                known[id(node)] = sum(_min_size(part, known) for part in parts)
            return known[id(node)]
        case Refuse():
            return 0
    return 1
