"""Each check of `gaplab doctor` with made-up facts, and the facts of this machine."""

import os
import platform
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from packaging.requirements import Requirement
from sqlalchemy import make_url

from gaplab.cli.doctor.files import check_files, inspect_files
from gaplab.cli.doctor.finding import Finding
from gaplab.cli.doctor.home import HomeFolder, check_home, inspect_home
from gaplab.cli.doctor.ledger import (
    Postgres,
    Sqlite,
    check_ledger,
    check_postgres,
    check_sqlite,
    filesystem,
    inspect_postgres,
    inspect_sqlite,
    mounts,
)
from gaplab.cli.doctor.machine import Machine, check_machine, inspect_machine
from gaplab.cli.doctor.mlflow import check_mlflow
from gaplab.cli.doctor.network import Listener, check_ports, is_loopback, listeners, program
from gaplab.cli.doctor.packages import check_packages, installed
from gaplab.cli.doctor.ray import Access, check_access, inspect_access
from gaplab.launch.ray.address import RayProblem
from gaplab.ledger import Ledger
from gaplab.ledger.migrate import HEAD, VERSION_TABLE
from gaplab.records import Claim
from gaplab.storage.home import Home
from tests.builders import evaluation_record, sweep_record, trial_record

SOUND = Machine("3.12.1", "CUDA 13.0", True, "/dev/nvidia0", 8, None)
HOME = Path("/data/home")
GIB = 2**30


def levels(found: list[Finding]) -> dict[str, str]:
    """Return the level of each check; every check may occur only once."""
    assert len({each.check for each in found}) == len(found)
    return {each.check: each.level for each in found}


def bad(found: list[Finding]) -> list[str]:
    """Return the lines that are not ok; each must have a remedy."""
    assert all(each.remedy for each in found if each.level != "ok")
    return [str(each) for each in found if each.level != "ok"]


def test_a_finding_prints_level_check_what_and_remedy() -> None:
    assert str(Finding("ok", "disk", "much")) == "ok      disk: much"
    assert str(Finding("problem", "disk", "full", "free some")) == "problem disk: full; free some"


# Packages


def packages(**versions: str | None) -> list[Finding]:
    """Return findings about these versions, without the note about vulnerabilities."""
    found = check_packages({Requirement(f"{name}>=2.13,<3"): v for name, v in versions.items()})
    assert found[-1].check == "vulnerabilities"
    return found[:-1]


@pytest.mark.parametrize(
    ("version", "level"),
    [
        *(("2.13.0", "ok"), ("2.13.0+cu130", "ok"), ("2.14.0rc1", "ok"), ("2.13.0rc1", "warn")),
        *(("2.12.9", "warn"), ("3.0", "warn")),
    ],
)
def test_versions_against_a_requirement(version: str, level: str) -> None:
    assert levels(packages(torch=version)) == {"torch": level}


def test_a_package_that_is_missing_or_of_another_version() -> None:
    missing, old = packages(ray=None, torch="2.12.0")
    assert str(missing) == "problem ray: not installed; pip install 'ray<3,>=2.13'"
    assert str(old) == (
        "warn    torch: version 2.12.0, but gaplab requires <3,>=2.13; pip install 'torch<3,>=2.13'"
    )


def test_what_is_installed_here_is_what_gaplab_requires() -> None:
    here = installed()
    names = {each.name for each in here}
    assert {"torch", "ray", "mlflow", "pillow", "pyyaml"} <= names
    assert "timm" not in names
    assert bad(check_packages(here)) == []


def test_vulnerabilities_are_left_to_pip_audit_on_this_environment() -> None:
    [note] = check_packages({})
    command, folder = note.what.rsplit(" ", 1)
    assert (note.level, command) == ("ok", "not checked here; run: pipx run pip-audit --path")
    assert (Path(folder) / "torch").is_dir()


# Machine


