"""The agent's file: what is right is read, what is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import Code, FederationError
from hub_node.config import Offer, load, parse

SMALL: dict[str, Any] = {"hub_id": "cairo", "server": "127.0.0.1:1"}


def test_whole_file_is_read(tmp_path: Path) -> None:
    """Every key of the file arrives, amounts in base units, paths relative to the file."""
    (tmp_path / "flights").mkdir()
    file = tmp_path / "agent.toml"
    file.write_text(
        """
        hub_id = "cairo"
        title = "Cairo University"
        agent_id = "rack-2"
        server = "hub.example:443"
        token = "t"
        ca = "ca.pem"
        state_dir = "state"
        engines = ["spark", "command"]
        policy_file = "share.toml"
        [offer]
        cpus = 1.5
        memory = "4Gi"
        disk = "10Gi"
        [[datasets]]
        name = "flights-jfk"
        path = "flights"
        policy = "hubs"
        readers = ["shenzhen"]
        title = "Flights"
        [spark]
        master = "spark://127.0.0.1:7077"
        """,
        encoding="utf-8",
    )
    config = load(file, {})
    assert (config.hub_id, config.agent_id, config.engines) == ("cairo", "rack-2", ("spark", "command"))
    assert config.offer == Offer(1_500, 4 * 1024**3, 10 * 1024**3)
    assert (config.state_dir, config.ca) == (tmp_path / "state", str(tmp_path / "ca.pem"))
    assert config.datasets[0].path == tmp_path / "flights"
    assert config.spark == {"master": "spark://127.0.0.1:7077"}
    assert "token" not in repr(config).replace("token=", "")


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    """BRHUB_AGENT_* replaces single values and the list of engines."""
    environ = {
        "BRHUB_AGENT_SERVER": "10.0.0.1:9",
        "BRHUB_AGENT_ENGINES": "spark, ray",
        "BRHUB_AGENT_FAKE": "true",
        "BRHUB_AGENT_TOKEN": "secret",
    }
    config = parse(SMALL | {"token": "in-the-file"}, tmp_path / "agent.toml", environ)
    assert (config.server, config.token) == ("10.0.0.1:9", "secret")
    assert config.offered_engines == ("spark", "ray", "fake")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"hub_id": "Cairo!"}, "hub_id"),
        ({"hub_id": ""}, "hub_id"),
        ({"server": 7}, "server"),
        ({"engines": "spark"}, "engines"),
        ({"engines": ["slurm"]}, "engines"),
        ({"fake": "yes"}, "fake"),
        ({"offer": {"cores": 1}}, "offer.cores"),
        ({"offer": {"cpus": -1}}, "offer.cpus"),
        ({"offer": {"memory": "much"}}, "offer.memory"),
        ({"offer": []}, "offer"),
        ({"surprise": 1}, "surprise"),
        ({"datasets": {}}, "datasets"),
        ({"datasets": [{"name": "a", "path": "/no/such/place"}]}, "datasets[0].path"),
        ({"datasets": [{"name": "A b", "path": "."}]}, "datasets[0].name"),
        ({"datasets": [{"name": "a", "path": ".", "policy": "anyone"}]}, "datasets[0].policy"),
        ({"datasets": [{"name": "a", "path": ".", "colour": 1}]}, "datasets[0].colour"),
        ({"datasets": [{"name": "a", "path": "."}, {"name": "a", "path": "."}]}, "datasets[1].name"),
    ],
)
def test_wrong_value_names_its_key(tmp_path: Path, change: dict[str, Any], key: str) -> None:
    """An operator reads which key is wrong, and nothing starts."""
    with pytest.raises(FederationError) as caught:
        parse(SMALL | change, tmp_path / "agent.toml", {})
    named = caught.value.metadata.get("key") or caught.value.metadata.get("field")
    assert named == key


@pytest.mark.parametrize("text", [None, "hub_id = ", "\xff"])
def test_unreadable_file_is_the_operators_to_mend(tmp_path: Path, text: str | None) -> None:
    """A file that is not there, or is not TOML, is named."""
    file = tmp_path / "agent.toml"
    if text is not None:
        file.write_bytes(text.encode("latin-1"))
    with pytest.raises(FederationError, match=r"agent\.toml") as caught:
        load(file, {})
    assert caught.value.code is Code.CONFIGURATION_INVALID


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(["hub_id", "server", "engines", "fake", "offer", "datasets", "spark", "title", "ca", "other"])


@given(st.dictionaries(keys, values, max_size=5))
def test_any_content_is_read_or_refused_in_words(content: dict[str, Any]) -> None:
    """No content of a file ends in anything but a configuration or a FederationError."""
    try:
        said = parse(SMALL | content, Path("/nowhere/agent.toml"), {}).hub_id
    except FederationError as error:
        said = error.message
    assert said


@pytest.mark.parametrize(
    "server", ["a.example:1,b.example:2", ["a.example:1", "b.example:2"], ["a.example:1, b.example:2", "a.example:1"]]
)
def test_several_control_planes_are_a_list_or_a_text(server: Any) -> None:
    """Each once, in their order."""
    config = parse({**SMALL, "server": server}, Path("agent.toml"), {})
    assert [one.server for one in config.link.each()] == ["a.example:1", "b.example:2"]


@pytest.mark.parametrize("server", [[], [1], [" "], ""])
def test_no_control_plane_is_refused(server: Any) -> None:
    """A list with nothing in it names none."""
    with pytest.raises(FederationError) as caught:
        parse({**SMALL, "server": server}, Path("agent.toml"), {})
    assert caught.value.code in (Code.CONFIGURATION_INVALID, Code.INVALID_ARGUMENT)
