"""Engine name -> a new runner. An engine's room is imported when its first run comes: a bare agent stays small."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from federation.errors import Code, Fault, FederationError
from hub_node.config import AgentConfig
from hub_node.ports import Runner

if TYPE_CHECKING:
    from hub_node.runners.ray_head import RayHeads

T = TypeVar("T")


class Registry:
    """Makes runners; holds what runs of one engine share. Safe to call from any thread."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._ray_heads: RayHeads | None = None

    def runner(self, engine: str, entrypoint: str) -> Runner:
        """A runner for one run. Raises: FederationError ENGINE_UNAVAILABLE, and what an engine says of its settings."""
        if engine not in self._config.offered_engines:
            raise FederationError(
                Code.ENGINE_UNAVAILABLE,
                f"This hub runs no {engine} jobs.",
                fault=Fault.HUB,
                hint="The operator names the engine under `engines` in the agent's file.",
                metadata={"engine": engine},
            )
        match engine:
            case "command":
                from hub_node.runners.command import CommandRunner

                return CommandRunner()
            case "spark":
                from hub_node.runners.spark import SparkRunner, SparkSettings

                return SparkRunner(settings_of(SparkSettings, "spark", self._config.spark))
            case "ray":
                return self._ray()
            case "lab":
                from hub_node.runners.lab import LabRunner

                return settings_of(LabRunner, "lab", self._config.lab)
            case _:
                from hub_node.runners.fake import fake_runner

                return fake_runner(entrypoint)

    def _ray(self) -> Runner:
        if self.elsewhere("ray"):
            from hub_node.runners.ray_cluster import RayClusterRunner, RayClusterSettings

            return RayClusterRunner(settings_of(RayClusterSettings, "ray", self._config.ray))
        from hub_node.runners.ray import RayRunner
        from hub_node.runners.ray_head import RayHeads

        with self._lock:
            if self._ray_heads is None:
                self._ray_heads = settings_of(RayHeads, "ray", self._config.ray, self._config.state_dir / "ray")
            return RayRunner(self._ray_heads)

    def elsewhere(self, engine: str) -> bool:
        """Whether its runs are on other machines, and so outlive a restart of this one."""
        return engine == "ray" and bool(self._config.ray.get("address"))

    def close(self, end_engines: bool) -> None:
        """Before the agent's process ends. `end_engines`: warm Ray heads end too, else the next process finds them."""
        if end_engines and "ray" in self._config.engines and not self.elsewhere("ray"):
            self._ray()
            assert self._ray_heads is not None, "`_ray` makes or finds them"
            self._ray_heads.close()


def settings_of(kind: Callable[..., T], engine: str, table: Mapping[str, Any], *more: Any) -> T:
    """`kind` from the keys of an engine's table. Raises: FederationError UNKNOWN_KEY for a key that it does not take."""
    known = list(inspect.signature(kind).parameters)[len(more) :]
    for key in table:
        if key not in known:
            raise FederationError(
                Code.UNKNOWN_KEY,
                f"The agent's file has the unknown key '{engine}.{key}'.",
                fault=Fault.HUB,
                hint=f"Known here: {', '.join(known) or 'none'}.",
                metadata={"key": f"{engine}.{key}"},
            )
    return kind(*more, **table)