def test_a_sound_machine() -> None:
    assert bad(check_machine(SOUND)) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"accelerator": "", "usable": False},
            "warn    GPU: /dev/nvidia0 exists, but PyTorch is a CPU-only build",
        ),
        (
            {"usable": False},
            "problem GPU: /dev/nvidia0 exists and PyTorch is built for CUDA 13.0, but PyTorch",
        ),
        ({"threads": "64"}, "warn    OMP_NUM_THREADS: 64 threads per process on 8 cores"),
        ({"threads": "0"}, "problem OMP_NUM_THREADS: '0' is not a number"),
        ({"threads": "many"}, "problem OMP_NUM_THREADS: 'many' is not a number"),
        ({"threads": ""}, "problem OMP_NUM_THREADS: '' is not a number"),
    ],
)
def test_what_can_be_wrong_with_a_machine(change: dict[str, Any], line: str) -> None:
    [found] = bad(check_machine(replace(SOUND, **change)))
    assert found.startswith(line)


def test_a_machine_without_a_gpu_is_ok() -> None:
    for accelerator in ("", "CUDA 13.0"):
        none = replace(SOUND, gpu="", usable=False, accelerator=accelerator)
        assert bad(check_machine(none)) == []


def test_the_facts_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    here = inspect_machine()
    assert here.python == sys.version.split()[0] == platform.python_version()
    assert here.threads == "3"
    assert here.cores == len(os.sched_getaffinity(0))


# Home folder


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"exists": False}, []),
        ({"error": "--home /x: is a file; give a folder"}, ["problem home: --home /x: is a file"]),
        ({"writable": False, "exists": False}, ["problem home: you cannot write to /data/home"]),
        ({"writable": False}, ["warn    home: you cannot write to /data/home"]),
        ({"free": 5 * GIB}, ["warn    disk: 5.0 GiB free"]),
        ({"free": GIB // 2}, ["problem disk: 0.5 GiB free"]),
        ({"mode": 0o755}, []),
        ({"mode": 0o775}, ["warn    home folder: the group can write to /data/home (mode 0775)"]),
        ({"mode": 0o1777}, ["problem home folder: every user can write to /data/home (mode 1777)"]),
        ({"files": {"ray.token": 0o600, "ledger.db": 0o644}}, []),
        (
            {"files": {"ray.token": 0o644}},
            ["problem token: other users can access /data/home/ray.token"],
        ),
        (
            {"files": {"ray.token": 0o640}},
            ["problem token: other users can access /data/home/ray.token"],
        ),
        ({"files": {"ledger.db": 0o666}}, ["problem ledger.db: every user can write to"]),
        ({"files": {"mlflow.db": 0o664}}, ["warn    mlflow.db: the group can write to"]),
    ],
)
def test_what_can_be_wrong_with_a_home_folder(changes: dict[str, Any], lines: list[str]) -> None:
    found = bad(check_home(replace(HomeFolder(HOME, True, True, 50 * GIB), **changes)))
    assert len(found) == len(lines)
    assert all(f.startswith(line) for f, line in zip(found, lines, strict=True))


def test_the_facts_of_a_real_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    (tmp_path / "ray.token").write_text("x")
    (tmp_path / "ray.token").chmod(0o644)
    here = inspect_home(Home(tmp_path))
    assert (here.exists, here.writable, here.mode, here.files) == (
        True,
        True,
        0o750,
        {"ray.token": 0o644},
    )
    assert levels(check_home(here))["token"] == "problem"
    away = inspect_home(Home(tmp_path / "a" / "b"))
    assert (away.exists, away.writable) == (False, True)
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    assert levels(check_home(inspect_home(Home(tmp_path / "file"))))["home"] == "problem"


# Ledger

MOUNTS = [
    (Path("/"), "ext4"),
    (Path("/home"), "nfs4"),
    (Path("/home/me/fast"), "tmpfs"),
    (Path("/mnt/with space"), "cifs"),
    (Path("/"), "overlay"),
]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/ledger.db", "overlay"),
        ("/home/me/ledger.db", "nfs4"),
        ("/home/me/fast/ledger.db", "tmpfs"),
        ("/homework/ledger.db", "overlay"),
        ("/mnt/with space/x", "cifs"),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str) -> None:
    assert filesystem(Path(path), MOUNTS) == kind


