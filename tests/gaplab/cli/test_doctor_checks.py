"""Each check of `gaplab doctor` with made-up facts, and its facts from this machine."""

import os
import socket
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from gaplab.cli.doctor import cluster, folder, ledger, mounts, postgres
from gaplab.cli.doctor.cluster import Access, check_access
from gaplab.cli.doctor.finding import Finding
from gaplab.cli.doctor.folder import Folder, check_folder
from gaplab.cli.doctor.hosts import is_loopback
from gaplab.cli.doctor.ledger import Sqlite, check_sqlite, ledger_findings
from gaplab.cli.doctor.machine import Machine, check_machine, this_machine
from gaplab.cli.doctor.ports import check_ports
from gaplab.cli.doctor.postgres import Postgres, check_postgres
from gaplab.cli.doctor.sockets import Listener, Process, listeners, parse
from gaplab.cli.doctor.tracking import check_tracking
from gaplab.cli.doctor.versions import HOLES, PACKAGES, check_versions, installed, wanted
from gaplab.ledger import Ledger
from gaplab.ledger.migrate import HEAD, VERSION_TABLE

SOUND = Machine((3, 12, 1), date(2026, 1, 1), "CUDA 13.0", True, "/dev/nvidia0", 8, None)
HOME = Path("/data/home")
GIB = 2**30


def levels(found: list[Finding]) -> dict[str, str]:
    """Of checks that occur once."""
    assert len({each.check for each in found}) == len(found)
    return {each.check: each.level for each in found}


def bad(found: list[Finding]) -> list[str]:
    """The lines that aren't ok; each says what to do."""
    assert all(each.remedy for each in found if each.level != "ok")
    return [str(each) for each in found if each.level != "ok"]


def test_a_line_says_level_check_what_and_remedy() -> None:
    assert str(Finding("ok", "disk", "much")) == "ok      disk: much"
    assert str(Finding("problem", "disk", "full", "free some")) == "problem disk: full; free some"


# Versions


@pytest.mark.parametrize("hole", HOLES, ids=lambda hole: hole.advisory)
def test_a_version_with_a_known_hole_is_a_problem(hole) -> None:
    before = Version(hole.good)
    older = f"{before.major}.{before.minor - 1}" if before.minor else f"{before.major - 1}.9"
    [found] = check_versions({hole.package: older}, {})
    assert found.level == "problem"
    assert hole.advisory in found.what
    newest = max((h.good for h in HOLES if h.package == hole.package), key=Version)
    assert found.remedy == f"install {newest} or newer"
    assert check_versions({hole.package: newest}, {}) == [Finding("ok", hole.package, newest)]
    [patched] = check_versions({hole.package: hole.good}, {})
    assert hole.advisory not in patched.what


def test_holes_are_of_packages_that_are_looked_at_and_named_once() -> None:
    assert {hole.package for hole in HOLES} <= set(PACKAGES)
    assert len({hole.advisory for hole in HOLES}) == len(HOLES)
    assert all(hole.advisory.startswith("CVE-") for hole in HOLES)


def test_local_builds_pre_releases_minimums_and_absence() -> None:
    asked = {"torch": SpecifierSet(">=2.13")}
    assert levels(check_versions({"torch": "2.13.0+cu130"}, asked)) == {"torch": "ok"}
    assert levels(check_versions({"torch": "2.12.0"}, asked)) == {"torch": "warn"}
    assert levels(check_versions({"mlflow": "3.17.2rc1"}, {})) == {"mlflow": "problem"}
    [gone] = check_versions({"ray": None}, {})
    assert str(gone) == "problem ray: not installed; pip install gaplab again"


def test_what_is_installed_here_is_what_gaplab_asks_for() -> None:
    asked = wanted()
    assert {"torch", "ray", "mlflow", "pillow", "pyyaml"} <= set(asked)
    assert "timm" not in asked
    assert bad(check_versions(installed(), asked)) == []


# Machine


