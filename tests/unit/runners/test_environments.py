"""Environments built by the real uv from wheels made here: no network is needed."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from federation.errors import Code, Fault, FederationError
from hub_node.data import environments
from hub_node.data.environment_errors import explain
from hub_node.data.environments import build, check_requirements, digest_of, trim
from hub_node.data.package_index import constraint_files, hide_passwords, uv_variables
from tests.support.eventually import eventually
from tests.support.local_wheels import wheel


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder, and a package index that holds `greeting` 1.0 and 2.0 and a `yaml` of its own."""
    index = tmp_path / "index"
    index.mkdir()
    for name, version in (("greeting", "1.0"), ("greeting", "2.0"), ("yaml", "99.0")):
        wheel(index, name, version)
    for name in ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_CACHE_DIR", "UV_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_FIND_LINKS", str(index))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    return tmp_path / "cache"


def says(python: Path, program: str) -> str:
    """What a program prints in an environment."""
    done = subprocess.run([str(python), "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_an_environment_is_built_once_and_found_again(cache: Path) -> None:
    """The second job with the same requirements gets the same interpreter, and nobody builds."""
    heard: list[str] = []
    first = build("greeting==1.0  # politely\n", cache, heard.append)
    told = len(heard)
    second = build("# another comment\ngreeting==1.0\n", cache, heard.append)
    assert first == second
    assert told > 0
    assert len(heard) == told
    assert says(first, "import greeting; print(greeting.VERSION)") == "1.0"


def test_a_jobs_packages_come_before_the_hubs_and_the_hubs_are_there(cache: Path) -> None:
    """Layered: `yaml` is the job's, `psutil` the hub's."""
    python = build("yaml==99.0", cache, lambda _: None)
    assert says(python, "import yaml, psutil; print(yaml.VERSION, psutil.Process().pid > 0)") == "99.0 True"


def test_programs_of_an_environment_still_start_after_it_was_put_in_its_place(cache: Path) -> None:
    """It is built beside its place and renamed: nothing in it may hold the old path."""
    python = build("greeting", cache, lambda _: None)
    assert says(python, "import sys; print(sys.prefix)") == str(python.parent.parent)
    assert [path.name for path in (cache / "environments").glob(".*")] == []


def test_nothing_asked_for_is_the_hubs_own_python(cache: Path) -> None:
    """Blank lines and comments ask for nothing."""
    import sys

    assert build("\n# nothing\n\n", cache, lambda _: None) == Path(sys.executable)


def test_a_package_that_does_not_exist_is_named_and_leaves_nothing(cache: Path) -> None:
    """The error is the job's, names the package and carries uv's own words; the next try starts clean."""
    with pytest.raises(FederationError) as caught:
        build("no-such-thing==1.0", cache, lambda _: None)
    assert (caught.value.code, caught.value.fault) == (Code.ENVIRONMENT_FAILED, Fault.CALLER)
    assert "no-such-thing" in caught.value.metadata["package"]
    assert "no-such-thing" in caught.value.metadata["output"]
    assert [path for path in (cache / "environments").iterdir() if path.is_dir()] == []


def test_two_jobs_at_once_build_one_environment(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first and takes what it made."""
    builds: list[Path] = []
    real = environments._build_into

    def counted(target: Path, *rest: object) -> None:
        builds.append(target)
        real(target, *rest)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(environments, "_build_into", counted)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(build("greeting", cache, lambda _: None))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 4
    assert len(builds) == 1


def test_a_wait_for_somebody_elses_build_can_be_called_off(cache: Path) -> None:
    """A revoked job does not sit behind another one's build."""
    target = cache / "environments" / digest_of(("greeting",))
    target.parent.mkdir(parents=True)
    heard: list[str] = []
    lock = target.parent / f"{target.name}.lock"
    with environments._locked(lock, heard.append, lambda: False), pytest.raises(FederationError) as caught:
        build("greeting", cache, heard.append, lambda: True)
    assert caught.value.code is Code.ENVIRONMENT_FAILED
    assert heard == ["environment, another job builds the same one"]


def test_a_build_that_is_called_off_ends_its_processes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A uv that hangs is killed with its group as soon as the job is revoked."""
    stuck = tmp_path / "uv"
    stuck.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n", encoding="utf-8")
    stuck.chmod(0o755)
    monkeypatch.setattr(environments, "find_uv", lambda: str(stuck))
    monkeypatch.setattr(environments, "_PROGRESS_EVERY_S", 0.05)
    with pytest.raises(FederationError, match="called off"):
        build("greeting", cache, lambda _: None, (tmp_path / "pid").exists)
    pid = int((tmp_path / "pid").read_text(encoding="ascii"))
    assert eventually(lambda: not Path(f"/proc/{pid}").exists(), 5)


def aged(python: Path) -> Path:
    """An environment that nobody was given for a day."""
    day_ago_s = time.time() - 86_400
    os.utime(python.parent.parent / "environment.json", (day_ago_s, day_ago_s))
    return python


def test_the_longest_unused_go_first_and_those_in_use_stay(cache: Path) -> None:
    """Trimming to nothing leaves what live runs hold, what a process names, and what was just given out."""
    old = aged(build("greeting==1.0", cache, lambda _: None))
    used = aged(build("greeting==2.0", cache, lambda _: None))
    running = aged(build("yaml", cache, lambda _: None))
    young = build("yaml\ngreeting", cache, lambda _: None)
    process = subprocess.Popen(
        [str(running), "-c", "import sys; print('up', flush=True); sys.stdin.read()"], stdin=-1, stdout=-1
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert trim(cache, [used], limit_bytes=10**12) == 0
        assert trim(cache, [used], limit_bytes=1) > 0
    finally:
        process.communicate(timeout=20)
    assert [python.exists() for python in (old, used, running, young)] == [False, True, True, True]
    assert says(build("greeting==1.0", cache, lambda _: None), "import greeting; print(greeting.VERSION)") == "1.0"


@pytest.mark.parametrize(
    "line",
    ["--index-url http://elsewhere", "-e .", "-r other.txt", "./wheel.whl", "x @ file:///etc/passwd", "/etc/passwd"],
)
def test_only_packages_may_be_named(line: str) -> None:
    """Options and local paths are refused before uv sees them."""
    with pytest.raises(FederationError) as caught:
        check_requirements(f"greeting\n{line}\n")
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_too_many_requirements_are_refused_at_the_limit() -> None:
    """1,000 are fine, 1,001 are not."""
    assert len(check_requirements("a\n" * environments.REQUIREMENT_LINES_MAX)) == environments.REQUIREMENT_LINES_MAX
    with pytest.raises(FederationError) as caught:
        check_requirements("a\n" * (environments.REQUIREMENT_LINES_MAX + 1))
    assert caught.value.code is Code.LIMIT_EXCEEDED


def test_lines_are_joined_and_comments_dropped() -> None:
    """As pip reads them."""
    assert check_requirements("a==1 \\\n --hash=sha256:00\n  # c\nb#no # yes\n") == ("a==1   --hash=sha256:00", "b#no")


@pytest.mark.parametrize(
    ("output", "package", "fault"),
    [
        ("error: Because nosuch was not found in the package registry and you require nosuch", "nosuch", Fault.CALLER),
        ("Because there is no version of pandas==99 and you require pandas==99", "pandas==99", Fault.CALLER),
        (
            "  × Failed to build `pandas==1.0.0`\n  ├─▶ The build backend returned an error",
            "pandas==1.0.0",
            Fault.CALLER,
        ),
        (
            "error: Failed to fetch: `https://me:pw@index/simple/x/`\n  error sending request",
            "https://***@index/simple/x/",
            Fault.HUB,
        ),
        ("error: Failed to install `numpy==2`\n cause: No space left on device", "numpy==2", Fault.HUB),
        ("something else entirely", "", Fault.CALLER),
    ],
)
def test_uvs_words_become_ours(output: str, package: str, fault: Fault) -> None:
    """Which package, and whether the job or the hub has to change; passwords never leave the hub."""
    error = explain(output)
    assert (error.metadata["package"], error.fault) == (package, fault)
    assert "pw" not in error.metadata["output"]


def test_pips_configuration_reaches_uv(tmp_path: Path) -> None:
    """Index, links, certificates and constraints of pip.conf, with PIP_* on top and uv's own settings above all."""
    file = tmp_path / "pip.conf"
    limits = tmp_path / "limits.txt"
    limits.touch()
    file.write_text(
        "[global]\nindex-url = http://u:p@one/simple\nextra-index-url = http://two http://three\ncert = /ca.pem\n"
        f"[install]\nfind-links = /wheels /more\nconstraint = {limits}\n",
        encoding="utf-8",
    )
    said = {"PIP_CONFIG_FILE": str(file), "XDG_CONFIG_DIRS": str(tmp_path), "PATH": "/bin"}
    found = uv_variables(said, tmp_path)
    assert found["UV_DEFAULT_INDEX"] == "http://u:p@one/simple"
    assert found["UV_INDEX"] == "http://two http://three"
    assert found["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert found["UV_FIND_LINKS"] == "/wheels,/more"
    assert found["SSL_CERT_FILE"] == "/ca.pem"
    assert constraint_files(said, tmp_path) == [limits]
    assert uv_variables({**said, "PIP_INDEX_URL": "http://four"}, tmp_path)["UV_DEFAULT_INDEX"] == "http://four"
    assert uv_variables({**said, "UV_DEFAULT_INDEX": "http://five"}, tmp_path)["UV_DEFAULT_INDEX"] == "http://five"
    assert hide_passwords(found["UV_DEFAULT_INDEX"]) == "http://***@one/simple"
