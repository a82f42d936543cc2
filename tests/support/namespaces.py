"""Several hosts on one machine: network namespaces on one bridge, and cuts between them. Needs root, `ip` and `nft`.

A cut is a DROP inside the namespace, so that connections hang as they do on a bad link; taking the link down would fail
at once instead.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_CUT = "table inet cut"
_RULES = """
table inet cut {
  chain from { type filter hook input priority 0; policy drop; iifname "lo" accept; }
  chain to { type filter hook output priority 0; policy drop; oifname "lo" accept; }
}
"""


@dataclass(frozen=True, slots=True)
class Host:
    """One namespace: its name, and its address on the bridge."""

    name: str
    address: str

    def inside(self, *words: str) -> list[str]:
        """The command that runs `words` on this host."""
        return ["ip", "netns", "exec", self.name, *words]

    @contextmanager
    def cut_off(self) -> Iterator[None]:
        """Nothing comes in or goes out meanwhile, and nobody is told."""
        _run(*self.inside("nft", "-f", "-"), text=_RULES)
        try:
            yield
        finally:
            _run(*self.inside("nft", "delete", *_CUT.split()))


@contextmanager
def hosts(count: int, subnet: str = "10.213.77") -> Iterator[list[Host]]:
    """`count` hosts on one bridge, which stands in the first; all of it goes with the namespaces."""
    made = [Host(f"brhub-{os.getpid()}-{n}", f"{subnet}.{n + 1}") for n in range(count)]
    hub = made[0].name
    try:
        for host in made:
            _run("ip", "netns", "add", host.name)
            _run("ip", "-n", host.name, "link", "set", "lo", "up")
        _run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", hub, "address", "add", f"{made[0].address}/24", "dev", "bridge")
        _run("ip", "-n", hub, "link", "set", "bridge", "up")
        for n, host in enumerate(made[1:], start=1):
            _run("ip", "-n", hub, "link", "add", f"to{n}", "type", "veth", "peer", "name", "out", "netns", host.name)
            _run("ip", "-n", hub, "link", "set", f"to{n}", "master", "bridge", "up")
            _run("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", "out")
            _run("ip", "-n", host.name, "link", "set", "out", "up")
        yield made
    finally:
        for host in made:
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True, check=False, timeout=30)


def _run(*words: str, text: str = "") -> None:
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
