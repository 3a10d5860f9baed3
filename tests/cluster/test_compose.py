"""The compose file against the parts of the Compose specification that it uses."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SERVICE = """
annotations attach build cap_add cap_drop cgroup command configs container_name cpus depends_on
deploy develop devices dns entrypoint env_file environment expose extends extra_hosts group_add
healthcheck hostname image init ipc labels logging mem_limit networks pid platform ports profiles
pull_policy read_only restart runtime secrets security_opt shm_size stdin_open stop_grace_period
stop_signal sysctls tmpfs tty ulimits user volumes working_dir
"""
HEALTH = {"test", "interval", "timeout", "retries", "start_period"}


@pytest.fixture(scope="module")
def compose(read: Callable[[str], Any]) -> Any:
    return read("compose/compose.yaml")


@pytest.fixture(scope="module")
def services(compose: Any) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"]
    assert found.keys() == {"postgres", "head", "worker", "mlflow"}
    return found


@pytest.fixture
def configured(cluster: Path, tmp_path: Path) -> Path:
    """A copy of the folder after setup.sh has run."""
    folder = tmp_path / "compose"
    shutil.copytree(cluster / "compose", folder, ignore=shutil.ignore_patterns("secrets", ".env"))
    subprocess.run([folder / "setup.sh"], check=True)
    return folder


def test_keys_are_in_the_specification(compose: Any, services: dict[str, Any]) -> None:
    top = {key for key in compose if not key.startswith("x-")}
    assert top == {"name", "services", "volumes", "configs", "secrets"}
    for name, service in services.items():
        assert service.keys() <= set(SERVICE.split()), name


def test_ports_are_published_on_loopback_only(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)


def test_images_have_a_version_and_no_registry(services: dict[str, Any], image: str) -> None:
    for name, service in services.items():
        repository, _, tag = service["image"].partition(":")
        assert tag not in ("", "latest"), name
        assert "." not in repository, name
        assert ("build" in service) == (service["image"] == image), name


def test_no_service_has_privileges(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"].startswith("${GAPLAB_UID:?"), name
        assert "privileged" not in service, name


def test_secrets_are_files(compose: Any, services: dict[str, Any]) -> None:
    for name, service in services.items():
        for key, value in service["environment"].items():
            if re.search("PASS|SECRET|TOKEN|KEY", key):
                assert key.endswith(("FILE", "PATH")), f"{name}: {key}"
                assert Path(value).parent == Path("/run/secrets"), f"{name}: {key}"
                assert Path(value).name in service["secrets"], f"{name}: {key}"
        assert set(service["secrets"]) <= compose["secrets"].keys(), name
    assert all(each.keys() == {"file"} for each in compose["secrets"].values())


def test_services_volumes_and_configs_are_declared(compose: Any, services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, name
            assert "healthcheck" in services[other], f"{name} waits for {other}"
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert source.startswith("./") or source in compose["volumes"], f"{name}: {mount}"
        for config in service.get("configs", []):
            assert config["source"] in compose["configs"], name


def test_every_service_has_a_health_check(services: dict[str, Any]) -> None:
    for name, service in services.items():
        check = service["healthcheck"]
        assert check.keys() <= HEALTH, name
        assert check["test"][0] == "CMD", name
        assert len(check["test"]) > 1, name


def test_ray_requires_a_token_and_workers_have_no_ledger(services: dict[str, Any]) -> None:
    for name in ("head", "worker"):
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"
        assert "ray_token" in services[name]["secrets"]
    assert "GAPLAB_LEDGER" not in services["worker"]["environment"]
    assert "pgpass" not in services["worker"]["secrets"]


def test_programs_have_the_options(
    cluster: Path, services: dict[str, Any], check_flags: Callable[[str, str], None]
) -> None:
    for name in ("head", "worker"):
        check_flags("ray start", services[name]["command"].removeprefix("ray start"))
    script = (cluster / "compose" / "mlflow.sh").read_text().replace("\\\n", " ")
    call = re.search(r"^exec mlflow server(.*)$", script, re.MULTILINE)
    assert call is not None
    check_flags("mlflow server", call[1])
    for needed in ("--app-name basic-auth", "--allowed-hosts", "--cors-allowed-origins"):
        assert needed in call[1]
    assert "*" not in call[1]


def test_setup_creates_secrets_that_only_the_owner_can_read(configured: Path, compose: Any) -> None:
    expected = {Path(each["file"]).name for each in compose["secrets"].values()}
    created = {path.name: path.read_text() for path in (configured / "secrets").iterdir()}
    assert created.keys() == expected
    assert len(set(created.values())) == len(created)
    for path in [*(configured / "secrets").iterdir(), configured / "secrets", configured / ".env"]:
        assert path.stat().st_mode & 0o077 == 0, path
    password = created["postgres_password"]
    assert created["pgpass"].strip() == f"*:5432:gaplab:gaplab:{password}"


def test_setup_keeps_existing_files(configured: Path) -> None:
    before = {p: p.read_text() for p in configured.rglob("*") if p.is_file()}
    subprocess.run([configured / "setup.sh"], check=True)
    assert {p: p.read_text() for p in configured.rglob("*") if p.is_file()} == before


def test_setup_sets_the_variables_that_the_file_requires(configured: Path) -> None:
    text = (configured / "compose.yaml").read_text()
    given = dict(line.split("=") for line in (configured / ".env").read_text().split())
    assert set(re.findall(r"\$\{(\w+):\?", text)) == {"GAPLAB_UID", "GAPLAB_GID"} < given.keys()
    assert given["GAPLAB_UID"] == str(os.getuid())


def test_git_ignores_secrets_and_results(cluster: Path) -> None:
    ignored = (cluster / "compose" / ".gitignore").read_text().split()
    assert set(ignored) == {".env", "home/", "secrets/"}


def test_configs_are_files_in_this_folder(cluster: Path, compose: Any) -> None:
    for each in compose["configs"].values():
        assert (cluster / "compose" / each["file"]).is_file()
