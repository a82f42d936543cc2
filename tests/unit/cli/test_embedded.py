"""Up and down: the files, the processes, and that `down` leaves none. Real processes, small ones."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from federation.cli import embedded, layout, processes
from federation.errors import Code, FederationError
from federation.identity.principal import PrincipalKind
from federation.identity.tokens import TokenFile
from tests.support.eventually import eventually

GIB = 2**30
STUBBORN = "import signal, threading; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); threading.Event().wait()"
PARENT = "import subprocess, sys, threading; subprocess.Popen([sys.executable, '-c', 'import threading; threading.Event().wait()'], start_new_session=True); print('up', flush=True); threading.Event().wait()"
PATIENT = "import threading; print('up', flush=True); threading.Event().wait()"


def silent(text: str) -> None:
    """Nobody listens."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A federation's folder; whatever a test leaves running in it is ended."""
    yield tmp_path
    for process in processes.marked(tmp_path):
        os.kill(process.pid, signal.SIGKILL)


def start(folder: Path, name: str, program: str) -> processes.Started:
    """Start a program and wait until it says that it is up."""
    started = processes.start(name, [sys.executable, "-c", program], folder, {})
    eventually(lambda: "up" in Path(started.log).read_text(), 30)
    return started


def test_a_started_process_is_known_again_and_ended_with_its_group(folder: Path) -> None:
    """Written down with its start, in a session of its own."""
    started = start(folder, "serve", PATIENT)
    assert processes.noted(folder) == [started]
    assert os.getpgid(started.pid) == started.pid
    assert processes.stop_all(folder, silent) == 1
    assert (processes.noted(folder), processes.marked(folder), processes.is_alive(started)) == ([], [], False)


def test_down_ends_what_nobody_wrote_down(folder: Path) -> None:
    """A grandchild in a session of its own carries the mark; a record that was lost does not matter."""
    start(folder, "hub-cairo", PARENT)
    assert len(processes.marked(folder)) == 2
    (folder / "run" / "hub-cairo.json").unlink()
    assert processes.stop_all(folder, silent) == 2
    assert processes.marked(folder) == []


def test_down_ends_what_does_not_want_to_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TERM, then KILL."""
    monkeypatch.setattr(processes, "TERM_GRACE_S", 0.2)
    start(folder, "objects", STUBBORN)
    assert processes.stop_all(folder, silent) == 1
    assert processes.marked(folder) == []


def test_down_leaves_other_federations_alone(folder: Path) -> None:
    """A folder inside the folder is another one."""
    other = folder / "other"
    start(folder, "serve", PATIENT)
    kept = start(other, "serve", PATIENT)
    processes.stop_all(folder, silent)
    assert processes.is_alive(kept)
    assert processes.stop_all(other, silent) == 1


def test_a_pid_that_was_given_to_another_is_not_ours(folder: Path) -> None:
    """The start tells them apart."""
    stranger = processes.Started("serve", os.getpid(), psutil.Process().create_time() - 100, "")
    assert not processes.is_alive(stranger)


def test_down_twice_is_harmless_and_in_an_empty_folder_too(folder: Path) -> None:
    """Nothing ran."""
    assert embedded.down(folder / "new", silent) == 0
    assert embedded.down(folder / "new", silent) == 0


def test_up_refuses_a_folder_where_a_federation_runs(folder: Path) -> None:
    """And says how to see and end it."""
    start(folder, "serve", PATIENT)
    with pytest.raises(FederationError) as caught:
        embedded.up(folder, embedded.Wanted(), silent)
    assert (caught.value.code, "brhub down" in caught.value.hint) == (Code.ILLEGAL_TRANSITION, True)


def test_up_that_fails_stops_what_it_started_and_shows_the_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The object store runs, the control plane ends at once: neither is left."""
    monkeypatch.setenv("BRHUB_CONTROL_SERVER_LISTEN", "nonsense")
    with pytest.raises(FederationError) as caught:
        embedded.up(folder, embedded.Wanted(hubs=1), silent)
    assert "serve ended" in caught.value.message
    assert "nonsense" in caught.value.message
    assert processes.marked(folder) == []


