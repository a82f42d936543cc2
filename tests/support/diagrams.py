"""`docs/lifecycle.md`, written from the lifecycle's tables: `python -m tests.support.diagrams`.

A picture shows what changes a state; the table beside it shows every pair. Rows that are alike are drawn as one box, so
that a picture stays readable. `tests/tidy/test_docs.py` fails while the page is not what the tables say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from federation.errors import Code
from tests.support.lifecycle_tables import MACHINES, Machine

PAGE = Path(__file__).resolve().parents[2] / "docs" / "lifecycle.md"

INTRODUCTION = """# How jobs, leases, hubs and agents move between states

Written by `python -m tests.support.diagrams` from the tables in `federation/lifecycle`; do not edit it. A picture shows
what changes a state. The table below it is the whole truth: each event against each state. **→ X** leads to X, **stays** is
heard and leaves the state as it is, a code in capitals alone is the refusal that the caller gets, and an empty cell is
refused as ILLEGAL_TRANSITION and changes nothing.
"""

ABOUT: Mapping[str, tuple[str, str]] = {
    "job": (
        "A job",
        (
            "`JOB_TABLE` in `federation/lifecycle/job.py`. Some things depend on the job's own word. A lease that is over for\n"
            "certain (LeaseExpired) leaves a `keep` job UNKNOWN, queues an idempotent one again, and ends a `stop` job FAILED.\n"
            "One that an operator releases (ReleaseForced: UNKNOWN, or its hub LOST) is queued again if it is idempotent. A\n"
            "cancel of an UNKNOWN job whose run is over for certain ends it at once. And a run that was told to make room for\n"
            "others is queued again when it ends, whatever it ended as, unless it succeeded."
        ),
    ),
    "lease": (
        "Its lease",
        (
            "`LEASE_TABLE` in `federation/lifecycle/job.py`. A job has at most one live lease, and both step together; what\n"
            "either refuses is refused. Whatever ends the attempt of the job ends the lease too."
        ),
    ),
    "hub": ("A hub", "`HUB_TABLE` in `federation/lifecycle/hub.py`. What runs at a hub goes on in both states."),
    "link": (
        "An agent's link",
        (
            "`LINK_TABLE` in `federation/lifecycle/agent.py`. SUSPECT after 60 s without a word, LOST after 10 min: both stop new\n"
            "work, and neither frees a lease."
        ),
    ),
    "session": (
        "An agent's session",
        (
            "`SESSION_TABLE` in `federation/lifecycle/agent.py`. Who may speak for an agent: its newest session. Another machine\n"
            "with the same name is let in only when the one before has been silent for 60 s."
        ),
    ),
}


def page() -> str:
    """The whole page."""
    return INTRODUCTION + "".join(_section(machine) for machine in MACHINES)


def _section(machine: Machine) -> str:
    title, about = ABOUT[machine.name]
    return f"\n## {title}\n\n{about}\n\n```mermaid\n{_picture(machine)}\n```\n\n{_table(machine)}\n"


def _picture(machine: Machine) -> str:
    """States that change, and the events that change them.

    States with equal rows that change into each other are one node; those that do not share a box, which an edge may leave.
    """
    node_of: dict[Any, str] = {}
    leaves: dict[Any, str] = {}
    lines = ["stateDiagram-v2", f"    [*] --> {machine.first}: {machine.begins}"]
    for states in _groups(machine):
        if any(target in states for state in states for target in machine.table[state].values()):
            node_of |= dict.fromkeys(states, str(states[0]))
            lines.append(f'    state "{" · ".join(states)}" as {states[0]}')
        else:
            node_of |= {state: str(state) for state in states}
            if len(states) > 1:
                leaves |= dict.fromkeys(states, "ANY")
                lines += ['    state "any of these" as ANY {', *(f"        {state}" for state in states), "    }"]
    everywhere = {event: {row.get(event) for row in machine.table.values()} for event in machine.events}
    for event, targets in everywhere.items():
        if len(targets) == 1 and targets <= set(machine.states):
            lines.append(f"    [*] --> {node_of[next(iter(targets))]}: {event}, from any state")
    edges: dict[tuple[str, str], list[str]] = {}
    for state, row in machine.table.items():
        for event, target in row.items():
            if (
                target is None
                or isinstance(target, Code)
                or node_of[target] == node_of[state]
                or len(everywhere[event]) == 1
            ):
                continue
            of_pair = edges.setdefault((leaves.get(state, node_of[state]), node_of[target]), [])
            of_pair += [event] if event not in of_pair else []
    found = [f"    {source} --> {target}: {'<br>'.join(events)}" for (source, target), events in edges.items()]
    return "\n".join([*lines, *found])


def _groups(machine: Machine) -> list[tuple[Any, ...]]:
    """States by equal rows, in the order of the states."""
    table = machine.table
    found = [tuple(other for other in machine.states if table[other] == table[state]) for state in machine.states]
    return list(dict.fromkeys(found))


def _table(machine: Machine) -> str:
    head = ["event", *machine.states]
    rows = [[event, *(_cell(machine, state, event) for state in machine.states)] for event in machine.events]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def _cell(machine: Machine, state: Any, event: Any) -> str:
    if event not in machine.table[state]:
        return " "
    target = machine.table[state][event]
    if isinstance(target, Code):
        return target.value
    return "stays" if target is None or target is state else f"→ {target}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
