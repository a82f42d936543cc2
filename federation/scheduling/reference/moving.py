"""The twin's data: what lies where, what may come, how long that takes, and how far a job's data may come from now."""

from __future__ import annotations

from federation.domain.hub import Dataset, LinkState
from federation.domain.ids import AgentKey
from federation.domain.plan import ReasonCode
from federation.scheduling.plan import Fetch
from federation.scheduling.rows import AgentRow, Delta, QueuedJob


class Moving:
    """Everything that `full` says of data and links."""

    def __init__(self, full: Delta) -> None:
        self.agents = full.agents
        self.links = {(link.from_hub, link.to_hub): link for link in full.links}
        self._transfer_ms: dict[tuple[AgentKey, str, tuple[tuple[str, str], ...]], int] = {}

    def code(self, row: AgentRow, job: QueuedJob, name: str, version: str) -> ReasonCode:
        """What keeps an input from an agent."""
        found = False
        for entry in row.datasets:
            if entry.name == name and version in ("", entry.version):
                found = True
                if self.may(entry, row.key[0], job.home_hub):
                    return ReasonCode.WOULD_RUN
        if row.fetches and self.soonest(row, job, name, version):
            return ReasonCode.WOULD_RUN
        return ReasonCode.DATA_POLICY if found else ReasonCode.DATA_ELSEWHERE

    def fetches(self, row: AgentRow, job: QueuedJob) -> tuple[Fetch, ...]:
        """What must come, where everything is or can come."""
        found = []
        for name, version in job.inputs:
            here = any(
                entry.name == name and version in ("", entry.version) and self.may(entry, row.key[0], job.home_hub)
                for entry in row.datasets
            )
            soonest = self.soonest(row, job, name, version)
            if not here and soonest:
                found.append(soonest)
        return tuple(found)

    def transfer_ms(self, row: AgentRow, job: QueuedJob) -> int:
        """How long that takes."""
        asked = row.key, job.home_hub, job.inputs
        if asked not in self._transfer_ms:
            self._transfer_ms[asked] = sum(fetch.transfer_ms for fetch in self.fetches(row, job))
        return self._transfer_ms[asked]

    def soonest(self, row: AgentRow, job: QueuedJob, name: str, version: str) -> Fetch | None:
        """From where an input comes soonest."""
        found = []
        for source in self.agents:
            data_hub, run_hub = source.key[0], row.key[0]
            link = self.links.get((data_hub, run_hub))
            if link is None or source.link is not LinkState.ONLINE:
                continue
            for entry in source.datasets:
                if entry.name != name or version not in ("", entry.version) or not entry.size_bytes:
                    continue
                if not (self.may(entry, data_hub, job.home_hub) and self.may(entry, data_hub, run_hub)):
                    continue
                if data_hub != run_hub and entry.policy not in ("open", "members", "hubs"):
                    continue
                rounded = (entry.size_bytes * 1_000 + link.bytes_per_s - 1) // link.bytes_per_s
                transfer_ms = min(rounded + link.round_trip_ms, 2**53)
                found.append((transfer_ms, data_hub, entry.version, entry.size_bytes))
        if not found:
            return None
        transfer_ms, data_hub, brought, size_bytes = min(found)
        return Fetch(name, brought, data_hub, size_bytes, transfer_ms)

    def may(self, entry: Dataset, data_hub: str, hub_id: str) -> bool:
        """Whether jobs of a hub may read a dataset."""
        if entry.policy == "open" or hub_id == data_hub != "":
            return True
        return hub_id != "" and (entry.policy == "members" or (entry.policy == "hubs" and hub_id in entry.readers))