def test_the_files_say_who_and_where(folder: Path) -> None:
    """Ports are free and differ, tokens stand for whom they should, hubs share the machine, secrets are private."""
    data = folder / "data-jfk"
    data.mkdir()
    plan = layout.complete(layout.Plan(hubs=4), 17 * GIB)
    layout.write_files(folder, plan, {"cairo": ("flights-jfk", data)})
    control = tomllib.loads((folder / "control.toml").read_text())
    agent = tomllib.loads((folder / "hubs" / "cairo" / "agent.toml").read_text())
    assert plan.hub_ids == ["kuala-lumpur", "cairo", "shenzhen", "hub-4"]
    assert len(set(plan.ports.values())) == 4
    assert agent["server"] == control["server"]["listen"] == f"127.0.0.1:{plan.ports['grpc']}"
    assert agent["offer"] == {"cpus": 2.0, "memory": 4 * GIB}
    assert agent["datasets"][0]["name"] == "flights-jfk"
    tokens = TokenFile(folder / "tokens.json")
    assert tokens.lookup(agent["token"]).home_hub == "cairo"
    assert tokens.lookup(plan.tokens[layout.USER]).kind is PrincipalKind.ADMIN
    for name in ("control.toml", "tokens.json", "federation.json", "hubs/cairo/agent.toml"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_the_files_are_those_that_their_readers_take(folder: Path) -> None:
    """The control plane's and the agent's own readers, which refuse unknown keys."""
    from federation.app.settings import read_settings
    from hub_node.config import load

    plan = layout.complete(layout.Plan(hubs=1, fake=True), 8 * GIB)
    layout.write_files(folder, plan, {})
    assert read_settings(folder / "control.toml", {}).objects.access_key == plan.access_key
    agent = load(folder / "hubs" / "kuala-lumpur" / "agent.toml", {})
    assert (agent.hub_id, agent.offer.cpu_milli, agent.fake) == ("kuala-lumpur", 2000, True)


def test_the_next_up_keeps_ports_tokens_and_what_was_asked_for(folder: Path) -> None:
    """So bookmarks last, and journals belong to the same hubs."""
    first = layout.complete(layout.Plan(hubs=2, sample_data=True), 8 * GIB)
    layout.write_files(folder, first, {})
    again = layout.load_plan(folder)
    assert again is not None
    assert layout.complete(again, 8 * GIB) == first


def test_issued_tokens_survive_the_next_up(folder: Path) -> None:
    """What an operator gave out is not taken back by a restart."""
    from federation.identity.principal import Principal

    plan = layout.complete(layout.Plan(hubs=1), 8 * GIB)
    layout.write_files(folder, plan, {})
    token = TokenFile(folder / "tokens.json").issue(Principal(PrincipalKind.USER, "local", "aisha", "kuala-lumpur"))
    layout.write_files(folder, plan, {})
    assert TokenFile(folder / "tokens.json").lookup(token).subject == "aisha"


def test_what_an_operator_added_to_control_toml_survives_the_next_up(folder: Path) -> None:
    """A policy above all, counted from the file's folder; what `up` writes itself is written anew."""
    from federation.app.settings import read_settings

    plan = layout.complete(layout.Plan(hubs=1), 8 * GIB)
    layout.write_files(folder, plan, {})
    control = folder / "control.toml"
    text = control.read_text().replace("[objects]\n", '[objects]\nregion = "eu-1"\nbucket = "other"\n', 1)
    text = text.replace('bucket = "federation"\n', "", 1)
    control.write_text(text + '\n[scheduling]\npolicy = "rules/policy \\"1\\".yaml"\n')
    for _ in range(2):
        layout.write_files(folder, plan, {})
        settings = read_settings(control, {})
        assert settings.scheduling.policy == str(folder / "rules" / 'policy "1".yaml')
        assert (settings.objects.region, settings.objects.bucket) == ("eu-1", "federation")


@pytest.mark.parametrize("chosen", [False, True])
def test_tracking_that_an_operator_turned_off_stays_off(folder: Path, chosen: bool) -> None:
    """`up` proposes it where MLflow is installed; what the file says then is the operator's, over up, down and up."""
    from federation.app.settings import read_settings

    plan = layout.complete(layout.Plan(hubs=1), 8 * GIB)
    layout.write_files(folder, plan, {})
    control = folder / "control.toml"
    proposed = str(read_settings(control, {}).tracking.enabled).lower()
    control.write_text(control.read_text().replace(f"enabled = {proposed}", f"enabled = {str(chosen).lower()}"))
    for _ in range(2):
        layout.write_files(folder, plan, {})
        assert read_settings(control, {}).tracking.enabled is chosen


@pytest.mark.parametrize(
    "text",
    ["[scheduling", "policy = 'x'", "[scheduling]\npolicy = 1979-05-27", "[scheduling]\n'a b' = 1", "['a b']\nc = 1"],
)
def test_what_cannot_be_kept_is_told_and_left_as_it_is(folder: Path, text: str) -> None:
    """Rather than lost: the error names the file."""
    control = folder / "control.toml"
    control.write_text(text)
    with pytest.raises(FederationError) as caught:
        layout.write_files(folder, layout.complete(layout.Plan(hubs=1), 8 * GIB), {})
    assert (caught.value.code, str(control) in caught.value.message) == (Code.CONFIGURATION_INVALID, True)
    assert control.read_text() == text


@pytest.mark.parametrize("hubs", [0, 51])
def test_an_absurd_number_of_hubs_is_refused(hubs: int) -> None:
    """1 to 50."""
    with pytest.raises(FederationError):
        layout.complete(layout.Plan(hubs=hubs), 8 * GIB)


def test_a_damaged_state_file_is_named(folder: Path) -> None:
    """Rather than forgotten."""
    (folder / "federation.json").write_text("{")
    with pytest.raises(FederationError) as caught:
        layout.load_plan(folder)
    assert caught.value.code is Code.CONFIGURATION_INVALID


def test_toml_is_read_back_as_it_was_written() -> None:
    """Quotes, backslashes, other scripts, control characters."""
    document = {
        "plain": 'a "b" \\ \n \x7f é 北京 🚂', "number": 1.5, "truth": True, "words": ["x", "y"],
        "table": {"key": 'v"'}, "many": [{"name": "a"}, {"name": "b"}],
    }  # fmt: skip
    assert tomllib.loads(layout.toml(document)) == document


def test_the_object_store_carries_the_mark(folder: Path) -> None:
    """It is started by its own room, and found by ours."""
    layout_plan = layout.complete(layout.Plan(hubs=1), 8 * GIB)
    embedded._start_objects(folder, layout_plan)
    assert [started.name for started in processes.noted(folder)] == ["objects"]
    assert len(processes.marked(folder)) == 1
    assert processes.MARKER not in os.environ
    assert processes.ended(folder) == []
    os.kill(processes.noted(folder)[0].pid, signal.SIGKILL)
    eventually(lambda: [one.name for one in processes.ended(folder)] == ["objects"], 10, "it is seen that it has ended")
    processes.stop_all(folder, silent)
    assert processes.marked(folder) == []


def test_status_of_an_empty_folder_is_1_and_of_a_running_one_0(folder: Path) -> None:
    """From outside, as a script would ask."""
    command = [sys.executable, "-m", "federation.cli", "up", "--status", "--dir", str(folder)]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 1
    layout.write_files(folder, layout.complete(layout.Plan(hubs=1), 8 * GIB), {})
    start(folder, "serve", PATIENT)
    done = subprocess.run([*command, "-o", "json"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, '"id": "serve"' in done.stdout) == (0, True)
