"""Commands: what a container runs, with the words in braces of its spec filled in.

All but three of the words are known when the objects are written. A pod learns its own name from Kubernetes, as FONDACO_POD, and the rest
follows from that name: {address} is the name and the service's domain, {index} is what follows the last "-" of it, {shard} is that modulo
shards. {address} needs nothing but Kubernetes, which writes a variable where a text says $(FONDACO_POD). For {index} and {shard} the
container starts through /bin/sh, which counts and then becomes the command:

    set -- "${FONDACO_POD##*-}"; set -- "$1" "$(($1 % 2))"
    export LABEL='part '"$2"
    exec 'python3' '-m' 'serve' '--shard' "$2"'/2'

Everything that is not ours stands in single quotes, so no text of a spec is ever read by the shell. Kubernetes itself reads $(NAME) and $$
in commands and variables: every $ that it is not meant to read is written $$ (Kubernetes API reference, Container v1).

Pure; any thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from fondaco.adapters.kubernetes.place import PORT_FIRST, Place, pod_name
from fondaco.core.errors import InputError
from fondaco.services.provisioner import Desired
from fondaco.services.spec import ServiceSpec
from fondaco.services.words import pieces

POD: Final = "FONDACO_POD"
_TEXT_BYTES_MAX: Final = 131_071  # MAX_ARG_STRLEN (execve(2)); also of a variable, with its name
_SHELL: Final = {"pod": f'"${POD}"', "index": '"$1"', "shard": '"$2"'}


class Own(NamedTuple):
    """What only the pod itself knows: "pod" (its name), "index", "shard"."""

    what: str


Text = list[str | Own]


class Start(NamedTuple):
    """How a container starts: `command` as the pod's spec has it, and the variables that are set there rather than by the command."""

    command: list[str]
    variables: dict[str, str]


def port_numbers(spec: ServiceSpec) -> dict[str, int]:
    """The port numbers, in the order of the spec; those that it leaves open are 7080 and following."""
    taken = {number for number in spec.ports.values() if number is not None}
    free = (number for number in range(PORT_FIRST, 65536) if number not in taken)
    return {name: next(free) if number is None else number for name, number in spec.ports.items()}


def endpoints_of(service: str, spec: ServiceSpec, replicas: int, place: Place) -> dict[str, tuple[str, ...]]:
    """Per port, "host:port" of all instances in order."""
    hosts = [place.host(service, pod_name(service, index)) for index in range(replicas)]
    return {name: tuple(f"{host}:{number}" for host in hosts) for name, number in port_numbers(spec).items()}


def start_of(desired: Desired, place: Place) -> Start:
    """How the main container starts.

    Raises:
        InputError: a variable needs the shell, and the command is the image's own, which nobody here knows.
    """
    spec = desired.spec
    values = _values(desired, place)
    command = [_parsed(text, values) for text in spec.command]
    variables = {name: _parsed(text, values) for name, text in spec.env.items()}
    in_shell = {name: text for name, text in variables.items() if _needs_shell(text)}
    if in_shell and not command:
        name = next(iter(in_shell))
        raise InputError(f"env.{name}: {spec.env[name]!r} is known only when an instance starts, through its command: say `command` too")
    if in_shell or any(_needs_shell(text) for text in command):
        started = _through_shell(command, spec.shards, in_shell)
    else:
        started = [_written(text) for text in command]
    _check_length("command", started)
    _check_length("env", [f"{name}={_written(text)}" for name, text in variables.items()])
    return Start(started, {name: _written(text) for name, text in variables.items() if name not in in_shell})


def probe_of(desired: Desired, place: Place) -> list[str]:
    """The command of the readiness check. Kubernetes writes no variables of its own into probes, so a pod's name needs the shell too."""
    values = _values(desired, place)
    command = [_parsed(text, values) for text in desired.spec.readiness.command]
    if any(isinstance(piece, Own) for text in command for piece in text):
        return _through_shell(command, desired.spec.shards, {})
    return [_written(text) for text in command]


def _check_length(path: str, texts: Sequence[str]) -> None:
    for text in texts:
        if (size := len(text.replace("$$", "$").encode())) > _TEXT_BYTES_MAX:
            raise InputError(
                f"{path}: {size} bytes, filled in, are more than Linux takes in one argument ({_TEXT_BYTES_MAX}): let instances find each "
                "other by name (instance i is at {name}-i.{name}), rather than name {endpoints}"
            )


def depends_on_replicas(spec: ServiceSpec) -> bool:
    """Whether instances must start anew when their number changes, because they are told of it."""
    return not _words(spec).isdisjoint({"replicas", "endpoints"})


def uses_directory(spec: ServiceSpec) -> bool:
    """Whether instances see the platform's directory."""
    return spec.source is not None or "directory" in _words(spec)


def _words(spec: ServiceSpec) -> set[str]:
    """Of what instances are told, without the names of ports."""
    texts = [*spec.command, *spec.env.values(), *spec.readiness.command]
    return {word.partition(".")[0] for text in texts for _, word in pieces(text) if word is not None}


def literal(text: str) -> str:
    """A text as Kubernetes must be told it, so that it reads nothing in it."""
    return text.replace("$", "$$")


# -- texts ----------------------------------------------------------------------------------------------------------------------------


def _values(desired: Desired, place: Place) -> dict[str, Text]:
    spec, service = desired.spec, desired.service
    numbers, endpoints = port_numbers(spec), endpoints_of(service, spec, desired.replicas, place)
    suffix = place.host_suffix(service)
    values: dict[str, Text] = {
        "python": [place.python], "directory": [place.directory], "name": [service], "replicas": [str(desired.replicas)],
        "shards": [str(spec.shards)], "host": ["0.0.0.0"], "index": [Own("index")], "shard": [Own("shard")],
    }  # fmt: skip
    for place_in_order, (name, number) in enumerate(numbers.items()):
        of_port: dict[str, Text] = {
            "port": [str(number)], "endpoints": [",".join(endpoints[name])], "address": [Own("pod"), f"{suffix}:{number}"],
        }  # fmt: skip
        values |= {f"{word}.{name}": text for word, text in of_port.items()}
        if place_in_order == 0:
            values |= of_port
    return values


def _parsed(text: str, values: Mapping[str, Text]) -> Text:
    parsed: Text = []
    for before, word in pieces(text):
        for piece in [before, *(values[word] if word is not None else [])]:
            if isinstance(piece, str) and parsed and isinstance(parsed[-1], str):
                parsed[-1] += piece
            elif piece:
                parsed.append(piece)
    return parsed


def _needs_shell(text: Text) -> bool:
    return any(isinstance(piece, Own) and piece.what != "pod" for piece in text)


def _written(text: Text) -> str:
    return "".join(f"$({POD})" if isinstance(piece, Own) else literal(piece) for piece in text)


def _through_shell(command: Sequence[Text], shards: int, variables: Mapping[str, Text]) -> list[str]:
    lines = [f'set -- "${{{POD}##*-}}"; set -- "$1" "$(($1 % {shards}))"']
    lines += [f"export {name}={_quoted(text)}" for name, text in variables.items()]
    lines += ["exec " + " ".join(map(_quoted, command))]
    return ["/bin/sh", "-c", literal("\n".join(lines))]


def _quoted(text: Text) -> str:
    return "".join(_SHELL[piece.what] if isinstance(piece, Own) else "'" + piece.replace("'", "'\\''") + "'" for piece in text) or "''"
