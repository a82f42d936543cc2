"""Share policies in a replay: what is offered, how fast it is taken back, and who is refused."""

from __future__ import annotations

from federation.domain.plan import ReasonCode
from federation.policy.share import parse_share_policy
from federation.scheduling import Policy
from federation.simulation import HistoricJob, Replay
from federation.simulation.sharing import agents_under, jobs_under
from tests.unit.simulation.builders import HOUR, MINUTE, agent, by_name, cpus, job


def test_a_policy_changes_what_its_own_hub_offers() -> None:
    """A part of what each machine has, not of what it offered before; other hubs stay as they are."""
    machines = (agent("cairo", cpus(8, gpus=2), cpus(4)), agent("shenzhen", cpus(8)))
    shares = {"cairo": parse_share_policy('offer: {cpus: "50%", gpus: 1}\nreclaim_s: 7')}
    cairo, shenzhen = agents_under(shares, machines)
    assert [node.offered for node in cairo.nodes] == [cpus(4, gpus=1), cpus(2)]
    assert [node.capacity for node in cairo.nodes] == [node.capacity for node in machines[0].nodes]
    assert (cairo.reclaim_ms, shenzhen) == (7_000, machines[1])
    assert agents_under(shares, agents_under(shares, machines)) == (cairo, shenzhen)


def test_a_machine_of_which_nothing_is_offered_takes_nothing() -> None:
    """0 % is a policy too."""
    shares = {"cairo": parse_share_policy('offer: {cpus: "0%"}')}
    jobs = [job("a", 0, MINUTE)]
    outcome = Replay(agents_under(shares, [agent("cairo", cpus(4))]), Policy()).run(jobs)
    assert by_name(outcome)["a"].reason is ReasonCode.SHAPE_NEVER_FITS


DENYING: dict[str, tuple[str, ...]] = {"wide": (), "bound": ("shenzhen",)}


def under(text: str, *jobs: HistoricJob) -> dict[str, str]:
    """Where each job runs, or why it does not, when Cairo has this policy and Shenzhen none."""
    shares = {"cairo": parse_share_policy(text)}
    machines = [agent("cairo", cpus(64)), agent("shenzhen", cpus(1))]
    outcome = Replay(agents_under(shares, machines), Policy()).run(jobs_under(shares, jobs))
    return {one.job_id: one.hub_id or str(one.reason) for one in outcome.jobs}


def test_jobs_that_a_hub_would_refuse_go_elsewhere_or_wait() -> None:
    """By home hub, length and size, as the hub's own admission would say."""
    short, long = (
        job(name, 0, MINUTE, runtime_limit_ms=limit) for name, limit in (("short", HOUR), ("long", 3 * HOUR))
    )
    assert under("accept: {max_runtime: 2h}", short, long) == {"short": "cairo", "long": "shenzhen"}
    wide, bound = (job(name, 0, MINUTE, cpus(0.1), replicas=5, hubs_deny=deny) for name, deny in DENYING.items())
    assert under("accept: {max_replicas: 4}", wide, bound) == {"wide": "shenzhen", "bound": "SHARE_POLICY"}
    guest = job("guest", 0, MINUTE, home_hub="kuala-lumpur")
    assert under("accept: {hubs: {deny: [kuala-lumpur]}}", guest, short) == {"guest": "shenzhen", "short": "cairo"}
    assert under("accept: {priorities: [class]}", short) == {"short": "shenzhen"}


def test_noes_are_added_to_those_that_are_known() -> None:
    """A job that a hub refused in fact is still refused there."""
    shares = {"cairo": parse_share_policy("accept: {engines: [spark]}")}
    (found,) = jobs_under(shares, [job("a", 0, MINUTE, hubs_refused=("shenzhen",))])
    assert found.row.hubs_refused == ("cairo", "shenzhen")