def test_a_sound_machine() -> None:
    assert bad(check_machine(SOUND)) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"accelerator": "", "works": False},
            "warn    GPU: /dev/nvidia0 is here, but PyTorch is a",
        ),
        ({"works": False}, "problem GPU: /dev/nvidia0 is here and PyTorch is built for CUDA 13.0,"),
        ({"threads": "64"}, "warn    OMP_NUM_THREADS: 64 threads a process, on 8 cores"),
        ({"threads": "0"}, "problem OMP_NUM_THREADS: '0' is no number"),
        ({"threads": "many"}, "problem OMP_NUM_THREADS: 'many' is no number"),
        ({"threads": ""}, "problem OMP_NUM_THREADS: '' is no number"),
        ({"today": date(2028, 11, 1)}, "warn    Python: 3.12.1, without security fixes since"),
    ],
)
def test_what_can_be_wrong_with_a_machine(change, line) -> None:
    [found] = bad(check_machine(replace(SOUND, **change)))
    assert found.startswith(line)


def test_no_gpu_is_no_fault() -> None:
    for accelerator in ("", "CUDA 13.0"):
        none = replace(SOUND, gpu="", works=False, accelerator=accelerator)
        assert bad(check_machine(none)) == []


def test_this_machine_is_what_python_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    here = this_machine()
    assert here.threads == "3"
    assert here.cores == len(os.sched_getaffinity(0))


# Home folder


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"exists": False}, []),
        ({"writable": False}, ["problem home: /data/home can't be written"]),
        ({"free": 5 * GIB}, ["warn    disk: 5.0 GiB are free"]),
        ({"free": GIB // 2}, ["problem disk: 0.5 GiB are free"]),
        ({"mode": 0o755}, []),
        ({"mode": 0o775}, ["warn    home folder: its group may change"]),
        ({"mode": 0o1777}, ["problem home folder: everybody may change"]),
        ({"files": {"ray.token": 0o600, "ledger.db": 0o644}}, []),
        (
            {"files": {"ray.token": 0o644}},
            ["problem token: /data/home/ray.token is open to others"],
        ),
        (
            {"files": {"ray.token": 0o640}},
            ["problem token: /data/home/ray.token is open to others"],
        ),
        ({"files": {"ledger.db": 0o666}}, ["problem ledger.db: everybody may change"]),
        ({"files": {"mlflow.db": 0o664}}, ["warn    mlflow.db: its group may change"]),
    ],
)
def test_what_can_be_wrong_with_a_home_folder(changes, lines) -> None:
    found = bad(check_folder(replace(Folder(HOME, True, True, 50 * GIB), **changes)))
    assert len(found) == len(lines)
    assert all(f.startswith(line) for f, line in zip(found, lines, strict=True))


def test_a_real_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    (tmp_path / "ray.token").write_text("x")
    (tmp_path / "ray.token").chmod(0o644)
    here = folder.look(tmp_path)
    assert (here.exists, here.writable, here.mode, here.files) == (
        True,
        True,
        0o750,
        {"ray.token": 0o644},
    )
    assert levels(check_folder(here))["token"] == "problem"
    away = folder.look(tmp_path / "a" / "b")
    assert (away.exists, away.writable) == (False, True)
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    assert levels(check_folder(folder.look(tmp_path / "file")))["home"] == "problem"


# Ledger

MOUNTS = (
    "/dev/sda1 / ext4 rw 0 0\n"
    "server:/home /home nfs4 rw 0 0\n"
    "tmpfs /home/me/fast tmpfs rw 0 0\n"
    "//nas/x /mnt/with\\040space cifs rw 0 0\n"
    "overlay / overlay rw 0 0\n"
)


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
    assert mounts.filesystem(Path(path), MOUNTS) == kind


def test_file_systems_here() -> None:
    assert mounts.filesystem(Path("/proc/self"), mounts.mounted()) == "proc"
    assert mounts.filesystem(Path("/x"), "") == ""


