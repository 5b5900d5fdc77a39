"""Login program: the program that a kubeconfig names to fetch tokens (`exec`), as the clouds have them.

A program may take long, or for ever. Nobody waits for it longer than a call may take: it goes on meanwhile, for whoever asks next, and
after a minute it is ended, with everything that it has begun. One at a time runs, however many ask. It gets no input, and no terminal: a
program that asks a person is told that there is none. Any thread; `close` ends what runs.

Source: client.authentication.k8s.io/v1, ExecCredential (v1beta1 and v1alpha1 answer the same).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final

import msgspec

from fondaco.core.errors import UnavailableError

if TYPE_CHECKING:
    from lightkube.config.kubeconfig import SingleConfig

PROGRAM_S: Final = 60.0
_SAID_MAX: Final = 500


class _Status(msgspec.Struct):
    token: str = ""


class _Credential(msgspec.Struct):
    status: _Status


class LoginProgram:
    """Tokens for one cluster."""

    def __init__(self, cluster: str, command: Sequence[str], environ: Mapping[str, str]) -> None:
        """
        Args:
            environ: beside our own.
        """
        self._who = f"the login program {command[0]!r} of cluster {cluster!r}"
        self._command, self._environ = list(command), dict(environ)
        self._lock = threading.Lock()
        self._token = ""
        self._fetching: Future[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def token(self, deadline: float) -> str:
        """A token; the one that was fetched last, as long as nobody refuses it.

        Args:
            deadline: of `time.monotonic`, until which it is waited for.
        Raises:
            UnavailableError: the program cannot be started, has failed, or has not ended by then.
        """
        with self._lock:
            if self._token:
                return self._token
            if self._fetching is None:
                self._fetching = self._begin()
            fetching = self._fetching
        begun = time.monotonic()
        try:
            return fetching.result(max(0.0, deadline - begun))
        except TimeoutError:
            waited_s = time.monotonic() - begun
            raise UnavailableError(self._who, f"it has not ended after {waited_s:.1f} s more; it may take {PROGRAM_S:.0f} s") from None

    def refused(self, token: str) -> None:
        """The server does not take it: the next who asks gets another."""
        with self._lock:
            if self._token == token:
                self._token = ""

    def close(self) -> None:
        """End what runs."""
        with self._lock:
            process, fetching = self._process, self._fetching
        if process is not None and fetching is not None:
            _end(process)
            fetching.exception(10)  # it is waited for, so that nothing of it is left

    # -- inside -------------------------------------------------------------------------------------------------------------------------

    def _begin(self) -> Future[str]:
        try:
            # a session of its own: to end it with its children, and to keep it from asking on our terminal
            process = subprocess.Popen(
                self._command,
                env=os.environ | self._environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as exc:
            raise UnavailableError(self._who, f"it cannot be started: {exc}") from exc
        self._process, fetching = process, Future[str]()
        threading.Thread(target=self._fetch, args=(process, fetching), name="fondaco-login", daemon=True).start()
        return fetching

    def _fetch(self, process: subprocess.Popen[bytes], fetching: Future[str]) -> None:
        token = ""
        failure: BaseException | None = None
        try:
            token = self._read(process)
        except BaseException as exc:  # whatever it is, those who wait are told
            failure = exc
        with self._lock:
            self._token, self._process, self._fetching = token, None, None
        if failure is None:
            fetching.set_result(token)
        else:
            fetching.set_exception(failure)

    def _read(self, process: subprocess.Popen[bytes]) -> str:
        with process:
            try:
                output, errors = process.communicate(timeout=PROGRAM_S)
            except subprocess.TimeoutExpired:
                _end(process)
                raise UnavailableError(self._who, f"it had not ended after {PROGRAM_S:.0f} s, and was ended") from None
        said = errors.decode(errors="replace").strip()[-_SAID_MAX:]
        if process.returncode != 0:
            raise UnavailableError(self._who, f"it ended with exit code {process.returncode}: {said or '(said nothing)'}")
        try:
            token = msgspec.json.decode(output, type=_Credential).status.token
        except msgspec.MsgspecError as exc:
            raise UnavailableError(self._who, f"what it printed is no ExecCredential: {exc}") from exc
        if not token.isascii() or not token.isprintable() or not token:
            raise UnavailableError(self._who, "its ExecCredential has no status.token that can be sent; certificates are not supported")
        return token


def login_program(cluster: str, config: SingleConfig) -> LoginProgram | None:
    """The login program of a context, if its user has one and neither a token nor a file with one."""
    user = config.user
    if user is None or user.exec is None or user.token is not None or user.token_file is not None:
        return None
    program = user.exec
    command = str(config.abs_file(program.command)) if os.sep in program.command else program.command  # as kubectl reads it
    told = {"apiVersion": program.apiVersion, "kind": "ExecCredential", "spec": {"interactive": False}}
    environ = {one.name: one.value for one in program.env or []} | {"KUBERNETES_EXEC_INFO": json.dumps(told)}
    return LoginProgram(cluster, [command, *(program.args or [])], environ)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it with its children."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
