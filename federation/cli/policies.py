"""`brhub policy show` and `brhub hub policy`: in which order jobs start, who may hold how much, what hubs give on what terms.

Deliberately not here: how a policy is written (`federation/app/policyfile.py`, `federation/policy/share.py`), and other
tables (`tables.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from federation.cli.session import say, session_of

if TYPE_CHECKING:
    from rich.table import Table

    from federation.v1 import hub_pb2

POLICY_ID = "policy"
ORDERS = {"age": "first come, first served", "short_first": "small and short jobs ahead, within limits"}
BACKFILL = {
    "conservative": "nobody who was promised a start is delayed by those that come later",
    "easy": "only the first at each agent is not delayed by those that come later",
    "none": "nobody is promised a start: whoever fits, goes",
}


def register(app: typer.Typer) -> None:
    """Add the noun of this module."""
    noun = typer.Typer(no_args_is_help=True, help="The planner's policy: order, backfill, weights, quotas.")
    noun.command("show")(show)
    app.add_typer(noun, name="policy")


def show(context: typer.Context) -> None:
    """Show the planner's policy in force.

    Order, backfill, fairness, weights, quotas.
    """
    from federation.cli.show import document, print_one, print_table

    session = session_of(context)
    with session.client() as client:
        policy = client.get_policy()
    if not session.for_people:
        print_one({"id": POLICY_ID, **document(policy)}, session.form)
        return
    print_table(_terms(policy))
    for table in (_weights(policy.weights), _quotas(policy.quotas)):
        if table.row_count:
            print()
            print_table(table)
    if not policy.quotas:
        say("no quotas: anybody may hold any amount")
    if policy.shipped:
        say("as shipped; [scheduling] policy in control.toml names a file that changes it")
    say("what each hub offers, and on what terms: brhub hub policy")


def show_hubs(
    context: typer.Context,
    hub_id: Annotated[str, typer.Argument(metavar="[HUB]", help="Only this hub.")] = "",
) -> None:
    """Show what hubs offer, and on what terms.

    Their share policies, as far as hubs tell them.
    """
    from federation.cli.show import print_many, print_one

    session = session_of(context)
    with session.client() as client:
        hubs = [client.get_hub(hub_id)] if hub_id else client.list_hubs()
    table = _share_policies(hubs) if session.for_people else None
    documents = [_share_document(hub) for hub in hubs]
    if hub_id:
        print_one(documents[0], session.form, table)
    else:
        print_many(documents, session.form, table)
    if session.for_people:
        say("whom a hub takes is in its own policy file alone; a job that it refuses is told why: brhub job explain ID")


def _terms(policy: hub_pb2.Policy) -> Table:
    from federation.cli.show import duration
    from federation.cli.tables import plain, table

    made = table(["RULE", "IN FORCE", "+WHAT IT MEANS"])
    promised = f"after {duration(policy.promise_after_ms)}" if policy.promise_after_ms else "at once"
    at_each = f"; at most {policy.reservations} at each agent" if policy.reservations else ""
    gain, cap = f"{policy.contribution_gain:g}", f"{policy.contribution_cap:g}"
    for name, value, meaning in (
        ("within a user", policy.within_user, ORDERS.get(policy.within_user, "")),
        ("backfill", policy.backfill, BACKFILL.get(policy.backfill, "")),
        ("promised starts", promised, f"who has waited so long is promised a start{at_each}"),
        ("half-life", duration(policy.half_life_ms), "use of the past counts half after this long"),
        (
            "contribution",
            f"gain {gain}, cap {cap}",
            "how much weight a hub gains by giving, and up to how many average hubs' offers",
        ),
        ("a round", str(policy.placements_max), "jobs decided on at once, at most"),
        (
            "weights",
            str(len(policy.weights) or "none"),
            "who is not named has 1; twice the weight means twice the share",
        ),
        ("quotas", str(len(policy.quotas) or "none"), "how much may be held at once"),
        ("owners first", "always", "a hub's own users get its machines back from preemptible guests: brhub hub policy"),
    ):
        made.add_row(name, plain(value), plain(meaning))
    return made


def _weights(weights: Iterable[hub_pb2.Weight]) -> Table:
    from federation.cli.tables import plain, table

    made = table(["HUB", "PROJECT", "USER", ">WEIGHT"])
    for one in weights:
        made.add_row(plain(one.hub), plain(one.project) or "-", plain(one.user) or "-", f"{one.weight:g}")
    return made


def _quotas(quotas: Iterable[hub_pb2.Quota]) -> Table:
    from federation.cli.tables import amount, plain, table

    made = table(["HUB", "PROJECT", "USER", "MAY HOLD AT ONCE"])
    for one in quotas:
        most = ", ".join(f"{amount(entry)} {entry.name}" for entry in one.most)
        made.add_row(*(plain(name) or "-" for name in (one.hub, one.project, one.user)), plain(most))
    return made


def _share_policies(hubs: Iterable[hub_pb2.Hub]) -> Table:
    from federation.cli.show import duration, milli, size
    from federation.cli.tables import plain, table

    made = table(["HUB", "AGENT", ">CPU", ">MEMORY", ">GPU", ">GUESTS END IN", "TAKES LONG GUESTS", "RUNS"])
    for hub in hubs:
        for agent in hub.agents:
            made.add_row(
                plain(hub.id),
                plain(agent.agent_id),
                *(
                    _offered(agent, name, written)
                    for name, written in (("cpu", milli), ("memory", size), ("gpu", milli))
                ),
                duration(agent.reclaim_ms),
                "only preemptible" if agent.takes_back else "yes",
                plain(", ".join(agent.engines)) or "-",
            )
        if not hub.agents:
            made.add_row(plain(hub.id), "-", "-", "-", "-", "-", "-", "-")
    return made


def _offered(agent: hub_pb2.Agent, name: str, written: Any) -> str:
    has = _total(agent, "capacity", name)
    return f"{written(_total(agent, 'offered', name))} of {written(has)}" if has else "-"


def _total(agent: hub_pb2.Agent, what: str, name: str) -> int:
    return sum(entry.amount for node in agent.nodes for entry in getattr(node, what) if entry.name == name)


def _share_document(hub: hub_pb2.Hub) -> dict[str, Any]:
    """What a hub's agents say of its share policy."""
    names = ("cpu", "memory", "disk", "gpu")
    return {
        "id": hub.id,
        "agents": [
            {
                "id": f"{hub.id}/{agent.agent_id}",
                "offered": {name: _total(agent, "offered", name) for name in names},
                "capacity": {name: _total(agent, "capacity", name) for name in names},
                "reclaim_ms": agent.reclaim_ms,
                "takes_back": agent.takes_back,
                "engines": list(agent.engines),
            }
            for agent in hub.agents
        ],
    }
