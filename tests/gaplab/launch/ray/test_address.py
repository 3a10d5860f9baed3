"""Addresses of clusters and dashboards: wrong texts, and real sockets that answer in some way."""

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaplab.launch.ray import address as module
from gaplab.launch.ray.address import (
    cluster_problem,
    dashboard_problem,
    host_and_port,
    is_loopback,
    within,
)
from gaplab.launch.ray.private import GET_CLUSTER_ID

UNKNOWN = "no-such-host.invalid"
"""A name that never resolves."""
REFUSED = "can't connect (Connection refused); start the cluster with `ray start --head`, or "
SILENT = "nothing answers within 0.05 seconds; start the cluster with `ray start --head`, or "


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait as long as a slow machine needs for an answer that comes."""
    monkeypatch.setattr(module, "SECONDS", 120.0)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def closed(stack: ExitStack) -> str:
    """A port on which nobody listens, reserved for this test."""
    bound = stack.enter_context(closing(socket.socket()))
    bound.bind(("127.0.0.1", 0))
    return "127.0.0.1:{1}".format(*bound.getsockname())


@pytest.fixture
def silent(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> str:
    """A socket that accepts connections and never answers."""
    monkeypatch.setattr(module, "SECONDS", 0.05)
    listener = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
    return "127.0.0.1:{1}".format(*listener.getsockname())


@contextmanager
def web(status: int, body: str) -> Iterator[str]:
    """A web server with one page."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/api/version" else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def rpc(service: str, code: grpc.StatusCode | None = None) -> Iterator[str]:
    """A gRPC server with one service, which succeeds or fails with `code`."""

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if code is not None:
            context.abort(code, "")
        return b""

    _, name, method = service.split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("address", "line"),
    [
        *(
            (text, "not the address of a cluster; write HOST:PORT, with the port of Ray itself")
            for text in ("", "foo", ":6379", "a:b", "a:99999", "a:0", "[::1", "a:1/x", "u@a:1")
        ),
        ("ray://head:10001", "Ray Client is not supported, because a driver must run on a node"),
        ("http://head:8265", "this is a dashboard, which `gaplab submit` needs; write HOST:PORT"),
        ("https://head", "this is a dashboard, which `gaplab submit` needs; write HOST:PORT"),
        (UNKNOWN + ":6379", "its name does not resolve ("),
        ("a..b:6379", "no host can have this name; start the cluster"),
    ],
)
def test_addresses_of_no_cluster(address: str, line: str) -> None:
    assert str(cluster_problem(address)).startswith(line)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        *(
            (text, "not a dashboard; write http://HEAD:8265")
            for text in (
                "",
                "auto",
                "head:8265",
                "http://",
                "http://head:99999",
                "http://[::1",
                "ray://h",
            )
        ),
        ("http://" + UNKNOWN + ":8265", "its name does not resolve ("),
    ],
)
def test_addresses_of_no_dashboard(url: str, line: str) -> None:
    assert str(dashboard_problem(url)).startswith(line)


def test_nobody_listens(closed: str) -> None:
    assert str(cluster_problem(closed)).startswith(REFUSED)
    assert str(dashboard_problem(f"http://{closed}")).startswith(REFUSED)


def test_nobody_answers(silent: str) -> None:
    assert str(cluster_problem(silent)).startswith(SILENT)
    assert str(dashboard_problem(f"http://{silent}")).startswith(SILENT)
    assert str(dashboard_problem(f"https://{silent}")).startswith(SILENT)


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        (200, json.dumps({"ray_version": "2.60.0"}), True),
        *((status, "", True) for status in (401, 403)),  # a token is missing: Ray says so later
        *((status, "", False) for status in (200, 404, 500)),
        *((200, body, False) for body in ("<html>", "{}", "[]", "1")),
    ],
)
def test_web_servers(status: int, body: str, found: bool) -> None:
    with web(status, body) as address:
        problem = dashboard_problem(f"http://{address}/")
        assert (problem is None) == found
        if problem is not None:
            assert problem.what == "something answers that is not Ray's dashboard"
        nothing = cluster_problem(address)
        assert nothing is not None
        assert nothing.what == "something answers that is not Ray"


@pytest.mark.parametrize(
    ("service", "code", "found"),
    [
        (GET_CLUSTER_ID, None, True),
        (GET_CLUSTER_ID, grpc.StatusCode.UNAUTHENTICATED, True),
        (GET_CLUSTER_ID, grpc.StatusCode.PERMISSION_DENIED, True),
        (GET_CLUSTER_ID, grpc.StatusCode.INTERNAL, False),
        ("/another.Service/Call", None, False),
    ],
)
def test_programs_that_use_grpc(
    service: str, code: grpc.StatusCode | None, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "Token")
    with rpc(service, code) as address:
        assert (cluster_problem(address) is None) == found
        problem = dashboard_problem(f"http://{address}")
        assert problem is not None
        assert "dashboard" in problem.remedy


@pytest.mark.parametrize("mode", [None, "", "disabled"])
def test_a_cluster_that_needs_a_token(monkeypatch: pytest.MonkeyPatch, mode: str | None) -> None:
    """Ray would retry for 20 seconds without one."""
    if mode is None:
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    else:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with rpc(GET_CLUSTER_ID, grpc.StatusCode.UNAUTHENTICATED) as address:
        problem = cluster_problem(address)
    assert problem is not None
    assert problem.what == "the cluster needs a token"
    assert "RAY_AUTH_TOKEN_PATH" in problem.remedy


def test_an_encrypted_cluster_is_left_to_ray(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 120.0)
    monkeypatch.setenv("RAY_USE_TLS", "1")
    assert cluster_problem(silent) is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        *((text, True) for text in ("127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1")),
        *(
            (text, False)
            for text in ("10.0.0.1:1", "head:1", "[2001:db8::1]:1", "", "localhost.x:1")
        ),
    ],
)
def test_addresses_of_this_machine(address: str, expected: bool) -> None:
    assert is_loopback(address) == expected


@given(st.text(), st.sampled_from(["", "http://", "ray://", "127.0.0.1:", "a:"]))
def test_any_text_is_split_or_refused(text: str, start: str) -> None:
    host, port = host_and_port(start + text)
    assert host or not port or start
    assert port is None or 0 <= port < 65536


def test_an_action_that_never_ends_is_left_behind() -> None:
    never = threading.Event()
    with pytest.raises(TimeoutError):
        within(0.01, never.wait)
    never.set()
    assert within(120, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(120, lambda: 1 // 0)
