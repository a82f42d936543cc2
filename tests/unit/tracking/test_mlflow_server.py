"""The tracking server's life, with a program in MLflow's place that starts in milliseconds; the real one: tests/end_to_end/test_engines_tracking.py."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from federation.tracking import MlflowTracking, end_left_behind, mlflow_server
from federation.tracking.mlflow_server import read_record
from tests.support.eventually import eventually

ANSWERS = """#!{python}
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"OK")
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
CRASHES = """#!{python}
import sys
open("starts", "a").write("x")
raise SystemExit(1)
"""


def program(folder: Path, text: str) -> str:
    """A program in MLflow's place."""
    path = folder / "server.py"
    path.write_text(text.format(python=sys.executable), encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def pid_of(folder: Path) -> int:
    """The server that is written down."""
    record = read_record(folder)
    assert record is not None
    return record.pid


def test_it_starts_when_wanted_and_ends_when_closed(tmp_path: Path) -> None:
    """Nothing runs before somebody wants it; asking twice starts one; close leaves no process and no record."""
    tracking = MlflowTracking(tmp_path / "mlflow", program(tmp_path, ANSWERS))
    assert tracking.uri() == ""
    tracking.wanted()
    tracking.wanted()
    uri = eventually(lambda: tracking.uri() if tracking.up() else "", 20)
    pid = pid_of(tmp_path / "mlflow")
    assert uri.startswith("http://127.0.0.1:")
    tracking.close()
    assert tracking.uri() == ""
    assert read_record(tmp_path / "mlflow") is None
    assert eventually(lambda: not psutil.pid_exists(pid), 10)


def test_a_server_that_dies_comes_back_at_the_same_address(tmp_path: Path) -> None:
    """Jobs keep the address that they were given."""
    tracking = MlflowTracking(tmp_path / "mlflow", program(tmp_path, ANSWERS))
    tracking.wanted()
    try:
        uri = eventually(lambda: tracking.uri() if tracking.up() else "", 20)
        first = pid_of(tmp_path / "mlflow")
        os.killpg(first, signal.SIGKILL)
        assert eventually(lambda: pid_of(tmp_path / "mlflow") != first and tracking.up() and tracking.uri(), 20) == uri
    finally:
        tracking.close()


def test_a_new_control_plane_takes_up_the_server_of_the_last(tmp_path: Path) -> None:
    """A crash of the control plane cuts no job off: same process, same address."""
    name = program(tmp_path, ANSWERS)
    crashed = MlflowTracking(tmp_path / "mlflow", name)
    crashed.wanted()
    uri = eventually(lambda: crashed.uri() if crashed.up() else "", 20)
    pid = pid_of(tmp_path / "mlflow")
    new = MlflowTracking(tmp_path / "mlflow", name)
    try:
        assert eventually(lambda: new.uri() if new.up() else "", 20) == uri
        assert pid_of(tmp_path / "mlflow") == pid
    finally:
        new.close()
        crashed.close()


def test_what_a_crash_left_can_be_ended(tmp_path: Path) -> None:
    """For `brhub down`: the recorded process ends, the record goes, and a second call is harmless."""
    tracking = MlflowTracking(tmp_path / "mlflow", program(tmp_path, ANSWERS))
    tracking.wanted()
    eventually(tracking.up, 20)
    pid = pid_of(tmp_path / "mlflow")
    tracking._closing.set()  # as if the process were gone: its thread looks no more
    end_left_behind(tmp_path / "mlflow")
    end_left_behind(tmp_path / "mlflow")
    assert eventually(lambda: not psutil.pid_exists(pid), 10)
    tracking.close()


def test_somebody_elses_process_with_the_same_pid_is_left_alone(tmp_path: Path) -> None:
    """A pid counts only with its start time."""
    (tmp_path / "server.json").write_text(
        json.dumps({"pid": os.getpid(), "created_s": 1.0, "port": 1}), encoding="utf-8"
    )
    end_left_behind(tmp_path)
    assert psutil.pid_exists(os.getpid())
    assert not (tmp_path / "server.json").exists()


def test_a_record_that_makes_no_sense_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server may still run that nobody knows of any more; where there is no record there is nothing to tell."""
    assert read_record(tmp_path) is None
    assert caplog.text == ""
    (tmp_path / "server.json").write_text('{"pid": 1', encoding="ascii")
    assert read_record(tmp_path) is None
    assert "server.json cannot be read" in caplog.text


def test_a_server_that_only_crashes_is_tried_again_with_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never comes up, nobody is blocked, and it is not started in a storm."""
    monkeypatch.setattr(mlflow_server, "BACKOFF_S", (0.05, 600.0))
    tracking = MlflowTracking(tmp_path / "mlflow", program(tmp_path, CRASHES))
    tracking.wanted()
    starts = tmp_path / "mlflow" / "starts"
    try:
        assert eventually(lambda: starts.exists() and starts.read_text(encoding="ascii") == "xx", 30)
        assert eventually(lambda: tracking.uri() == "", 10)
    finally:
        tracking.close()


def test_without_mlflow_tracking_is_off_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No extra, no server, no error."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    tracking = MlflowTracking(tmp_path / "mlflow")
    tracking.wanted()
    assert tracking.uri() == ""
    tracking.close()
