"""`fondaco store ...`: create, look at and steer stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

import fondaco
from fondaco.cli._common import SuggestingGroup, directory_option, json_option, plain, print_json, print_table
from fondaco.core.clock import from_us
from fondaco.core.errors import ColumnNotFoundError, InputError
from fondaco.core.units import format_bytes


@click.group("store", cls=SuggestingGroup)
def command() -> None:
    """Create, list and steer stores: versions, swap, rollback, pushes."""


@command.command("create")
@click.argument("name")
@click.option("--key", default="long", show_default=True, help="long, int, string, bytes, or a file with an Avro schema")
@click.option("--value", required=True, help="a file with the Avro schema of the rows (.avsc), or a Parquet file to take the columns from")
@click.option("--key-column", help="with a Parquet file: the column that is the key, and so no part of the row")
@click.option("--partitions", type=click.IntRange(1, 1024), help="files of each version [default: as configured, 8]")
@click.option("--compression", type=click.Choice(["auto", "none", "zstd"]), help="[default: as configured, auto]")
@click.option("--keep", type=click.IntRange(1, 100), help="versions to keep, the current one included [default: as configured, 2]")
@directory_option
@json_option
def create(
    name: str,
    key: str,
    value: str,
    key_column: str | None,
    partitions: int | None,
    compression: str | None,
    keep: int | None,
    directory: str,
    as_json: bool,
) -> None:
    """Create store NAME."""
    settings = {"partitions": partitions, "compression": compression, "keep": keep}
    chosen: dict[str, Any] = {setting: given for setting, given in settings.items() if given is not None}
    key_schema: Any = _read_json(key) if Path(key).suffix in {".avsc", ".json"} else key
    if key_column is not None:
        key_schema = {"name": key_column, "type": key_schema}
    value_schema = _value_schema(value, key_column)
    with fondaco.open(directory) as platform:
        is_new = name not in platform.stores()
        store = platform.create_store(name, key=key_schema, value=value_schema, **chosen)
        if as_json:
            print_json(store.describe())
        else:
            done = "is created" if is_new else "was there already, created alike"
            click.echo(f"store {name!r} {done}; next: fondaco push {name} FILE")


def _read_json(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no file {path!r} to read a schema from") from None
    except ValueError as exc:
        raise InputError(f"{path} does not hold a schema in JSON: {exc}") from None


def _value_schema(path: str, key_column: str | None) -> Any:
    if Path(path).suffix != ".parquet":
        return _read_json(path)
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
    except FileNotFoundError:
        raise InputError(f"no file {path!r} to take columns from") from None
    if key_column is not None and key_column not in schema.names:
        raise ColumnNotFoundError(key_column, schema.names, path)
    dropped = key_column or "key"
    return schema.remove(schema.get_field_index(dropped)) if dropped in schema.names else schema


@command.command("list")
@directory_option
@json_option
def list_stores(directory: str, as_json: bool) -> None:
    """List the stores with their current versions."""
    with fondaco.open(directory, create=False) as platform:
        described = [platform.store(name).describe() for name in platform.stores()]
    if as_json:
        print_json(described)
        return
    columns = ("name", "key", "current", "records", "bytes")
    print_table(columns, ([_cell(column, store.get(column)) for column in columns] for store in described))


def _cell(column: str, value: Any) -> object:
    if value is None:
        return None
    if column == "bytes":
        return format_bytes(value)
    if column.endswith("_us"):
        return from_us(value).isoformat(" ", "seconds")
    if column == "key":
        return _key_text(value)
    return value if isinstance(value, (int, str)) else json.dumps(value)


def _key_text(schema: Any) -> str:
    """A key schema for people: `long`, `tailnum: string`, `origin: string, dest: string`."""
    if not isinstance(schema, dict):
        return schema if isinstance(schema, str) else json.dumps(schema)
    if schema.get("type") == "record":
        return ", ".join(map(_key_text, schema["fields"]))
    kind = schema["type"] if isinstance(schema["type"], str) else schema["type"].get("logicalType", json.dumps(schema["type"]))
    return f"{schema['name']}: {kind}" if "name" in schema else str(kind)


@command.command("show")
@click.argument("name")
@directory_option
@json_option
def show(name: str, directory: str, as_json: bool) -> None:
    """Show store NAME: its schemas and settings."""
    with fondaco.open(directory, create=False) as platform:
        description = platform.store(name).describe()
    if as_json:
        print_json(description)
        return
    for field, value in description.items():
        cell = _cell(field, value)
        click.echo(f"{field.removesuffix('_us'):14} {'' if cell is None else cell}")


@command.command("versions")
@click.argument("name")
@directory_option
@json_option
def versions(name: str, directory: str, as_json: bool) -> None:
    """List the versions of store NAME, newest last."""
    with fondaco.open(directory, create=False) as platform:
        listed = platform.store(name).versions()
    if as_json:
        print_json(listed)
        return
    rows = [
        (v.version, v.state, v.records, format_bytes(v.bytes), v.compression, v.as_of.isoformat(" ", "seconds"), v.push_id) for v in listed
    ]
    print_table(("version", "state", "records", "bytes", "compression", "as of", "push id"), rows)


@command.command("pushes")
@click.argument("name")
@directory_option
@json_option
def pushes(name: str, directory: str, as_json: bool) -> None:
    """List every push of store NAME and how it ended."""
    with fondaco.open(directory, create=False) as platform:
        listed = platform.store(name).pushes()
    if as_json:
        print_json(listed)
        return
    rows = [(p.push_id, p.version, p.state, p.records, format_bytes(p.bytes), p.compression, p.error_message) for p in listed]
    print_table(("push id", "version", "state", "records", "bytes", "compression", "error"), rows)


@command.command("swap")
@click.argument("name")
@click.argument("version", type=int)
@directory_option
def swap(name: str, version: int, directory: str) -> None:
    """Make VERSION of store NAME the current one."""
    with fondaco.open(directory, create=False) as platform:
        before = platform.store(name).current
        platform.store(name).swap(version)
    click.echo(f"{name}: current is v{version}" + (f", was v{before}" if before else ""))


@command.command("rollback")
@click.argument("name")
@directory_option
def rollback(name: str, directory: str) -> None:
    """Return store NAME to the version before."""
    with fondaco.open(directory, create=False) as platform:
        before = platform.store(name).current
        after = platform.store(name).rollback()
    click.echo(f"{name}: current is v{after}, was v{before}")


@command.command("retire")
@click.argument("name")
@click.argument("version", type=int)
@directory_option
def retire(name: str, version: int, directory: str) -> None:
    """Remove the files of VERSION of store NAME (never of the current one)."""
    with fondaco.open(directory, create=False) as platform:
        platform.store(name).retire(version)
    click.echo(f"{name}: v{version} is retired")


@command.command("kill")
@click.argument("name")
@click.argument("push_id")
@directory_option
def kill(name: str, push_id: str, directory: str) -> None:
    """Ask push PUSH_ID of store NAME, in whatever process, to stop."""
    with fondaco.open(directory, create=False) as platform:
        platform.store(name).kill(push_id)
    click.echo(f"{name}: push {push_id} will stop at its next batch")


@command.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="do not ask")
@directory_option
def delete(name: str, yes: bool, directory: str) -> None:
    """Delete store NAME with all its versions."""
    with fondaco.open(directory, create=False) as platform:
        platform.store(name)
        if not yes and not _confirmed(f"delete store {name!r} and all its versions?"):
            click.echo("nothing was deleted", err=True)
            raise SystemExit(1)
        platform.delete_store(name)
    click.echo(f"store {name!r} is deleted")


def _confirmed(question: str) -> bool:
    try:
        return click.confirm(question, err=True)
    except click.Abort as exc:
        if isinstance(exc.__context__, EOFError):  # there is nobody to ask; otherwise it was Ctrl-C
            raise InputError("nobody answered; add --yes to be asked nothing") from None
        raise


@command.command("get")
@click.argument("name")
@click.argument("key")
@click.option("--version", type=int, help="[default: the current one]")
@directory_option
def get(name: str, key: str, version: int | None, directory: str) -> None:
    """Read one row of store NAME, as JSON. KEY is a number, a text, or a JSON array or object for a record key. Absent: exit code 1."""
    with fondaco.open(directory, create=False) as platform, platform.store(name).reader() as reader:
        row = (reader if version is None else reader.at(version)).get(_parse_key(key, platform.store(name).describe()["key"]))
        if row is None:
            click.echo(f"{name} has no row for key {key}", err=True)
            raise SystemExit(1)
        print_json(plain(row))


def _parse_key(text: str, key_schema: Any) -> Any:
    kind = key_schema.get("type", key_schema) if isinstance(key_schema, dict) else key_schema
    if kind == "string":
        return text
    if kind == "bytes":
        return text.encode()
    try:
        key = json.loads(text)
        return tuple(key) if isinstance(key, list) else key
    except ValueError:
        raise InputError(f"{text!r} is no key of type {json.dumps(kind)}; write a number, or JSON for a record key") from None
