"""The hub's last word before every start: yes, or a coded no. What is refused here never runs here.

Asked in this order: can this agent do it at all (engine, node, data), does the hub want it (share policy, data policies), and
is there room by what runs here now, whatever the control plane believes. Deliberately not here: measuring (`probe.py`)
and starting. The policy's own rules are `federation/policy/share.py`, the same on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from federation.policy import share
from federation.policy.data import data_policy, may_read
from hub_node.config import AgentConfig, DatasetConfig, Offer
from hub_node.records import LeaseOrder, Reason, Run, RunState, Work

LIVE_RUNS_MAX = 1_000
GPU_MILLI = share.GPU_MILLI
Resource = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Admission:
    """What this agent takes."""

    config: AgentConfig
    policy: share.SharePolicy
    offered: tuple[Resource, ...]
    devices: tuple[tuple[str, str], ...] = ()
    """The machine's GPUs: (uuid, kind)."""

    def refusal(self, lease: LeaseOrder, runs: Iterable[Run]) -> Reason | None:
        """Why this lease is not taken, or None. `runs` are all runs here."""
        live = [run for run in runs if run.state is not RunState.ENDED]
        return (
            self._cannot(lease)
            or self._does_not_want(lease)
            or self._data_refused(lease)
            or self._no_room(lease.work, live)
        )

    def _cannot(self, lease: LeaseOrder) -> Reason | None:
        work = lease.work
        if work.engine not in self.config.offered_engines:
            return Reason("ENGINE_MISSING", f"This hub runs no {work.engine} jobs.", {"engine": work.engine})
        for node in lease.nodes:
            if node != self.config.node_name:
                return Reason("UNKNOWN_NODE", f"This agent has no machine {node!r}.", {"node": node})
        for name, version, _ in work.inputs:
            if find_dataset(self.config.datasets, name, version) is None:
                what = f"{name} {version}".strip()
                return Reason("DATA_ELSEWHERE", f"The dataset {what} does not lie here.", {"dataset": what})
        return None

    def _does_not_want(self, lease: LeaseOrder) -> Reason | None:
        work = lease.work
        facts = share.JobFacts(
            home_hub=lease.home_hub,
            project=work.project,
            engine=work.engine,
            priority=work.priority,
            replicas=work.replicas,
            runtime_limit_ms=work.runtime_limit_ms,
            gpu_milli=work.gpu_milli,
        )
        verdict = share.evaluate(self.policy, facts)
        if verdict.ok:
            return None
        return Reason("SHARE_POLICY", verdict.message, {**verdict.metadata, "rule": str(verdict.code)})

    def _data_refused(self, lease: LeaseOrder) -> Reason | None:
        for name, version, _ in lease.work.inputs:
            dataset = find_dataset(self.config.datasets, name, version)
            assert dataset is not None, "`_cannot` looked before"
            policy = data_policy(dataset.policy, dataset.readers)
            hub_id = self.config.hub_id
            verdict = may_read(policy, dataset_hub=hub_id, job_hub=lease.home_hub, run_hub=hub_id)
            if not verdict.ok:
                metadata = {**verdict.metadata, "dataset": name, "rule": str(verdict.code)}
                return Reason("DATA_POLICY", verdict.message, metadata)
        return None

    def _no_room(self, work: Work, live: list[Run]) -> Reason | None:
        if len(live) >= LIVE_RUNS_MAX:
            return Reason("ROOM_TAKEN", f"{LIVE_RUNS_MAX} runs are here already.", {"limit": str(LIVE_RUNS_MAX)})
        for name, kind, wanted in demand_of(work):
            # Demands of any kind are served by every kind: count those with this one together, then all together.
            for kinds in dict.fromkeys((kind, "")):
                there = sum(amount for other, sort, amount in self.offered if _same(name, kinds, other, sort))
                held = sum(
                    amount
                    for run in live
                    for other, sort, amount in demand_of(run.lease.work)
                    if _same(name, kinds, other, sort)
                )
                if held + wanted > there:
                    return Reason(
                        "ROOM_TAKEN",
                        f"It needs {wanted:,} of {name}; {max(0, there - held):,} of {there:,} are free here.",
                        {"resource": name, "wanted": str(wanted), "held": str(held), "offered": str(there)},
                    )
        if work.gpu_milli and self.devices and not self.devices_for(work, live):
            return Reason(
                "ROOM_TAKEN", "No GPU has that much left.", {"resource": "gpu", "wanted": str(work.gpu_milli)}
            )
        return None

    def devices_for(self, work: Work, runs: Iterable[Run]) -> tuple[str, ...]:
        """GPUs for a job: whole devices that nobody holds, or for each task the fullest device that has room for it.

        Empty when there are not enough, or when this machine's GPUs are not known one by one.
        """
        left = {uuid: GPU_MILLI for uuid, kind in self.devices if work.gpu_kind in ("", kind)}
        for run in runs:
            if run.state is not RunState.ENDED:
                for uuid in run.devices:
                    left[uuid] = left.get(uuid, 0) - min(GPU_MILLI, run.lease.work.gpu_milli)
        chosen: list[str] = []
        if work.gpu_milli >= GPU_MILLI:
            free = sorted(uuid for uuid, milli in left.items() if milli == GPU_MILLI)
            count = -(-work.gpu_milli // GPU_MILLI) * work.replicas
            return tuple(free[:count]) if len(free) >= count else ()
        for _ in range(work.replicas):
            fits = [(milli, uuid) for uuid, milli in left.items() if milli >= work.gpu_milli]
            if not fits:
                return ()
            _, uuid = min(fits)
            left[uuid] -= work.gpu_milli
            chosen.append(uuid)
        return tuple(chosen)


def demand_of(work: Work) -> tuple[Resource, ...]:
    """What a run holds on this machine: all its tasks."""
    amounts = (
        ("cpu", "", work.cpu_milli),
        ("memory", "", work.memory_bytes),
        ("disk", "", work.disk_bytes),
        ("gpu", work.gpu_kind, work.gpu_milli),
    )
    return tuple((name, kind, amount * work.replicas) for name, kind, amount in amounts if amount)


def find_dataset(datasets: Iterable[DatasetConfig], name: str, version: str) -> DatasetConfig | None:
    """The dataset of this name and version; without a version the one that the file names last."""
    found = [one for one in datasets if one.name == name and version in ("", one.version)]
    return found[-1] if found else None


def offered(policy: share.SharePolicy, capacity: Iterable[Resource], offer: Offer) -> tuple[Resource, ...]:
    """What the federation may use: the policy's share of what there is; the agent file's amounts win over both."""
    there: Mapping[tuple[str, str], int] = {(name, kind): amount for name, kind, amount in capacity}
    shared = share.offered(policy, there)
    for name, amount in (("cpu", offer.cpu_milli), ("memory", offer.memory_bytes), ("disk", offer.disk_bytes)):
        if amount:
            shared[name, ""] = amount
    return tuple((name, kind, amount) for (name, kind), amount in sorted(shared.items()) if amount > 0)


def _same(name: str, kind: str, other: str, other_kind: str) -> bool:
    return name == other and kind in ("", other_kind)
