"""MLflow's web server as a child process, for the mirror in one home folder."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from gaplab.errors import UserError
from gaplab.mirror import guard
from gaplab.mirror.database import exclusive_access
from gaplab.mirror.environment import WORKING_DIRECTORY, clean_environment, last_line
from gaplab.storage.home import Home

_HOST = "127.0.0.1"
_START_SECONDS = 120.0  # until the server must answer; it takes about ten


@contextmanager
def running_server(home: Home, port: int) -> Iterator[str]:
    """Serve MLflow's pages for `home` on this machine only, while the context is active.

    The output of the server goes to mlflow-server.log in the home folder. When the context ends, or
    this process in whatever way, the server and all its processes are stopped.

    Yields:
        The base URL of the server.

    Raises:
        UserError: the port is in use, or the server does not start.
    """
    _check_port(port)
    with exclusive_access(home):
        pass  # creates the database if there is none
    log = home.path / "mlflow-server.log"
    process = _start(home, port, log)
    try:
        base_url = f"http://{_HOST}:{port}"
        _wait_until_ready(process, base_url, log)
        yield base_url
    finally:
        _stop(process)


def _check_port(port: int) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
        except OSError as error:
            raise UserError(
                f"--port {port}: can't be used ({error.strerror}); choose another --port"
            ) from error


def _start(home: Home, port: int, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-P", guard.__file__, *_command(home, port)],
            cwd=WORKING_DIRECTORY,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group to stop; it does not receive Ctrl-C
        )


def _command(home: Home, port: int) -> list[str]:
    artifacts = home.mlflow_artifacts.as_uri()
    command = [sys.executable, "-P", "-m", "mlflow", "server"]
    command += ["--backend-store-uri", home.mlflow_uri]
    command += ["--artifacts-destination", artifacts]
    return [*command, "--host", _HOST, "--port", str(port), "--workers", "1"]


def _wait_until_ready(process: subprocess.Popen[bytes], base_url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _answers(f"{base_url}/health"):
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            what = "ended at once" if ended else f"doesn't answer after {_START_SECONDS:g} s"
            why = last_line(log.read_text(errors="replace"))
            raise UserError(f"MLflow's server {what}: {why:.300}; its log is {log}")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let the guard stop the server; it does so, too, if this process ends meanwhile."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait()