def test_the_file_systems_of_this_machine() -> None:
    assert filesystem(Path("/proc/self"), mounts()) == "proc"
    assert filesystem(Path("/x"), []) == ""


def test_what_can_be_wrong_with_a_sqlite_file() -> None:
    sound = Sqlite(HOME / "ledger.db", True, "ext4", HEAD)
    assert bad(check_sqlite(sound)) == []
    assert bad(check_sqlite(replace(sound, exists=False, version=None, filesystem=""))) == []
    older = check_sqlite(replace(sound, version="0001"))
    assert bad(older) == []
    assert f"`gaplab upgrade` upgrades it to {HEAD}" in older[0].what
    [newer] = bad(check_sqlite(replace(sound, version="9999")))
    assert newer.endswith(f"supports only up to {HEAD}; upgrade gaplab")
    [shared] = bad(check_sqlite(replace(sound, filesystem="nfs4")))
    assert shared.startswith("problem ledger's disk: SQLite can lose data on nfs4")
    [broken] = bad(check_sqlite(replace(sound, error="file is not a database")))
    assert broken.startswith("problem ledger: /data/home/ledger.db: file is not a database")


def test_the_facts_of_real_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAPLAB_LEDGER", raising=False)
    path = tmp_path / "ledger.db"
    assert not inspect_sqlite(path).exists
    assert bad(check_ledger(Home(tmp_path))) == []
    assert not path.exists()
    Ledger.open(f"sqlite:///{path}").close()
    assert inspect_sqlite(path).version == HEAD
    assert levels(check_ledger(Home(tmp_path)))["ledger"] == "ok"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    assert levels(check_ledger(Home(tmp_path)))["ledger"] == "problem"
    path.write_bytes(b"this is no database, " * 100)
    assert "not a database" in inspect_sqlite(path).error
    monkeypatch.setenv("GAPLAB_LEDGER", f"sqlite:///{tmp_path}/other.db")
    assert "other.db does not exist yet" in check_ledger(Home(tmp_path))[0].what
    with closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.execute("VACUUM")
    assert "other.db is empty" in check_ledger(Home(tmp_path))[0].what
    monkeypatch.setenv("GAPLAB_LEDGER", "mysql://host/x")
    assert levels(check_ledger(Home(tmp_path))) == {"ledger": "problem"}


def test_files_that_the_ledger_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAPLAB_LEDGER", raising=False)
    home = Home(tmp_path)
    assert check_files(inspect_files(home)) == []
    candidates, matches = "trials/t1/candidates", "trials/t1/matches"
    with Ledger.open(home.ledger_url) as ledger:
        ledger.add_sweep(sweep_record("s1", trial_record("t1")))
        attempt = ledger.start_attempt(Claim("t1", "s1"))
        ledger.record(evaluation_record(candidates=candidates, matches=matches), attempt)
        ledger.record(evaluation_record(epoch=2, candidates="s3://bucket/x"), attempt)
    [lost] = check_files(inspect_files(home))
    assert str(lost).startswith(f"problem files: 2 of 2 are not in {tmp_path}: trials/t1/candid")
    (tmp_path / candidates).mkdir(parents=True)
    [lost] = check_files(inspect_files(home))
    assert str(lost).startswith(f"problem files: 1 of 2 are not in {tmp_path}: trials/t1/matches;")
    monkeypatch.setenv("GAPLAB_LEDGER", home.ledger_url)
    assert levels(check_files(inspect_files(home))) == {"files": "warn"}
    (tmp_path / matches).touch()
    assert levels(check_files(inspect_files(home))) == {"files": "ok"}


