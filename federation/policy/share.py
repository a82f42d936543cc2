"""What a hub offers to the federation, and which jobs it takes: the share policy.

```yaml
version: 1
offer: {cpus: "75%", memory: 48Gi, disk: "50%", gpus: 2}     # the rest is the home share; default: all of it
accept:
  hubs: {allow: [], deny: []}             # home hubs of jobs; an empty allow means everybody
  projects: {allow: [], deny: []}
  engines: [spark, ray, command, lab]     # default: all
  priorities: [class, interactive, batch, scavenger]
  max_runtime: 12h
  max_replicas: 16
  gpu_fractions: false                    # two jobs on one GPU share its memory without a wall
reclaim_s: 60                             # how long a preempted job has before it is ended
takes_back: false                         # true: no guest that may run longer than that, unless it is preemptible
```
Evaluated on plain values, so that the control plane can foresee what the hub's own word will be; the hub's is final.
Deliberately not here: data policies (`data.py`), hours of the day (a later version of the file).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from federation.policy.document import (
    bad,
    duration_ms,
    flag,
    names,
    only_keys,
    parse_text,
    read_policy_file,
    section,
    share,
    whole,
)

VERSION = 1
ENGINES = ("spark", "ray", "command", "lab", "fake")
PRIORITIES = ("class", "interactive", "batch", "scavenger")
RUNTIME_MS_MAX = 30 * 86_400_000
REPLICAS_MAX = 1_000
RECLAIM_S_MAX = 3_600
RECLAIM_S_DEFAULT = 60
GPU_MILLI = 1_000
_UNITS = {"cpus": ("cpu", 1_000), "memory": ("memory", 1), "disk": ("disk", 1), "gpus": ("gpu", GPU_MILLI)}


class Refusal(enum.StrEnum):
    """Why a policy says no: the closed list."""

    HUB_DENIED = "HUB_DENIED"
    PROJECT_DENIED = "PROJECT_DENIED"
    ENGINE_DENIED = "ENGINE_DENIED"
    PRIORITY_DENIED = "PRIORITY_DENIED"
    RUNTIME_TOO_LONG = "RUNTIME_TOO_LONG"
    TOO_MANY_REPLICAS = "TOO_MANY_REPLICAS"
    GPU_FRACTION_DENIED = "GPU_FRACTION_DENIED"
    DATA_READER_DENIED = "DATA_READER_DENIED"
    DATA_STAYS_HOME = "DATA_STAYS_HOME"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Yes, or a coded no with a sentence and its variable parts."""

    ok: bool
    code: Refusal | None = None
    message: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


YES = Verdict(True)


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What a policy looks at. `gpu_milli` is for one task, in thousandths of a device."""

    home_hub: str
    project: str
    engine: str
    priority: str
    replicas: int
    runtime_limit_ms: int
    gpu_milli: int = 0


@dataclass(frozen=True, slots=True)
class AllowDeny:
    """Names that may and names that may not; an empty `allow` means all, and `deny` wins."""

    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()

    def admits(self, name: str) -> bool:
        """Whether this name may."""
        return name not in self.deny and (not self.allow or name in self.allow)


@dataclass(frozen=True, slots=True)
class SharePolicy:
    """One hub's policy. The default is generous: all of the hub, to everybody, but no fractions of GPUs."""

    offer: Mapping[str, Fraction | int] = field(default_factory=dict)
    """By resource name (cpu, memory, disk, gpu): a part (Fraction, 0 to 1) or an amount in base units (int)."""
    hubs: AllowDeny = AllowDeny()
    projects: AllowDeny = AllowDeny()
    engines: frozenset[str] = frozenset(ENGINES)
    priorities: frozenset[str] = frozenset(PRIORITIES)
    runtime_ms_max: int = RUNTIME_MS_MAX
    replicas_max: int = REPLICAS_MAX
    gpu_fractions: bool = False
    reclaim_s: int = RECLAIM_S_DEFAULT
    takes_back: bool = False
    """Whether the hub's own users never wait longer than `reclaim_s` for machines that guests use."""


def load_share_policy(path: Path) -> SharePolicy:
    """The policy in a file. Raises: FederationError CONFIGURATION_INVALID or UNKNOWN_KEY."""
    return share_policy(read_policy_file(path))


def parse_share_policy(text: str, *, toml: bool = False) -> SharePolicy:
    """The policy in a text, YAML unless said otherwise. Raises: as `load_share_policy`."""
    return share_policy(parse_text(text, toml=toml))


