"""From a federation that ran jobs to what would have been: export a history, replay it under another policy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from federation.client import Client
from federation.client.specfile import draft_from_mapping
from tests.support.embedded_federation import EmbeddedFederation, ended

pytestmark = pytest.mark.timeout(300)

PROGRAM = "import threading\nthreading.Event().wait(0.5)\nprint('done')\n"
JOBS = 5
EVERYWHERE_SHUT = "accept: {engines: [spark]}"


def test_a_month_is_exported_and_replayed(federation: EmbeddedFederation, client: Client, tmp_path: Path) -> None:
    """Real jobs become a history; a replay gives each its run again, and a policy that shuts a hub moves them."""
    (tmp_path / "program.py").write_text(PROGRAM)
    draft = draft_from_mapping(
        {
            "engine": "command",
            "entrypoint": "program.py",
            "resources": {"cpus": 1, "memory": "128Mi"},
            "hubs": {"allow": ["cairo", "shenzhen"]},
        },
        tmp_path,
    )
    names = [client.submit(draft) for _ in range(JOBS)]
    for name in names:
        ended(client, name)

    said = federation.brhub("simulate", "--export", "month.jsonl", "-o", "json", cwd=tmp_path)
    assert said.status == 0, said.err
    assert said.document["jobs"] >= JOBS
    lines = [json.loads(line) for line in (tmp_path / "month.jsonl").read_text().splitlines()]
    jobs = {line["job"]: line for line in lines if "job" in line}
    assert set(names) <= jobs.keys()
    assert {line["hub"] for line in lines if "hub" in line} == {"cairo", "kuala-lumpur", "shenzhen"}
    assert all(jobs[name]["user"].startswith("user-") for name in names)

    (tmp_path / "shut.yaml").write_text(
        f"order: {{weights: {{hubs: {{cairo: 2}}}}}}\nhubs: {{cairo: {{{EVERYWHERE_SHUT}}}}}\n"
    )
    said = federation.brhub("simulate", "--history", "month.jsonl", "--policy", "shut.yaml", "-o", "json", cwd=tmp_path)
    assert said.status == 0, said.err
    found = said.document
    before, after = (found["federation"][when] for when in ("before", "after"))
    assert before["jobs"] == found["jobs"] >= JOBS
    assert after["jobs"] + after["still_waiting"] == found["jobs"]
    (cairo,) = [hub for hub in found["hubs"] if hub["id"] == "cairo"]
    assert cairo["after"]["cpu_used_h"] == 0 < cairo["before"]["cpu_offered_h"]
    assert found["recorded"]["jobs"] == found["jobs"]

    shown = federation.brhub("simulate", "--history", "month.jsonl", "--policy", "shut.yaml", cwd=tmp_path)
    assert shown.status == 0, shown.err
    assert "kuala-lumpur" in shown.out
    assert "In fact" in shown.out