def test_what_can_be_wrong_with_a_file() -> None:
    sound = Sqlite(HOME / "ledger.db", True, "ext4", HEAD)
    assert bad(check_sqlite(sound)) == []
    assert bad(check_sqlite(replace(sound, exists=False, version=None, kind=""))) == []
    older = check_sqlite(replace(sound, version="0001"))
    assert bad(older) == []
    assert f"the next command upgrades it to {HEAD}" in older[0].what
    [newer] = bad(check_sqlite(replace(sound, version="9999")))
    assert newer.endswith(f"knows up to {HEAD}; upgrade gaplab")
    [shared] = bad(check_sqlite(replace(sound, kind="nfs4")))
    assert shared.startswith("problem ledger's disk: SQLite on nfs4")
    [broken] = bad(check_sqlite(replace(sound, error="file is not a database")))
    assert broken.startswith("problem ledger: /data/home/ledger.db: file is not a database")


def test_real_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAPLAB_LEDGER", raising=False)
    path = tmp_path / "ledger.db"
    assert not ledger.look(path).exists
    assert bad(ledger_findings(tmp_path)) == []
    assert not path.exists()
    Ledger.open(f"sqlite:///{path}").close()
    assert ledger.look(path).version == HEAD
    assert levels(ledger_findings(tmp_path))["ledger"] == "ok"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    assert levels(ledger_findings(tmp_path))["ledger"] == "problem"
    path.write_bytes(b"this is no database, " * 100)
    assert "not a database" in ledger.look(path).error
    monkeypatch.setenv("GAPLAB_LEDGER", f"sqlite:///{tmp_path}/other.db")
    assert "other.db is not there yet" in ledger_findings(tmp_path)[0].what
    with closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.execute("VACUUM")
    assert "other.db is empty" in ledger_findings(tmp_path)[0].what
    monkeypatch.setenv("GAPLAB_LEDGER", "mysql://host/x")
    assert levels(ledger_findings(tmp_path)) == {"ledger": "problem"}


REMOTE = Postgres("db.example", password=False, sslmode="verify-full", tls=True, version=HEAD)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"password": True}, ["warn    ledger's password: GAPLAB_LEDGER holds a password"]),
        ({"tls": False}, ["problem ledger's encryption: the connection to db.example is not"]),
        ({"host": "127.0.0.1,db.example", "tls": False}, ["problem ledger's encryption: "]),
        ({"sslmode": "require"}, ["warn    ledger's encryption: TLS, but sslmode=require"]),
        ({"host": "", "tls": False}, []),
        ({"host": "/run/postgresql", "tls": False}, []),
        ({"host": "localhost", "tls": False, "sslmode": "prefer"}, []),
        ({"skew": 6.0}, ["warn    ledger's clock: 6.0 s ahead of this machine's"]),
        ({"skew": -90.0}, ["warn    ledger's clock: 90.0 s behind this machine's"]),
        ({"version": None}, []),
        ({"version": "9999"}, ["problem ledger: PostgreSQL at db.example is of version 9999"]),
        (
            {"error": "connection refused", "password": True},
            ["warn    ledger's password: ", "problem ledger: PostgreSQL at db.example: connection"],
        ),
    ],
)
def test_what_can_be_wrong_with_postgresql(changes, lines) -> None:
    found = bad(check_postgres(replace(REMOTE, **changes)))
    assert len(found) == len(lines)
    assert all(f.startswith(line) for f, line in zip(found, lines, strict=True))


