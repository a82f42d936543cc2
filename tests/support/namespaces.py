"""Several hosts on one machine: network namespaces on one bridge, and bad links. Needs root, `ip`, `nft` and `iptables`.

A cut is a DROP inside the namespace, so that connections hang as they do on a bad link; taking the link down would fail
at once instead.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_CUT = "cut"
_CHAINS = {
    "in": 'chain from { type filter hook input priority 0; policy drop; iifname "lo" accept; }',
    "out": 'chain to { type filter hook output priority 0; policy drop; oifname "lo" accept; }',
}
_CLONE_NEWNET = 0x40000000
Way = Literal["both", "in", "out"]


@dataclass(frozen=True, slots=True)
class Host:
    """One namespace: its name, and its address on the bridge."""

    name: str
    address: str

    def inside(self, *words: str) -> list[str]:
        """The command that runs `words` on this host."""
        return ["ip", "netns", "exec", self.name, *words]

    @contextmanager
    def cut_off(self, way: Way = "both") -> Iterator[None]:
        """Nothing comes in or goes out meanwhile, and nobody is told."""
        chains = [rule for name, rule in _CHAINS.items() if way in ("both", name)]
        rules = "\n".join([f"table inet {_CUT} {{", *chains, "}\n"])
        _run(*self.inside("nft", "-f", "-"), text=rules)
        try:
            yield
        finally:
            _run(*self.inside("nft", "delete", "table", "inet", _CUT))

    @contextmanager
    def lossy(self, share: float) -> Iterator[None]:
        """Of all packets, each way, so many are lost; `share` in [0, 1]."""
        rule = ["-m", "statistic", "--mode", "random", "--probability", f"{share:.3f}", "-j", "DROP"]
        ways = (["INPUT", "-i", "out"], ["OUTPUT", "-o", "out"])
        try:
            for way in ways:
                _run(*self.inside("iptables", "-A", *way, *rule))
            yield
        finally:
            _run(*self.inside("iptables", "-F"))

    def enter(self) -> None:
        """The calling thread's new sockets are this host's from now on; there is no way back."""
        with Path("/run/netns", self.name).open("rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"host {self.name} cannot be entered")


@contextmanager
def hosts(count: int, subnet: str = "10.213.77", *, ours: bool = False) -> Iterator[list[Host]]:
    """`count` hosts on one bridge, which stands in the first; all of it goes with the namespaces.

    `ours`: this machine is on that bridge too, as SUBNET.254, so that a test may call without a host of its own.
    """
    made = [Host(f"brhub-{os.getpid()}-{n}", f"{subnet}.{n + 1}") for n in range(count)]
    hub, desk = made[0].name, f"brhub-{os.getpid()}"
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
        if ours:
            _run(
                "ip", "-n", hub, "link", "add", "ours", "type", "veth", "peer", "name", desk, "netns", str(os.getpid())
            )
            _run("ip", "-n", hub, "link", "set", "ours", "master", "bridge", "up")
            _run("ip", "address", "add", f"{subnet}.254/24", "dev", desk)
            _run("ip", "link", "set", desk, "up")
        yield made
    finally:
        if ours:  # a process that somebody left there would keep it, and our route to nowhere
            subprocess.run(["ip", "link", "delete", desk], capture_output=True, check=False, timeout=30)
        for host in made:
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True, check=False, timeout=30)


def _run(*words: str, text: str = "") -> None:
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