REMOTE = Postgres("db.example", password=False, sslmode="verify-full", tls=True, version=HEAD)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"password": True}, ["warn    ledger's password: GAPLAB_LEDGER contains a password"]),
        ({"tls": False}, ["problem ledger's encryption: the connection to db.example is not"]),
        ({"host": "127.0.0.1,db.example", "tls": False}, ["problem ledger's encryption: "]),
        ({"sslmode": "require"}, ["warn    ledger's encryption: TLS, but sslmode=require"]),
        ({"host": "", "tls": False}, []),
        ({"host": "/run/postgresql", "tls": False}, []),
        ({"host": "localhost", "tls": False, "sslmode": "prefer"}, []),
        ({"skew": 6.0}, ["warn    ledger's clock: 6.0 s ahead of this machine's clock"]),
        ({"skew": -90.0}, ["warn    ledger's clock: 90.0 s behind this machine's clock"]),
        ({"version": None}, []),
        ({"version": "9999"}, ["problem ledger: PostgreSQL at db.example has schema version 9999"]),
        (
            {"error": "connection refused", "password": True},
            ["warn    ledger's password: ", "problem ledger: PostgreSQL at db.example: connection"],
        ),
    ],
)
def test_what_can_be_wrong_with_postgresql(changes: dict[str, Any], lines: list[str]) -> None:
    found = bad(check_postgres(replace(REMOTE, **changes)))
    assert len(found) == len(lines)
    assert all(f.startswith(line) for f, line in zip(found, lines, strict=True))


def test_the_facts_of_a_real_postgresql(
    postgres_schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = time.time()
    here = inspect_postgres(postgres_schema)
    assert here.error == ""
    assert abs(here.skew) <= 60 + time.time() - before
    assert here.sslmode == "prefer"
    monkeypatch.setenv("GAPLAB_LEDGER", postgres_schema)
    assert levels(check_ledger(Home(tmp_path)))["ledger"] == "ok"
    assert inspect_postgres(postgres_schema).version is None, "it must not create tables"
    Ledger.open(postgres_schema).close()
    assert inspect_postgres(postgres_schema).version == HEAD


def test_the_host_of_postgresql_may_come_from_the_environment(
    postgres_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url(postgres_schema)
    host = url.host or url.query["host"]
    monkeypatch.setenv("PGHOST", str(host))
    if url.port is not None:
        monkeypatch.setenv("PGPORT", str(url.port))
    short = url.difference_update_query(["host"]).set(host="", port=None)
    assert str(host) not in short.render_as_string()
    assert inspect_postgres(short.render_as_string(hide_password=False)).host == host


def test_an_unreachable_postgresql_does_not_show_its_password() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"postgresql+psycopg://me:hunter2hunter2@127.0.0.1:{free.getsockname()[1]}/x"
        here = inspect_postgres(url)
    assert here.password
    assert here.error
    assert "hunter2" not in "".join(map(str, check_postgres(here)))
    assert inspect_postgres("postgresql://127.0.0.1:1/x?nonsense=1").error


# Ray

GUARDED = Access("head:6379", "head:6379", (), "token", "/secret/token", 0o600)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"auth_mode": "TOKEN"}, []),
        (
            {"problems": (RayProblem("cannot connect", "start it"),)},
            ["problem Ray: head:6379: cannot connect; start it"],
        ),
        ({"auth_mode": "disabled"}, ["problem Ray's token: RAY_AUTH_MODE=disabled"]),
        ({"auth_mode": ""}, ["warn    Ray's token: RAY_AUTH_MODE is not set"]),
        ({"auth_mode": "", "token": "", "mode": None}, ["problem Ray's token: no token found"]),
        ({"token": "", "mode": None}, ["problem Ray's token: no token found"]),
        ({"token": "RAY_AUTH_TOKEN", "mode": None}, []),
        ({"mode": 0o644}, ["problem Ray's token file: other users can access /secret/token"]),
        ({"address": "auto", "target": ""}, ["problem Ray: --address auto finds no cluster"]),
        (
            {"target": "http://head:8265"},
            ["warn    Ray's encryption: the token goes to http://head:8265"],
        ),
        ({"target": "http://127.0.0.1:8265"}, []),
        ({"target": "https://head:8265"}, []),
        ({"address": "local", "auth_mode": "disabled", "token": "", "mode": None}, []),
        (
            {"address": "local", "problems": (RayProblem("full", "free some"),)},
            ["problem Ray: full; free some"],
        ),
    ],
)
def test_what_can_be_wrong_with_access_to_ray(changes: dict[str, Any], lines: list[str]) -> None:
    found = bad(check_access(replace(GUARDED, **changes)))
    assert len(found) == len(lines)
    assert all(f.startswith(line) for f, line in zip(found, lines, strict=True))