def test_a_real_postgresql(
    postgres_schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = postgres.look(postgres_schema)
    assert here.error == ""
    assert abs(here.skew) < 60
    assert here.sslmode == "prefer"
    monkeypatch.setenv("GAPLAB_LEDGER", postgres_schema)
    before = levels(ledger_findings(tmp_path))
    assert before["ledger"] == "ok"
    assert postgres.look(postgres_schema).version == here.version, "it made tables"


def test_a_postgresql_that_is_not_there_keeps_its_password_to_itself() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"postgresql+psycopg://me:hunter2hunter2@127.0.0.1:{free.getsockname()[1]}/x"
        here = postgres.look(url)
    assert here.password
    assert here.error
    assert "hunter2" not in "".join(map(str, check_postgres(here)))
    assert postgres.look("postgresql://[").error


# Ray

GUARDED = Access("head:6379", "head:6379", True, "token", "/secret/token", 0o600)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, []),
        ({"auth": "TOKEN"}, []),
        ({"answers": False}, ["problem Ray: head:6379: nobody answers there"]),
        ({"auth": "disabled"}, ["problem Ray's token: RAY_AUTH_MODE=disabled"]),
        ({"auth": ""}, ["warn    Ray's token: RAY_AUTH_MODE is unset"]),
        ({"auth": "", "token": "", "bits": None}, ["problem Ray's token: no token"]),
        ({"token": "", "bits": None}, ["problem Ray's token: no token"]),
        ({"token": "RAY_AUTH_TOKEN", "bits": None}, []),
        ({"bits": 0o644}, ["problem Ray's token file: /secret/token is open to others"]),
        ({"address": "auto", "target": ""}, ["problem Ray: --address auto finds no cluster"]),
        ({"target": "http://head:8265"}, ["warn    Ray's encryption: http://head:8265 takes"]),
        ({"target": "http://127.0.0.1:8265"}, []),
        ({"target": "https://head:8265"}, []),
        ({"address": "local", "auth": "disabled", "token": "", "bits": None}, []),
    ],
)
def test_what_can_be_wrong_with_access_to_ray(changes, lines) -> None:
    found = bad(check_access(replace(GUARDED, **changes)))
    assert len(found) == len(lines)
    assert all(f.startswith(line) for f, line in zip(found, lines, strict=True))


def test_a_real_address_and_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "t"
    path.write_text("x")
    path.chmod(0o640)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        environ = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
        expected = Access(address, address, True, "token", str(path), 0o640)
        assert cluster.look(address, environ) == expected
        assert cluster.look(f"http://{address}", {}).answers
        auto = cluster.look("auto", {"RAY_ADDRESS": address})
        assert (auto.target, auto.answers) == (address, True)
    assert not cluster.look(address, {}).answers
    for wrong in ("not an address", "http://[", "host:port", ""):
        assert not cluster.look(wrong, {}).answers


def test_auto_and_tokens_are_found_where_ray_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path / ".ray" / "auth_token"
    assert cluster.look("local", {}) == Access("local", "local", False, "", "", None)
    own.parent.mkdir()
    own.write_text("x")
    own.chmod(0o600)
    assert cluster.look("local", {}).token == str(own)
    assert cluster.look("local", {"RAY_AUTH_TOKEN": "x"}).token == "RAY_AUTH_TOKEN"
    (tmp_path / "ray").mkdir()
    assert cluster.look("auto", {"RAY_TMPDIR": str(tmp_path)}).target == ""
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1\n")
    assert cluster.look("auto", {"RAY_TMPDIR": str(tmp_path)}).target == "127.0.0.1:1"


# Ports

GCS = Process("gcs_server", ("gcs_server",), "")
DASHBOARD = Process("python", ("python", "/x/ray/dashboard/dashboard.py", "--host=0"), "token")
MLFLOW = Process("python", ("python", "-m", "uvicorn", "mlflow.server.fastapi_app:app"), "")
OTHER = Process("nginx", ("nginx",), "")


@pytest.mark.parametrize(
    ("listener", "line"),
    [
        (
            Listener("::", 35719, GCS),
            "problem ports: Ray's GCS is open to other machines at [::]:3",
        ),
        (Listener("10.0.0.3", 8265, DASHBOARD), "warn    ports: Ray's dashboard is open to other"),
        (
            Listener("::", 39333, Process("raylet", (), "token")),
            "warn    ports: Ray's node is open to other machines at [::]:39333; a token guards it",
        ),
        (Listener("0.0.0.0", 7000, MLFLOW), "problem ports: MLflow is open to other machines at 0"),
        (Listener("0.0.0.0", 5000, None), "warn    ports: 0.0.0.0:5000, the usual port of MLflow,"),
        (
            Listener("0.0.0.0", 10001, OTHER),
            "warn    ports: 0.0.0.0:10001, the usual port of Ray's",
        ),
        (Listener("0.0.0.0", 5000, OTHER), "warn    ports: 0.0.0.0:5000, the usual port of MLflow"),
        (
            Listener("0.0.0.0", 6379, None),
            "warn    ports: 0.0.0.0:6379, the usual port of Ray's GCS",
        ),
        (Listener("0.0.0.0", 8080, OTHER), ""),
        (Listener("0.0.0.0", 8080, None), ""),
        (Listener("127.0.0.1", 5000, MLFLOW), ""),
        (Listener("::ffff:127.0.0.1", 6379, GCS), ""),
        (Listener("::1", 8265, DASHBOARD), ""),
    ],
)
def test_which_ports_are_told(listener: Listener, line: str) -> None:
    [found] = check_ports([listener, Listener("0.0.0.0", 22, None)])
    assert (found.level == "ok") == (not line)
    assert str(found).startswith(line)


