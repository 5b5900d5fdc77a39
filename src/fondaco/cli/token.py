"""`fondaco token ...`: who may do what."""

from __future__ import annotations

from typing import Any

import click

import fondaco
from fondaco.cli._common import SuggestingGroup, directory_option, json_option, print_json, print_table
from fondaco.core.clock import from_us
from fondaco.core.errors import InputError


@click.group("token", cls=SuggestingGroup)
def command() -> None:
    """Make, list and revoke bearer tokens."""


@command.command("create")
@click.argument("name")
@click.option("--role", "roles", multiple=True, required=True, metavar="STORE=ROLE", help="read, write or admin; '*=admin': every store")
@click.option("--expires", metavar="DURATION", help="good for so long, as 30d [default: until revoked]")
@directory_option
@json_option
def create(name: str, roles: tuple[str, ...], expires: str | None, directory: str, as_json: bool) -> None:
    """Make token NAME and print its secret, once: only its holder has it from then on."""
    from fondaco.control.access import NewToken, create_token, describe_token

    with fondaco.open(directory) as platform:
        row, secret = create_token(platform, NewToken(name, _roles(roles), expires))
    if as_json:
        print_json({**describe_token(row, row.created_us), "secret": secret})
        return
    click.echo(secret)
    until = f"until {from_us(row.expires_us).isoformat(' ', 'seconds')}" if row.expires_us is not None else "until it is revoked"
    click.echo(f"token {name!r} is good {until}; its secret is shown only now. Use: Authorization: Bearer {secret[:8]}...", err=True)


def _roles(given: tuple[str, ...]) -> dict[str, Any]:
    roles: dict[str, str] = {}
    for one in given:
        store, separator, role = one.partition("=")
        if not separator or not store or not role:
            raise InputError(f"--role {one!r} is not of the form STORE=ROLE, as members=read or '*=admin'")
        if roles.setdefault(store, role) != role:
            raise InputError(f"--role names {store!r} twice, as {roles[store]} and as {role}; a role holds the smaller ones")
    return roles


@command.command("list")
@directory_option
@json_option
def list_tokens(directory: str, as_json: bool) -> None:
    """List every token, the revoked ones included; secrets are not kept."""
    from fondaco.control import access

    with fondaco.open(directory, create=False) as platform:
        listed = access.list_tokens(platform)
    if as_json:
        print_json(listed)
        return
    rows = [
        (row["name"], row["state"], _roles_text(row["roles"]), _moment(row["created_us"]), _moment(row["expires_us"])) for row in listed
    ]
    print_table(("name", "state", "roles", "created", "expires"), rows)


def _roles_text(roles: Any) -> str:
    return ", ".join(f"{store}={role}" for store, role in roles.items())


def _moment(us: Any) -> str | None:
    return None if us is None else from_us(us).isoformat(" ", "seconds")


@command.command("revoke")
@click.argument("name")
@directory_option
def revoke(name: str, directory: str) -> None:
    """Make token NAME good for nothing: the control API refuses it at once, data planes within about a second."""
    from fondaco.control.access import revoke_token

    with fondaco.open(directory, create=False) as platform:
        revoke_token(platform, name)
    click.echo(f"token {name!r} is revoked")
