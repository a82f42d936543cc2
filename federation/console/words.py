"""Numbers and codes as a person reads them: ages, amounts, states, events. Pure; Jinja filters and view rows use them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from urllib.parse import urlsplit

from federation.domain.quantities import CPU, DISK, GPU, MEMORY, Resources
from federation.ports import EventRow

_BYTE_UNITS = ((2**50, "PiB"), (2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_REASONS = {
    "WOULD_RUN": "about to start",
    "CAPACITY": "no room now",
    "QUOTA": "quota reached",
    "QUOTA_NEVER_FITS": "never: over its quota",
    "RESERVATION_AHEAD": "promised to others",
    "TAKES_BACK": "must be preemptible there",
    "SHAPE_NEVER_FITS": "too big",
    "ENGINE_MISSING": "no such engine",
    "HUB_EXCLUDED": "excluded by the job",
    "HUB_SUSPECT": "silent",
    "HUB_DRAINING": "draining",
    "NO_AGENT": "no agent",
    "DATA_ELSEWHERE": "data elsewhere",
    "DATA_TO_MOVE": "data must come first",
    "DATA_POLICY": "data policy",
    "SHARE_POLICY": "refused by policy",
    "FAIRNESS_TURN": "others are first",
    "UNKNOWN_DATASET": "unknown dataset",
    "RUNNING": "runs there",
    "LEASE_RAN_OUT": "nobody said how it ended",
    "RUN_ABSENT": "its hub does not know it",
    "RELEASED_BY_FORCE": "given up by force",
    "CLAIM_HELD": "machines being freed for it",
}
_EVENTS = {
    "JobSubmitted": "Submitted",
    "LeaseGranted": "Leased to {hub_id} on {nodes}, attempt {attempt}",
    "RunAccepted": "Accepted by the hub",
    "RunStaging": "Staging: inputs and environment",
    "RunStarted": "Started",
    "RunStopping": "Stopping",
    "RunSucceeded": "Succeeded",
    "RunFailed": "Failed",
    "RunStopped": "Stopped",
    "RunRefused": "Refused by the hub",
    "RunAbsent": "The hub no longer knows the run",
    "LeaseRenewed": "Lease renewed",
    "LeaseExpired": "Lease ran out",
    "CancelRequested": "Cancel asked for",
    "RetryRequested": "Queued again on request",
    "ClaimMade": "Machines of {hub_id} are being freed for it: guests there were told to end",
    "ClaimDropped": "The machines that were being freed for it are not waited for any more",
    "ReleaseForced": "Attempt {why}",
    "LeaseAdopted": "Found after a restore: attempt {attempt}",
    "LeaseRestarted": "Lease counted anew: the control plane was away",
    "PreemptRequested": "Told to end: its hub's own users get their machines back",
}


def duration(ms: int) -> str:
    """A stretch of time in its two largest units: "8 s", "4 min 05 s", "3 h 20 min", "2 d 4 h"."""
    seconds = max(0, ms) // 1000
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def span(ms: int) -> str:
    """A stretch of time that is over or fixed, without empty units: "10 min", "1 min 30 s"."""
    return duration(ms).replace(" 00 s", "").replace(" 00 min", "").replace(" 0 h", "")


def moment(ms: int) -> str:
    """A moment in UTC, to the second: "2026-11-22 04:40:52 UTC"; empty for 0."""
    if ms <= 0:
        return ""
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(ms: int) -> str:
    """RFC 3339, for the datetime attribute."""
    return dt.datetime.fromtimestamp(max(0, ms) / 1000, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def size(amount: int) -> str:
    """Bytes: "1.5 GiB"."""
    scale, unit = next(((scale, unit) for scale, unit in _BYTE_UNITS if amount >= scale), (1, "B"))
    return f"{round(amount / scale, 1):g} {unit}"


def plain(name: str, amount: int) -> str:
    """An amount without its noun: cpus and gpus counted, bytes with their unit."""
    return size(amount) if name in (MEMORY, DISK) else f"{round(amount / 1000, 2):g}"


def asked(of: Resources, replicas: int = 1) -> str:
    """What a job asks for, in short: "3 x 2 cpu, 4 GiB, 1 gpu nvidia/A100"."""
    parts = []
    order = (CPU, MEMORY, GPU, DISK)
    for name, kind, amount in sorted(
        of, key=lambda entry: (order.index(entry[0]) if entry[0] in order else 9, entry[1])
    ):
        text = plain(name, amount) if name == MEMORY else f"{plain(name, amount)} {name}"
        parts.append(f"{text} {kind}".strip())
    times = f"{replicas} × " if replicas != 1 else ""
    return times + ", ".join(parts)


def reason_words(code: str) -> str:
    """A reason's code in two or three words."""
    return _REASONS.get(code, code.replace("_", " ").lower())


def payload_of(event: EventRow) -> Mapping[str, object]:
    """The event's variable parts; empty when they cannot be read."""
    try:
        payload = json.loads(event.payload)
    except ValueError:
        return {}
    return payload if isinstance(payload, dict) else {}


def event_words(event: EventRow) -> str:
    """A fact as a sentence."""
    payload = payload_of(event)
    nodes = payload.get("nodes", ())
    told = sorted({str(node) for node in nodes}) if isinstance(nodes, list) else []
    parts = {
        "hub_id": payload.get("hub_id", "?"),
        "attempt": payload.get("attempt", "?"),
        "nodes": ", ".join(told) or "?",
        "why": payload.get("why", "given up by force"),
    }
    text = _EVENTS.get(event.type, event.type).format(**parts)
    code = payload.get("code")
    return f"{text} ({code})" if code else text


def actor_words(actor: str) -> str:
    """Who did it: without the issuer that everybody shares."""
    kind, _, name = actor.partition(":")
    if kind == "agent":
        return f"agent {name}"
    return (name or kind).removeprefix("user:").removeprefix("admin:").removeprefix("local/")


def web_link(url: str) -> str:
    """`url` when a browser may follow it: http or https; a hub's word is not trusted to be no script."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return url if parts.scheme in ("http", "https") and parts.netloc else ""