def share_policy(document: Mapping[str, Any]) -> SharePolicy:
    """The policy in a mapping. Raises: as `load_share_policy`."""
    only_keys(document, ("version", "offer", "accept", "reclaim_s", "takes_back"), "the file")
    whole(document.get("version", VERSION), "version", VERSION, VERSION)
    offer = section(document.get("offer", {}), "offer")
    only_keys(offer, tuple(_UNITS), "offer")
    accept = section(document.get("accept", {}), "accept")
    known = ("hubs", "projects", "engines", "priorities", "max_runtime", "max_replicas", "gpu_fractions")
    only_keys(accept, known, "accept")
    return SharePolicy(
        offer={_UNITS[key][0]: _offer(key, value) for key, value in offer.items()},
        hubs=_allow_deny(accept.get("hubs", {}), "accept.hubs"),
        projects=_allow_deny(accept.get("projects", {}), "accept.projects"),
        engines=names(accept.get("engines", list(ENGINES)), "accept.engines", ENGINES),
        priorities=names(accept.get("priorities", list(PRIORITIES)), "accept.priorities", PRIORITIES),
        runtime_ms_max=duration_ms(accept.get("max_runtime", "30d"), "accept.max_runtime", 1_000, RUNTIME_MS_MAX),
        replicas_max=whole(accept.get("max_replicas", REPLICAS_MAX), "accept.max_replicas", 1, REPLICAS_MAX),
        gpu_fractions=flag(accept.get("gpu_fractions", False), "accept.gpu_fractions"),
        reclaim_s=whole(document.get("reclaim_s", RECLAIM_S_DEFAULT), "reclaim_s", 0, RECLAIM_S_MAX),
        takes_back=flag(document.get("takes_back", False), "takes_back"),
    )


def evaluate(policy: SharePolicy, job: JobFacts) -> Verdict:
    """Whether the hub takes this job, by its policy alone (room is another question). The first reason found is told."""
    if not policy.hubs.admits(job.home_hub):
        return no(Refusal.HUB_DENIED, f"It takes no jobs of {job.home_hub}.", home_hub=job.home_hub)
    if not policy.projects.admits(job.project):
        return no(Refusal.PROJECT_DENIED, f"It takes no jobs of the project {job.project}.", project=job.project)
    if job.engine not in policy.engines:
        return no(Refusal.ENGINE_DENIED, f"It takes no {job.engine} jobs.", engine=job.engine)
    if job.priority not in policy.priorities:
        return no(Refusal.PRIORITY_DENIED, f"It takes no {job.priority} jobs.", priority=job.priority)
    if job.runtime_limit_ms > policy.runtime_ms_max:
        return no(
            Refusal.RUNTIME_TOO_LONG,
            f"It takes jobs of up to {policy.runtime_ms_max // 1000} s; this one asks for {job.runtime_limit_ms // 1000} s.",
            limit_ms=str(policy.runtime_ms_max),
            runtime_limit_ms=str(job.runtime_limit_ms),
        )
    if job.replicas > policy.replicas_max:
        return no(
            Refusal.TOO_MANY_REPLICAS,
            f"It takes up to {policy.replicas_max} replicas; this job asks for {job.replicas}.",
            limit=str(policy.replicas_max),
            replicas=str(job.replicas),
        )
    if job.gpu_milli % GPU_MILLI and not policy.gpu_fractions:
        return no(Refusal.GPU_FRACTION_DENIED, "It gives out whole GPUs only.", gpu_milli=str(job.gpu_milli))
    return YES


def offered(policy: SharePolicy, capacity: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """What the federation may use of what there is; the rest is the home share.

    `capacity` maps (name, kind) to base units, for example ("gpu", "nvidia/A100") to 4,000. A part is taken of each
    kind and rounded down, GPUs to whole devices unless the policy allows fractions; an amount is filled up from the
    kinds in the order of their names, and is never more than there is. A resource that the policy does not name is
    offered whole.
    """
    result: dict[tuple[str, str], int] = {}
    used: dict[str, int] = {}
    for (name, kind), there in sorted(capacity.items()):
        rule = policy.offer.get(name, Fraction(1))
        limit = int(there * rule) if isinstance(rule, Fraction) else rule - used.get(name, 0)
        amount = min(there, limit)
        if name == "gpu" and not policy.gpu_fractions:
            amount -= amount % GPU_MILLI
        used[name] = used.get(name, 0) + amount
        result[name, kind] = amount
    return result


def no(code: Refusal, message: str, **metadata: str) -> Verdict:
    """A refusal."""
    return Verdict(False, code, message, metadata)


def _offer(key: str, value: object) -> Fraction | int:
    _, unit = _UNITS[key]
    return share(value, f"offer.{key}", unit, is_bytes=unit == 1)


def _allow_deny(value: object, where: str) -> AllowDeny:
    rules = section(value, where)
    only_keys(rules, ("allow", "deny"), where)
    found = AllowDeny(names(rules.get("allow", []), f"{where}.allow"), names(rules.get("deny", []), f"{where}.deny"))
    if found.allow & found.deny:
        raise bad(where, f"both allows and denies {', '.join(sorted(found.allow & found.deny))}")
    return found
