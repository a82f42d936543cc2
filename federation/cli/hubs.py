"""`brhub hub ...`, `brhub node list`, `brhub top`, and their shortcuts `hubs`, `nodes`.

Deliberately not here: the columns (`tables.py`), the live screen (`top.py`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from federation.cli.policies import show_hubs
from federation.cli.session import now_ms, say, session_of

HubId = Annotated[str, typer.Argument(metavar="HUB", help="The hub's id.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    noun = typer.Typer(no_args_is_help=True, help="Hubs: what they offer, how they are reached.")
    noun.command("list")(list_hubs)
    noun.command("show")(show)
    noun.command("drain")(drain)
    noun.command("policy")(show_hubs)
    app.add_typer(noun, name="hub")
    node = typer.Typer(no_args_is_help=True, help="Machines.")
    node.command("list")(list_nodes)
    app.add_typer(node, name="node")
    app.command("hubs", help="The same as `hub list`.")(list_hubs)
    app.command("nodes", help="The same as `node list`.")(list_nodes)
    app.command("top")(top)


def list_hubs(context: typer.Context) -> None:
    """List hubs: capacity, link, leases."""
    from federation.cli import tables
    from federation.cli.show import hub_document, print_many

    session = session_of(context)
    with session.client() as client:
        found = client.list_hubs()
    table = tables.hubs(found, now_ms(), session.form.value == "wide") if session.for_people else None
    print_many([hub_document(hub) for hub in found], session.form, table)
    if session.for_people and not found:
        say("no hubs yet")


def show(context: typer.Context, hub_id: HubId) -> None:
    """Show one hub: its agents, machines and datasets."""
    from federation.cli import tables
    from federation.cli.show import hub_document, print_one, print_table

    session = session_of(context)
    with session.client() as client:
        hub = client.get_hub(hub_id)
    if not session.for_people:
        print_one(hub_document(hub), session.form)
        return
    print_table(tables.hub(hub, now_ms()))
    for table in (tables.nodes([hub], wide=True), tables.datasets(hub)):
        if table.row_count:
            print()
            print_table(table)


def drain(
    context: typer.Context,
    hub_id: HubId,
    undo: Annotated[bool, typer.Option("--undo", help="Take work again.")] = False,
    note: Annotated[str, typer.Option(help="Why, for the record.")] = "",
) -> None:
    """Start nothing new at a hub. What runs there goes on."""
    from federation.cli.show import enum_name, hub_document, print_one
    from federation.v1 import hub_pb2

    session = session_of(context)
    with session.client() as client:
        hub = client.drain_hub(hub_id, undo=undo, note=note)
    state = enum_name(hub_pb2.HubState.DESCRIPTOR, hub.state)
    print_one(hub_document(hub), session.form, text=f"{hub.id} {state}, {hub.leases} jobs there")


def list_nodes(context: typer.Context) -> None:
    """List machines: free, offered, load."""
    from federation.cli import tables
    from federation.cli.show import node_documents, print_many

    session = session_of(context)
    with session.client() as client:
        found = client.list_hubs()
    table = tables.nodes(found, session.form.value == "wide") if session.for_people else None
    print_many(node_documents(found), session.form, table)


def top(
    context: typer.Context,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="One look, as in a pipe.")] = False,
) -> None:
    """Watch hubs and the queue. In a pipe: one look."""
    from federation.cli.top import run

    run(session_of(context), every, once)