def test_the_ports_of_one_program_are_one_line() -> None:
    [found] = check_ports([Listener("::", 2, GCS), Listener("0.0.0.0", 1, GCS)])
    assert "at 0.0.0.0:1, [::]:2;" in str(found)
    assert len(check_ports([Listener("::", 2, GCS), Listener("::", 7, MLFLOW)])) == 2
    assert levels(check_ports([])) == {"ports": "ok"}
    assert levels(check_ports(None)) == {"ports": "warn"}


def test_the_kernels_tables() -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid inode\n"
    rest = "00000000:00000000 00:00000000 00000000     0        0 {} 1 0 100 0 0 10 0\n"
    table = (
        head
        + "   0: 0100007F:1388 00000000:0000 0A " + rest.format(11)
        + "   1: 020200C0:18EB 00000000:0000 0A " + rest.format(12)
        + "   2: 0100007F:1388 0100007F:BFA2 01 " + rest.format(13)
        + "   3: 0000000000000000FFFF00000100007F:1 00000000000000000000000000000000:0 0A "
        + rest.format(14)
        + "   4: 00000000000000000000000001000000:2 00000000000000000000000000000000:0 0A "
        + rest.format(15)
    )  # fmt: skip
    hosts = [("127.0.0.1", 5000, "11"), ("192.0.2.2", 6379, "12")]
    hosts += [("::ffff:7f00:1", 1, "14"), ("::1", 2, "15")]
    found = list(parse(table))
    assert [each[1:] for each in found] == [each[1:] for each in hosts]
    assert [is_loopback(each[0]) for each in found] == [True, False, True, True]
    assert found[1][0] == "192.0.2.2"
    assert list(parse(head)) == []


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


def test_a_real_socket_is_found_with_its_process(tmp_path: Path) -> None:
    with socket.socket() as wide, socket.socket(socket.AF_INET6) as six:
        wide.bind(("0.0.0.0", 0))
        six.bind(("::1", 0))
        ports = {"0.0.0.0": wide.getsockname()[1], "::1": six.getsockname()[1]}
        for each in (wide, six):
            each.listen()
        found = listeners()
        assert found is not None
        mine = {each.host: each for each in found if each.port == ports.get(each.host)}
        assert set(mine) == set(ports)
        for each in mine.values():
            assert each.process is not None
            assert each.process.name == Path("/proc/self/comm").read_text().strip()
    assert listeners(tmp_path) is None


# MLflow


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({}, ""),
        ({"MLFLOW_TRACKING_URI": "sqlite:///own"}, ""),
        ({"MLFLOW_ALLOW_FILE_STORE": "false"}, ""),
        ({"MLFLOW_ALLOW_FILE_STORE": "true"}, "warn    MLflow: MLFLOW_ALLOW_FILE_STORE allows"),
        ({"MLFLOW_TRACKING_URI": "http://me:pw@x"}, "warn    MLflow: MLFLOW_TRACKING_URI is not"),
    ],
)
def test_settings_of_mlflow(environ: dict[str, str], line: str) -> None:
    [found] = check_tracking(environ, "sqlite:///own")
    assert str(found).startswith(line or "ok")
    assert "pw" not in str(found)