def test_the_facts_of_a_real_address_and_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "t"
    path.write_text("x")
    path.chmod(0o640)
    environ = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    with socket.socket() as bound:  # nobody listens
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        here = inspect_access(address, environ)
        assert (here.auth_mode, here.token, here.mode) == ("token", str(path), 0o640)
        auto = inspect_access("auto", {"RAY_ADDRESS": address})
        assert (auto.target, auto.problems) == (address, here.problems)
        dashboard = inspect_access(f"http://{address}", {})
    for access in (here, auto, dashboard):
        assert access.problems[0].what == "can't connect (Connection refused)"


@pytest.mark.parametrize("address", ["", "not an address", "http://[", "ray://head:1", ":6379"])
def test_addresses_that_cannot_be_used_are_problems(address: str) -> None:
    found = check_access(inspect_access(address, {}))
    assert levels(found)["Ray"] == "problem"


def test_auto_and_tokens_are_found_where_ray_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path / ".ray" / "auth_token"
    assert inspect_access("local", {}) == Access("local", "local", (), "", "", None)
    own.parent.mkdir()
    own.write_text("x")
    own.chmod(0o600)
    assert inspect_access("local", {}).token == str(own)
    assert inspect_access("local", {"RAY_AUTH_TOKEN": "x"}).token == "RAY_AUTH_TOKEN"
    (tmp_path / "ray").mkdir()
    assert inspect_access("auto", {"RAY_TMPDIR": str(tmp_path)}).target == ""
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1\n")
    assert inspect_access("auto", {"RAY_TMPDIR": str(tmp_path)}).target == "127.0.0.1:1"


# Ports

GCS, NODE, DASHBOARD, MLFLOW = "Ray's GCS", "Ray's node", "Ray's dashboard", "MLflow"


@pytest.mark.parametrize(
    ("name", "command", "kind"),
    [
        ("gcs_server", ["/x/gcs_server", "--port=1"], GCS),
        ("raylet", [], NODE),
        ("python", ["python", "/x/ray/dashboard/dashboard.py", "--host=0"], DASHBOARD),
        ("python", ["python", "-m", "uvicorn", "mlflow.server.fastapi_app:app"], MLFLOW),
        ("python", ["python", "-m", "mlflow", "server"], MLFLOW),
        ("python", ["python", "-m", "mlflowish"], ""),
        ("nginx", ["nginx"], ""),
    ],
)
def test_programs_are_recognised(name: str, command: list[str], kind: str) -> None:
    assert program(name, command) == kind


@pytest.mark.parametrize(
    ("listener", "line"),
    [
        (
            Listener("::", 35719, 1, GCS),
            "problem ports: Ray's GCS is open to other machines at [::]:3",
        ),
        (
            Listener("10.0.0.3", 8265, 1, DASHBOARD, "token"),
            "warn    ports: Ray's dashboard is open to other",
        ),
        (
            Listener("::", 39333, 1, NODE, "token"),
            "warn    ports: Ray's node is open to other machines at [::]:39333; a token protects",
        ),
        (
            Listener("0.0.0.0", 7000, 1, MLFLOW),
            "problem ports: MLflow is open to other machines at 0",
        ),
        (Listener("0.0.0.0", 5000), "warn    ports: 0.0.0.0:5000, the usual port of MLflow,"),
        (
            Listener("0.0.0.0", 10001, 1),
            "warn    ports: 0.0.0.0:10001, the usual port of Ray's",
        ),
        (Listener("0.0.0.0", 5000, 1), "warn    ports: 0.0.0.0:5000, the usual port of MLflow"),
        (Listener("0.0.0.0", 6379), "warn    ports: 0.0.0.0:6379, the usual port of Ray's GCS"),
        (Listener("0.0.0.0", 8080, 1), ""),
        (Listener("0.0.0.0", 8080), ""),
        (Listener("127.0.0.1", 5000, 1, MLFLOW), ""),
        (Listener("::ffff:127.0.0.1", 6379, 1, GCS), ""),
        (Listener("::1", 8265, 1, DASHBOARD), ""),
    ],
)
def test_which_ports_are_reported(listener: Listener, line: str) -> None:
    [found] = check_ports([listener, Listener("0.0.0.0", 22)])
    assert (found.level == "ok") == (not line)
    assert str(found).startswith(line)


