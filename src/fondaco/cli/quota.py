"""`fondaco quota ...`: how much of a store a caller may use in a second."""

from __future__ import annotations

import click

import fondaco
from fondaco.cli._common import SuggestingGroup, directory_option, json_option, print_json, print_table


@click.group("quota", cls=SuggestingGroup)
def command() -> None:
    """Set and list quotas: rows a second, per store and caller."""


@command.command("set")
@click.argument("store")
@click.option("--caller", default="*", show_default=True, help="a token's name; '*' is each caller that has no quota of its own")
@click.option("--reads", type=float, metavar="ROWS", help="rows read in a second [default: no bound]")
@click.option("--writes", type=float, metavar="ROWS", help="rows written in a second [default: no bound]")
@directory_option
def set_quota(store: str, caller: str, reads: float | None, writes: float | None, directory: str) -> None:
    """Bound what callers may use of STORE ('*': every store). Without --reads and --writes, the quota is removed."""
    from fondaco.control import access

    with fondaco.open(directory, create=False) as platform:
        access.set_quota(platform, access.NewQuota(store, caller, reads, writes))
    bounds = [f"{bound:g} {what}/s" for what, bound in (("reads", reads), ("writes", writes)) if bound is not None]
    click.echo(f"{caller} on {store}: {', '.join(bounds) if bounds else 'no quota'}")


@command.command("list")
@directory_option
@json_option
def list_quotas(directory: str, as_json: bool) -> None:
    """List the quotas. The most particular one decides, as a whole."""
    from fondaco.control import access

    with fondaco.open(directory, create=False) as platform:
        listed = access.list_quotas(platform)
    if as_json:
        print_json(listed)
        return
    print_table(("store", "caller", "reads/s", "writes/s"), [(row.store, row.caller, row.reads_per_s, row.writes_per_s) for row in listed])
