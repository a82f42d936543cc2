"""The hub's last word before every start: yes, or a coded no. What is refused here never runs here.

Asked in this order: can this agent do it at all (engine, node, data), does the hub want it (share policy, data policies), and
is there room by what runs here now, whatever the control plane believes. Deliberately not here: measuring (`probe.py`)
and starting. The policy's own rules are `federation/policy/share.py`, the same on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from federation.policy import share
from federation.policy.data import data_policy, may_read
from federation.policy.devices import GPU, Device, DeviceNeed, devices_of, need_of
from hub_node.config import AgentConfig, DatasetConfig, Offer
from hub_node.records import LeaseOrder, Reason, Run, RunState, Work

LIVE_RUNS_MAX = 1_000
Resource = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Admission:
    """What this agent takes."""

    config: AgentConfig
    policy: share.SharePolicy
    offered: tuple[Resource, ...]
    devices: tuple[tuple[str, str], ...] = ()
    """The machine's GPUs: (uuid, kind), in its own order."""

    def refusal(self, lease: LeaseOrder, runs: Iterable[Run]) -> Reason | None:
        """Why this lease is not taken, or None. `runs` are all runs here."""
        live = [run for run in runs if run.state is not RunState.ENDED]
        return (
            self._cannot(lease) or self._does_not_want(lease) or self._data_refused(lease) or self._no_room(lease, live)
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

    def _no_room(self, lease: LeaseOrder, live: list[Run]) -> Reason | None:
        work = lease.work
        if len(live) >= LIVE_RUNS_MAX:
            return Reason("ROOM_TAKEN", f"{LIVE_RUNS_MAX} runs are here already.", {"limit": str(LIVE_RUNS_MAX)})
        for name, _, wanted in demand_of(work):
            if name == GPU:
                continue  # counted one by one, below
            there = sum(amount for other, _, amount in self.offered if other == name)
            held = sum(amount for run in live for other, _, amount in demand_of(run.lease.work) if other == name)
            if held + wanted > there:
                return Reason(
                    "ROOM_TAKEN",
                    f"It needs {wanted:,} of {name}; {max(0, there - held):,} of {there:,} are free here.",
                    {"resource": name, "wanted": str(wanted), "held": str(held), "offered": str(there)},
                )
        if work.gpu_milli and not self.devices_for(lease, live):
            told = (
                "The GPUs that it was given are not free here." if lease.devices else "No GPU here has that much left."
            )
            return Reason("ROOM_TAKEN", told, {"resource": "gpu", "wanted": str(work.gpu_milli)})
        return None

    @property
    def seats(self) -> tuple[tuple[str, Device], ...]:
        """What is offered, device by device: (name, device), by place. The name is the uuid where NVML tells it.

        A kind's first devices, in the machine's own order, are those that the federation may use; the rest is the home
        share. A device without a uuid goes by its place.
        """
        of_kind: dict[str, list[str]] = {}
        for uuid, kind in self.devices:
            of_kind.setdefault(kind, []).append(uuid)
        found = []
        for place, device in enumerate(devices_of(self.offered)):
            uuids = of_kind.get(device.kind, [])
            found.append((uuids.pop(0) if uuids else str(place), device))
        return tuple(found)

    def devices_for(self, lease: LeaseOrder, runs: Iterable[Run]) -> tuple[str, ...]:
        """GPUs for a lease, by name, task by task: those that it names, or, where it names none, the fullest that do.

        Empty when they are not free: whole devices are held by nobody else, parts add up to a device at most.
        """
        work, seats = lease.work, self.seats
        need = need_for(work)
        free = self._free(seats, runs)
        if lease.devices:
            given = [place for of_task in lease.devices for place in of_task]
            if len(lease.devices) != work.replicas or not all(
                len(one) == len(set(one)) == need.devices for one in lease.devices
            ):
                return ()
            for place in given:
                if not 0 <= place < len(seats) or not need.takes(seats[place][1].kind) or free[place] < need.milli:
                    return ()
                free[place] -= need.milli
        else:
            given = _taken(seats, free, need, work.replicas)
        return tuple(seats[place][0] for place in given)

    @staticmethod
    def _free(seats: Sequence[tuple[str, Device]], runs: Iterable[Run]) -> list[int]:
        """Milli left of each seat. Runs whose devices were not written down lie where they fit."""
        free = [device.milli for _, device in seats]
        place_of = {name: place for place, (name, _) in enumerate(seats)}
        unwritten = []
        for run in runs:
            if run.state is RunState.ENDED or not run.lease.work.gpu_milli:
                continue
            if not run.devices:
                unwritten.append(run.lease.work)
            for name in run.devices:
                if name in place_of:
                    free[place_of[name]] -= need_for(run.lease.work).milli
        for work in unwritten:
            _taken(seats, free, need_for(work), work.replicas)
        return free


def need_for(work: Work) -> DeviceNeed:
    """What each task needs of the GPUs."""
    return need_of([(GPU, work.gpu_kind, work.gpu_milli)])


def _taken(seats: Sequence[tuple[str, Device]], free: list[int], need: DeviceNeed, tasks: int) -> list[int]:
    """Places for all tasks, taken from `free`; none when not all of them fit."""
    given: list[int] = []
    for _ in range(tasks):
        fits = [at for at, milli in enumerate(free) if milli >= need.milli and need.takes(seats[at][1].kind)]
        best = sorted(fits, key=lambda at: (free[at], at))[: need.devices]
        if len(best) < need.devices:
            for place in given:
                free[place] += need.milli
            return []
        for place in best:
            free[place] -= need.milli
        given += sorted(best)
    return given


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