def test_one_line_per_program() -> None:
    [found] = check_ports([Listener("::", 2, 1, GCS), Listener("0.0.0.0", 1, 1, GCS)])
    assert "at 0.0.0.0:1, [::]:2;" in str(found)
    assert len(check_ports([Listener("::", 2, 1, GCS), Listener("::", 7, 2, MLFLOW)])) == 2
    assert levels(check_ports([])) == {"ports": "ok"}
    assert levels(check_ports(None)) == {"ports": "warn"}


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *(("127.3.2.1", True), ("::1", True), ("[::1]", True), ("localhost", True), ("", True)),
        *(("/run/x", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False)),
        *(("localhost.example", False), ("::ffff:10.0.0.1", False)),
    ],
)
def test_loopback(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_a_real_socket_is_found_with_its_process() -> None:
    with socket.socket() as wide, socket.socket(socket.AF_INET6) as six:
        wide.bind(("0.0.0.0", 0))
        six.bind(("::1", 0))
        for each in (wide, six):
            each.listen()
        mine = {(str(each), each.pid) for each in listeners() or [] if each.pid == os.getpid()}
        for host, each in (("0.0.0.0", wide), ("[::1]", six)):
            assert (f"{host}:{each.getsockname()[1]}", os.getpid()) in mine


def test_a_real_program_of_ray_is_found_with_its_authentication(
    tmp_path: Path,
) -> None:
    """A stand-in for Ray's dashboard: a script at the same place that listens and says where."""
    script = tmp_path / "ray" / "dashboard" / "dashboard.py"
    script.parent.mkdir(parents=True)
    script.write_text(
        "import socket, sys\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "print(listener.getsockname()[1], flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, str(script)]
    environment = os.environ | {"RAY_AUTH_MODE": "Token"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as ray:
        assert ray.stdin is not None
        assert ray.stdout is not None
        port = int(ray.stdout.readline())
        [found] = [each for each in listeners() or [] if each.port == port]
        assert found == Listener("127.0.0.1", port, ray.pid, DASHBOARD, "token")
        ray.stdin.close()


def test_a_system_that_hides_its_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> Any:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", refuse)
    assert listeners() is None


def test_processes_that_end_or_are_hidden_are_only_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(pid: int) -> Any:
        raise psutil.NoSuchProcess(pid)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(psutil, "Process", refuse)
        [found] = [each for each in listeners() or [] if each.port == port]
        assert found == Listener("127.0.0.1", port, os.getpid())


# MLflow


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({}, ""),
        ({"MLFLOW_TRACKING_URI": "sqlite:///own"}, ""),
        ({"MLFLOW_ALLOW_FILE_STORE": "false"}, ""),
        ({"MLFLOW_ALLOW_FILE_STORE": "true"}, "warn    MLflow: MLFLOW_ALLOW_FILE_STORE allows"),
        (
            {"MLFLOW_TRACKING_URI": "http://me:pw@x"},
            "warn    MLflow: MLFLOW_TRACKING_URI is ignored",
        ),
    ],
)
def test_variables_of_mlflow(environ: dict[str, str], line: str) -> None:
    [found] = check_mlflow(environ, "sqlite:///own")
    assert str(found).startswith(line or "ok")
    assert "pw" not in str(found)
