"""The AWS template against the schema that comes with Ray."""

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest

Read = Callable[[str], Any]


@pytest.fixture(scope="module")
def config(read: Read) -> Any:
    return read("cloud/aws.yaml")


@pytest.fixture(scope="module")
def schema() -> Any:
    found = find_spec("ray")
    assert found is not None
    assert found.origin is not None
    return json.loads((Path(found.origin).parent / "autoscaler" / "ray-schema.json").read_text())


def test_the_file_is_valid_under_rays_schema(config: Any, schema: Any) -> None:
    jsonschema.validate(config, schema)


def test_the_schema_rejects_unknown_keys(config: Any, schema: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config | {"idle_minutes": 1}, schema)


def test_the_head_is_on_demand_and_workers_are_spot_instances(config: Any) -> None:
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"] == {"CPU": 0}
    assert types
    for each in types.values():
        assert each["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert 0 < each["min_workers"] <= each["max_workers"] <= config["max_workers"]


def test_nodes_are_closed_to_the_internet(read: Read) -> None:
    for each in read("cloud/aws.yaml")["available_node_types"].values():
        node = each["node_config"]
        assert node["SecurityGroupIds"], "Ray's default group opens SSH to everyone"
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"])


def test_nodes_receive_the_token_as_a_file_and_require_it(config: Any) -> None:
    assert "~/.ray/auth_token" in config["file_mounts"]
    setup = " ".join(config["setup_commands"])
    assert "RAY_AUTH_MODE=token" in setup
    assert "chmod 600 ~/.ray/auth_token" in setup
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        assert command.startswith("source ~/.profile;")  # where setup_commands set RAY_AUTH_MODE


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_ray_has_the_options(
    config: Any, kind: str, check_flags: Callable[[str, str], None]
) -> None:
    command = config[f"{kind}_start_ray_commands"][-1]
    check_flags("ray start", command.partition("ray start")[2])
    if kind == "head":
        assert "--dashboard-host=127.0.0.1" in command


def test_gaplab_is_installed_at_pinned_versions(config: Any) -> None:
    installs = [c for c in config["setup_commands"] if "pip install" in c]
    assert installs
    assert all("-c ~/gaplab/constraints.txt" in command for command in installs)
    assert config["file_mounts"]["~/gaplab"] == "."


def test_the_first_line_lists_the_placeholders(cluster: Path) -> None:
    text = (cluster / "cloud" / "aws.yaml").read_text()
    assert set(re.findall(r"\b(sg|ami|fs)-0+\b", text)) == {"sg", "ami", "fs"}
    assert all(f"{kind}-" in text.splitlines()[0] for kind in ("sg", "ami", "fs"))
