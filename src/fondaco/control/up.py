"""Up: what `fondaco up` starts, checked before anything runs: the directory, the configuration, the addresses, the tokens.

Whatever a user can get wrong is found here, in one message, and not in the log of a process that is started again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fondaco.control.access import has_good_token
from fondaco.control.supervisor import Supervisor
from fondaco.core.errors import InputError
from fondaco.core.runfile import RunFile, run_directory
from fondaco.dataplane.binding import check_binding, check_port_free, check_tls, url_of
from fondaco.platform import Platform
from fondaco.processes.launch import command
from fondaco.processes.probes import FileProbe, HttpProbe, Probe
from fondaco.processes.process import Patience, ProcessSpec

READY_FILE = "tailer.ready"
_SELF = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # where a server that listens on every interface is asked by us


def up(
    directory: Path,
    *,
    host: str | None = None,
    port: int | None = None,
    control_port: int | None = None,
    on_ready: Callable[[RunFile], None],
    patience: Patience | None = None,
) -> None:
    """Run the servers of a platform directory until a signal; an empty or new directory becomes a platform. From the main thread.

    Args:
        host, port, control_port: default: as configured; port 0: any free one.
        on_ready: called once, when all of them are ready.
    Raises:
        InputError: a port is taken, or the address may not be listened on. StateError: the directory is up already.
        Otherwise as `Platform.open`.
    """
    with Platform.open(directory) as platform:
        config = platform.config.server
        has_tokens = has_good_token(platform)
        directory = platform.directory
    host = config.host if host is None else host
    check_binding(host, config, has_tokens=has_tokens)
    supervisor = Supervisor(directory, on_ready=on_ready, patience=patience)
    with supervisor.held():  # before the ports are looked at: who is up already has them
        ports = [
            check_port_free(host, config.port if port is None else port, "--port"),
            check_port_free(host, config.control_port if control_port is None else control_port, "--control-port"),
        ]
        if ports[0] == ports[1]:
            raise InputError(
                f"data plane and control API cannot both listen on port {ports[0]}; choose another with --port or --control-port"
            )
        tls = check_tls(config) is not None
        data, control = (url_of(host, number, tls=tls) for number in ports)
        ready_file = run_directory(directory) / READY_FILE
        ready_file.unlink(missing_ok=True)  # of a supervisor that was killed
        supervisor.run(_stages(directory, host, ports[0], ports[1], data, ready_file, tls=tls), data=data, control=control)
        ready_file.unlink(missing_ok=True)


def _stages(directory: Path, host: str, port: int, control_port: int, data: str, ready_file: Path, *, tls: bool) -> list[list[ProcessSpec]]:
    def server(name: str, module: str, number: int, *more: str) -> ProcessSpec:
        probe: Probe = HttpProbe(_SELF.get(host, host), number, tls)
        return ProcessSpec(name, command(module, str(directory), "--host", host, "--port", str(number), *more), probe)

    return [
        [
            server("data", "fondaco.dataplane.serve", port),
            server("control", "fondaco.control.serve", control_port, "--data", data),
        ],
        [ProcessSpec("tailer", command("fondaco.store.tailing", str(directory), "--ready-file", str(ready_file)), FileProbe(ready_file))],
    ]
