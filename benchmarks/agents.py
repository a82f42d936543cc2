"""What do 200 hubs cost a control plane, and what does their return after an outage?

Two hundred real agents (`hub_node`: link, journal, register, admission; the engine is the fake one) run in one process, each
with a connection of its own, and jobs of two seconds are submitted so that fifty leases a second are granted, run and
released. The control plane's CPU is what the kernel counted for its process, all threads; beside it a bare grpc.aio server
that answers as many calls a second. Then every link is cut and refused for a minute, twice: once with the control plane
alive behind a door that is shut, once with the control plane killed. An agent is back when the control plane has heard of
it again; requests are counted at the door that all agents go through, submits too.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import grpc

from benchmarks.apparatus.control_plane import Plane, laid_out
from benchmarks.apparatus.crowd import Crowd, crowd
from benchmarks.apparatus.doorway import Doorway, doorway
from benchmarks.apparatus.echo import METHOD as ECHO
from benchmarks.apparatus.people import paced
from benchmarks.apparatus.processes import Child, child
from benchmarks.figures import Baseline, Figure, Value, emit, percentile, say
from federation.v1 import hub_pb2, hub_pb2_grpc

AGENTS = 200
LEASES_PER_S = 50.0
STEADY_S, STEADY_S_QUICK = 30.0, 6.0
WARM_S, WARM_S_QUICK = 10.0, 3.0
OUTAGE_S, OUTAGE_S_QUICK = 60.0, 4.0
BACK_S_MAX = 60.0
LOOK_S = 0.25
ONLINE_S = 90.0
ENTRYPOINT = "succeeds-after-2000"


def options(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "--dir", type=Path, help="where stores and journals lie (default: the system's temporary folder)"
    )
    parser.add_argument("--agents", type=int, default=AGENTS, help=f"how many hubs, an agent each (default {AGENTS})")
    parser.add_argument("--leases", type=float, default=LEASES_PER_S, help=f"a second (default {LEASES_PER_S:g})")
    parser.add_argument("--outage", type=float, help=f"seconds (default {OUTAGE_S:g}, quick {OUTAGE_S_QUICK:g})")


@dataclass(slots=True)
class Steady:
    """What was seen while nothing was wrong."""

    cores: float
    leases_per_s: float
    requests_per_s: float


def measure(chosen: argparse.Namespace) -> None:
    """Print the figures."""
    began_s = time.monotonic()
    outage_s = chosen.outage or (OUTAGE_S_QUICK if chosen.quick else OUTAGE_S)
    with laid_out(chosen.dir) as plane, doorway(plane.target) as door:
        federation = Federation(plane, door, chosen.agents)
        federation.start()
        try:
            with crowd(plane, chosen.agents, cpus=2, target=door.target) as agents:
                federation.wait_until_back(0.0, ONLINE_S)
                ending = Event()
                people = paced(
                    Plane(plane.folder, door.target, plane.user_token, ""), chosen.leases, ENTRYPOINT, ending
                )
                seen = steady(federation, agents, chosen.quick)
                config: dict[str, Value] = {"agents": chosen.agents, "leases_per_s": round(seen.leases_per_s, 1)}
                bare = echo_cores(seen.requests_per_s, 3.0 if chosen.quick else 10.0)
                beside = Baseline("bare grpc.aio server, as many calls a second", bare)
                took_s = time.monotonic() - began_s
                more = {"requests_per_s": round(seen.requests_per_s)}
                emit(Figure("agents", "control_cpu_cores", seen.cores, "cores", "lower", beside, took_s, config | more))
                for cut in ("links", "control plane")[: 1 if chosen.quick else 2]:
                    for figure in outage(federation, cut, outage_s, seen, config):
                        emit(figure)
                ending.set()
                people.join()
        finally:
            federation.end()


class Federation:
    """The control plane behind its door, and when it heard of whom."""

    def __init__(self, plane: Plane, door: Doorway, agents: int) -> None:
        self.plane = plane
        self.door = door
        self.agents = agents
        self.process: Child | None = None

    def start(self) -> None:
        """Start the control plane, and wait until it takes calls."""
        self.process = self.plane.start()
        self.plane.serving()

    def kill(self) -> None:
        """As a crash would."""
        assert self.process is not None
        self.process.kill()

    def end(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.end()

    def wait_until_back(self, since_ms: float, timeout_s: float) -> list[float]:
        """When each agent that was heard of since then was seen to be back, on time.monotonic(); waited for all.

        Raises: RuntimeError when not all are. The question goes past the door: it is not part of the load.
        """
        until_s = time.monotonic() + timeout_s
        back_s: dict[str, float] = {}
        metadata = (("authorization", f"Bearer {self.plane.user_token}"),)
        with grpc.insecure_channel(self.plane.target, [("grpc.enable_http_proxy", 0)]) as channel:
            stub = hub_pb2_grpc.HubServiceStub(channel)
            while time.monotonic() < until_s:
                found = stub.ListHubs(hub_pb2.ListHubsRequest(), metadata=metadata, timeout=30)
                now_s = time.monotonic()
                for hub in found.hubs:
                    if any(one.last_sync_ms > since_ms and one.link == hub_pb2.LINK_STATE_ONLINE for one in hub.agents):
                        back_s.setdefault(hub.id, now_s)
                if len(back_s) == self.agents:
                    return sorted(back_s.values())
                Event().wait(LOOK_S)
        raise RuntimeError(f"{len(back_s)} of {self.agents} agents were back within {timeout_s:g} s")


def steady(federation: Federation, agents: Crowd, quick: bool) -> Steady:
    """CPU, leases and requests over some time."""
    Event().wait(WARM_S_QUICK if quick else WARM_S)
    assert federation.process is not None
    from_s, used_s = time.monotonic(), federation.process.cpu_s()
    agents_s = agents.process.cpu_s()
    Event().wait(STEADY_S_QUICK if quick else STEADY_S)
    until_s = time.monotonic()
    length_s = until_s - from_s
    cores = (federation.process.cpu_s() - used_s) / length_s
    seen = Steady(
        cores,
        agents.starts_between(from_s, until_s) / length_s,
        federation.door.between(from_s, until_s) / length_s,
    )
    others = (agents.process.cpu_s() - agents_s) / length_s
    say(
        f"control plane {cores:.2f} cores at {seen.leases_per_s:.1f} leases and {seen.requests_per_s:.0f} requests a second; "
        f"the agents' process {others:.2f}"
    )
    return seen


def outage(federation: Federation, cut: str, outage_s: float, seen: Steady, config: dict[str, Value]) -> list[Figure]:
    """Nobody gets through for so long; then: how fast are all back, and at what load?"""
    began_s = time.monotonic()
    door = federation.door
    door.shut()
    if cut == "control plane":
        federation.kill()
        Event().wait(max(0.0, outage_s - 5.0))
        federation.start()  # it serves before the door is opened: what is measured is the agents' return
    Event().wait(max(0.0, began_s + outage_s - time.monotonic()))
    since_ms = time.time() * 1000
    door.open()
    open_s = time.monotonic()
    back_s = [moment_s - open_s for moment_s in federation.wait_until_back(since_ms, BACK_S_MAX)]
    Event().wait(max(0.0, open_s + 15.0 - time.monotonic()) if outage_s >= OUTAGE_S else 2.0)
    busiest = door.busiest_second(open_s, time.monotonic())
    say(f"after {outage_s:g} s without {cut}: all back in {back_s[-1]:.1f} s, half in {percentile(back_s, 50):.1f} s; "
        f"busiest second {busiest} requests")  # fmt: skip
    config = {**config, "cut": cut, "outage_s": outage_s}
    asked = Baseline("asked", 15.0, "the figure that was asked for")
    normal = Baseline("the mean before the outage", seen.requests_per_s)
    seconds = time.monotonic() - began_s
    return [
        Figure("agents", "all_back_s", back_s[-1], "s", "lower", asked, seconds, config),
        Figure("agents", "busiest_second_after", busiest, "requests/s", "lower", normal, seconds, config),
    ]


def echo_cores(calls_per_s: float, seconds: float) -> float:
    """The CPU of a bare server that answers so many calls a second."""
    with (
        child("benchmarks.apparatus.echo", "200") as echo,
        grpc.insecure_channel(f"127.0.0.1:{echo.said()['port']}", [("grpc.enable_http_proxy", 0)]) as channel,
    ):
        call = channel.unary_unary(ECHO, None, None)
        call(b"x" * 400, timeout=30)
        from_s, used_s, number = time.monotonic(), echo.cpu_s(), 0
        while (now_s := time.monotonic()) - from_s < seconds:
            if number <= (now_s - from_s) * calls_per_s:
                call(b"x" * 400, timeout=30)
                number += 1
            else:
                Event().wait(0.001)
        return (echo.cpu_s() - used_s) / (time.monotonic() - from_s)
