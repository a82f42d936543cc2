"""How an agent's link comes back: what failed before is no reason to wait for one that answers again."""

from __future__ import annotations

from pathlib import Path

from federation.client import Settings
from hub_node.conversation import PAUSE_S, Introduction, Truth
from hub_node.link import Link
from tests.support.eventually import eventually
from tests.unit.hub_node.scripted import TOKEN, ScriptedControl, serving


class ImpatientLink(Link):
    """Notes each pause, and is done with it sooner."""

    noted_s: list[float]

    def _pause(self, seconds: float) -> None:
        self.noted_s.append(seconds)
        super()._pause(min(seconds, 0.02))


def test_a_control_plane_that_does_not_know_the_session_is_told_all_at_once(tmp_path: Path) -> None:
    """The pauses have grown over an outage; the first word of the one that is there again ends that."""
    control = ScriptedControl()
    with serving(control) as address:
        about = Introduction("shenzhen", "one", "i1", "", ("command",), ())
        link = ImpatientLink(
            Settings(server=address, token=TOKEN), about, lambda: (), lambda _: 0, lambda _: None, tmp_path
        )
        link.noted_s = []
        link.start(Truth())
        eventually(lambda: control.told.syncs)
    try:
        eventually(lambda: link.noted_s and max(link.noted_s) > 4.0)
        control.forget_sessions()
        with serving(control, int(address.rpartition(":")[2])):
            eventually(lambda: len(control.told.sessions) == 2)
            assert link.noted_s[-1] <= PAUSE_S
    finally:
        link.close()
