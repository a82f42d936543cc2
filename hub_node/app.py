"""Composition root of the agent: reads the file, opens the journal, connects the rooms, serves until a signal comes.

SIGTERM and SIGINT end the agent and leave its runs to their guards; the next agent takes them up. SIGUSR1 ends every run
first (what `brhub down` wants). Exit status 0 after a signal; an error of configuration or journal says so and gives its
code's status. Deliberately not here: any decision.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from federation.errors import FederationError
from federation.policy.data import data_policy
from federation.policy.share import SharePolicy, load_share_policy
from hub_node import probe, steady
from hub_node.admission import Admission, offered
from hub_node.agent.attempt import Tools
from hub_node.agent.state import State
from hub_node.config import AgentConfig, load
from hub_node.conversation import Introduction
from hub_node.data.staging import Staging
from hub_node.journal import Journal
from hub_node.link import Link
from hub_node.records import DatasetReport, NodeReport, Run
from hub_node.runners.process import raise_open_files
from hub_node.runners.registry import Registry

log = logging.getLogger(__name__)


def agent_main(config_path: str) -> int:
    """Run the agent of this file until it is told to end; the process's exit status."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    try:
        return serve(load(config_path))
    except FederationError as error:
        log.error("the agent cannot go on: %s", error)
        return error.kind.exit


@dataclass(frozen=True, slots=True)
class Parts:
    """A connected agent. Whoever has it closes the journal."""

    journal: Journal
    state: State
    tools: Tools

    def serve(self) -> None:
        """Until the state is told to quit. Raises: FederationError when the journal fails."""
        try:
            self.state.serve(self.tools)
            self.tools.registry.close(end_engines=self.state.ended_runs)
        finally:
            self.journal.close()


def serve(config: AgentConfig) -> int:
    """Connect everything and serve until a signal comes. Raises: FederationError."""
    raise_open_files()
    parts = connect(config)
    _on_signals(parts.state)
    parts.serve()
    return 0


def connect(config: AgentConfig) -> Parts:
    """Everything in its place, nothing running yet. Raises: FederationError."""
    journal = Journal(config.state_dir)
    try:
        steady.keep_in(config.state_dir)
        policy = load_share_policy(config.policy_file) if config.policy_file is not None else SharePolicy()
        devices = probe.gpus()
        capacity = probe.capacity(config.state_dir, devices)
        offer = offered(policy, capacity, config.offer)
        state = State(journal, Admission(config, policy, offer, devices))
        ca = Path(config.ca) if config.ca else None
        staging = Staging(config.state_dir, config.hub_id, config.datasets, ca, policy.reclaim_s, config.proxy)

        def nodes() -> tuple[NodeReport, ...]:
            load_now = probe.load()
            return (NodeReport(config.node_name, offer, capacity, load_now.cpu_milli, load_now.memory_available_bytes),)

        about = introduction(config, journal.instance_id, policy)
        link = Link(config.link, about, nodes, _log_sizes(staging), state.put, config.state_dir)
        log.info("agent %s of hub %s offers %s", config.agent_id, config.hub_id, offer)
        return Parts(
            journal, state, Tools(staging, Registry(config), link, config.hub_id, state.put, config.checkpoints)
        )
    except BaseException:
        journal.close()
        raise


def _log_sizes(staging: Staging) -> Callable[[Run], int]:
    def size_bytes(run: Run) -> int:
        try:
            return staging.places(run.lease.job_id, run.lease.epoch).log.stat().st_size
        except (OSError, FederationError):
            return 0

    return size_bytes


def introduction(config: AgentConfig, instance_id: str, policy: SharePolicy) -> Introduction:
    """Who this agent is. Raises: FederationError for a dataset's policy that is none."""
    return Introduction(
        hub_id=config.hub_id,
        agent_id=config.agent_id,
        instance_id=instance_id,
        title=config.title,
        engines=config.offered_engines,
        datasets=tuple(_announced(config)),
        reclaim_ms=policy.reclaim_s * 1_000,
        takes_back=policy.takes_back,
    )


def _announced(config: AgentConfig) -> list[DatasetReport]:
    found = []
    for one in config.datasets:
        data_policy(one.policy, one.readers)
        size_bytes = sum(file.stat().st_size for file in (one.path, *one.path.rglob("*")) if file.is_file())
        found.append(DatasetReport(one.name, one.version, size_bytes, one.policy, one.title, one.readers))
    return found


def _on_signals(state: State) -> None:
    def leave(_number: int, _frame: FrameType | None) -> None:
        state.quit()

    def end(_number: int, _frame: FrameType | None) -> None:
        state.quit(end_runs=True)

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a parent may have ignored it: no child's status would be known
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGUSR1, end)
