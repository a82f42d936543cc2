"""Data that comes to a job: when it is moved, from where, what it costs, and where it never goes."""

from __future__ import annotations

from typing import Any

import pytest

from federation.domain.hub import FETCHES, Agent, Dataset, Hub, LinkState
from federation.domain.ids import AgentId, HubId
from federation.domain.plan import ReasonCode
from federation.domain.quantities import AMOUNT_MAX
from federation.scheduling import Delta, Plan, PlannerState, Policy, explain, plan_round
from federation.scheduling.plan import LADDER, Fetch
from federation.scheduling.rows import AgentRow, ClaimRow, DeltaCollector, LeaseRow, LinkRow, QueuedJob, agent_row
from federation.scheduling.transfers import TRANSFER_MS_MAX, takes_ms
from tests.unit.scheduling.builders import agent, cpus, job, key_of, lease, where

MINUTE_MS = 60_000
SLOW = 10**9 // 600
"""Bytes a second at which a gigabyte takes ten minutes."""
FLIGHTS = Dataset("flights", "1", SLOW * 600, "open")
READS: dict[str, Any] = {"inputs": (("flights", ""),), "runtime_limit_ms": 30 * MINUTE_MS}


def here(hub: str, *of: Dataset, count: float = 4, **changes: Any) -> AgentRow:
    """A hub with one machine and data."""
    return agent(hub, cpus(count), datasets=of, **{"fetches": True, **changes})


def full(hub: str, count: float = 4, minutes: int = 600) -> LeaseRow:
    """Somebody has a hub's machine for so long."""
    return lease(f"at-{hub}", cpus(count), hub, expires_ms=minutes * MINUTE_MS)


def link(source: str, target: str, bytes_per_s: int = SLOW, round_trip_ms: int = 0) -> LinkRow:
    """Ten minutes a gigabyte."""
    return LinkRow(source, target, bytes_per_s, round_trip_ms)


class Federation:
    """Rounds at one time after another, on the same rows."""

    def __init__(
        self, *agents: AgentRow, jobs: tuple[QueuedJob, ...], links: tuple[LinkRow, ...] = (), leases: Any = ()
    ) -> None:
        self.state = PlannerState()
        self.delta = Delta(agents=agents, queued=jobs, links=links, leases_started=leases)

    def at(self, minutes: float, delta: Delta | None = None, **policy: Any) -> Plan:
        """The plan at that time."""
        now_ms = round(minutes * MINUTE_MS)
        delta, self.delta = delta or self.delta, Delta()
        self.state, plan = plan_round(self.state, delta, Policy(**{"promise_after_ms": 0, **policy}), now_ms)
        return plan

    def told(self, asked: QueuedJob, minutes: float = 0) -> dict[str, str]:
        """What people hear, by hub."""
        found = explain(self.state, Policy(), asked, round(minutes * MINUTE_MS))
        return {reason.hub_id: reason.message for reason in found.reasons}


TEN_MINUTES = link("cairo", "shenzhen")


def idle_apart(*jobs: QueuedJob, way: LinkRow = TEN_MINUTES, leases: tuple[LeaseRow, ...] = ()) -> Federation:
    """The data lies at cairo, which is full; shenzhen is idle, ten minutes away unless `way` says otherwise."""
    rows = (here("cairo", FLIGHTS), here("shenzhen"))
    return Federation(*rows, jobs=jobs, links=(way,), leases=(full("cairo"), *leases))


def code(plan: Plan, hub: str) -> ReasonCode:
    """Why the one sort of job waits at a hub."""
    (waiting,) = plan.waiting
    return LADDER[waiting.steps[plan.hub_ids.index(hub)]]


def test_data_is_moved_once_the_job_has_waited_as_long_as_that_takes() -> None:
    """Ten minutes from cairo, which is full, to shenzhen, which is idle: not after nine, but after ten."""
    one = job("one", cpus(1), home="accra", **READS)
    federation = idle_apart(one)
    plan = federation.at(0)
    assert (plan.placements, plan.wake_ms) == ((), 10 * MINUTE_MS)
    assert (code(plan, "cairo"), code(plan, "shenzhen")) == (ReasonCode.CAPACITY, ReasonCode.DATA_TO_MOVE)
    assert federation.at(9.99).placements == ()
    plan = federation.at(10)
    assert where(plan) == {"one": "shenzhen"}
    assert plan.placements[0].fetches == (Fetch("flights", "1", "cairo", SLOW * 600, 10 * MINUTE_MS),)
    assert plan.placements[0].transfer_ms == 10 * MINUTE_MS


def test_rounds_for_the_sake_of_data_are_not_closer_than_a_second() -> None:
    """What takes three milliseconds is asked for in a second; a round that comes by itself starts it."""
    federation = idle_apart(job("one", cpus(1), **READS), way=link("cairo", "shenzhen", SLOW * 600 * 333))
    assert federation.at(0).wake_ms == 1_000
    assert where(federation.at(0.5)) == {"one": "shenzhen"}


def test_nothing_moves_while_there_is_room_beside_the_data() -> None:
    """Not even home, where its user has first right, nor to the hub that it prefers."""
    one = job("one", cpus(1), home="shenzhen", hubs_prefer=("accra",), **READS)
    links = (link("cairo", "shenzhen"), link("cairo", "accra"))
    federation = Federation(here("cairo", FLIGHTS), here("shenzhen"), here("accra"), jobs=(one,), links=links)
    plan = federation.at(600)
    assert (where(plan), plan.placements[0].fetches) == ({"one": "cairo"}, ())
    home = Federation(
        here("cairo", FLIGHTS), here("shenzhen"), jobs=(job("two", cpus(1), home="shenzhen", **READS),), links=links
    )
    assert where(home.at(600)) == {"two": "cairo"}


def test_of_those_with_room_the_nearest_is_taken() -> None:
    """After an hour both are within reach: the one to which the data comes sooner, although its owner likes the other."""
    one = job("one", cpus(1), home="shenzhen", **READS)
    links = (link("cairo", "shenzhen"), link("cairo", "accra", 2 * SLOW))
    federation = Federation(
        here("cairo", FLIGHTS), here("shenzhen"), here("accra"), jobs=(one,), links=links, leases=(full("cairo"),)
    )
    assert federation.at(4).wake_ms == 5 * MINUTE_MS
    assert where(federation.at(60)) == {"one": "accra"}


def test_data_that_lies_beside_no_machine_for_the_job_moves_at_once() -> None:
    """Cairo has the data and no machine of the size: waiting for it would gain nothing."""
    federation = Federation(
        here("cairo", FLIGHTS, count=1), here("shenzhen"), jobs=(job("one", cpus(2), **READS),),
        links=(link("cairo", "shenzhen"),),
    )  # fmt: skip
    assert where(federation.at(0)) == {"one": "shenzhen"}


def test_a_hub_that_is_silent_for_a_minute_is_waited_for_and_not_fetched_from() -> None:
    """Its data cannot come while nobody hears of it; a copy elsewhere can, when the job has waited for as long."""
    silent = here("cairo", FLIGHTS, link=LinkState.SUSPECT)
    copy = here("accra", FLIGHTS, count=0.5)
    links = (link("cairo", "shenzhen", 100 * SLOW), link("accra", "shenzhen"))
    federation = Federation(silent, copy, here("shenzhen"), jobs=(job("one", cpus(1), **READS),), links=links)
    assert federation.at(0).wake_ms == 10 * MINUTE_MS
    assert federation.at(10).placements[0].fetches[0].from_hub == "accra"


@pytest.mark.parametrize(
    ("dataset", "changes", "links"),
    [
        (FLIGHTS, {"fetches": False}, (link("cairo", "shenzhen"),)),
        (FLIGHTS, {}, ()),
        (FLIGHTS, {}, (link("shenzhen", "cairo"),)),
        (Dataset("flights", "1", 0, "open"), {}, (link("cairo", "shenzhen"),)),
        (Dataset("flights", "1", 10, "compute-to-data"), {}, (link("cairo", "shenzhen"),)),
        (Dataset("flights", "1", 10, "from-the-future"), {}, (link("cairo", "shenzhen"),)),
        (Dataset("flights", "1", 10, "hubs", readers=("accra",)), {}, (link("cairo", "shenzhen"),)),
        (Dataset("trains", "1", 10, "open"), {}, (link("cairo", "shenzhen"),)),
    ],
)
def test_data_that_cannot_or_may_not_come_stays(dataset: Dataset, changes: Any, links: Any) -> None:
    """Nobody fetches, no link, only the way back, no size, a policy that keeps it, a host that is no reader, other data."""
    one = job("one", cpus(1), **READS)
    federation = Federation(
        here("cairo", dataset), here("shenzhen", **changes), jobs=(one,), links=links, leases=(full("cairo"),)
    )
    plan = federation.at(10_000, reservations=0)
    assert (plan.placements, plan.wake_ms, code(plan, "shenzhen")) == ((), None, ReasonCode.DATA_ELSEWHERE)


def test_data_for_named_hubs_comes_to_those_hubs_only() -> None:
    """Accra and shenzhen may read it: a job of accra's has it brought to shenzhen, not to nairobi, however near."""
    shared = Dataset("flights", "1", SLOW * 600, "hubs", readers=("accra", "shenzhen"))
    links = (link("cairo", "shenzhen"), link("cairo", "nairobi", 10 * SLOW))
    federation = Federation(
        here("cairo", shared), here("nairobi"), here("shenzhen"), jobs=(job("one", cpus(1), home="accra", **READS),),
        links=links, leases=(full("cairo"),),
    )  # fmt: skip
    assert federation.at(5).placements == ()
    assert where(federation.at(10)) == {"one": "shenzhen"}


def test_a_measurement_changes_what_waits_already() -> None:
    """A quicker link, then none: each holds from the next round on."""
    one = job("one", cpus(1), **READS)
    federation = idle_apart(one)
    federation.at(0)
    gathered = DeltaCollector()
    gathered.link_removed(("cairo", "shenzhen"))
    gathered.link(link("cairo", "shenzhen", 5 * SLOW))
    assert federation.at(1, gathered.take()).wake_ms == 2 * MINUTE_MS
    gathered.link_removed(("cairo", "shenzhen"))
    assert bool(gathered)
    assert code(federation.at(2, gathered.take()), "shenzhen") == ReasonCode.DATA_ELSEWHERE
    assert federation.state.full().links == ()


def test_a_promise_counts_the_time_that_data_takes() -> None:
    """Started at minute 10 beside a fetch of ten and a run of thirty: the machine is promised to the next at 50."""
    first = job("first", cpus(4), home="accra", **READS)
    federation = idle_apart(first)
    federation.at(0)
    second = job("second", cpus(4), home="accra", seq=1, submitted_ms=10 * MINUTE_MS, hubs_allow=("shenzhen",))
    plan = federation.at(10, Delta(queued=(second,)))
    assert where(plan) == {"first": "shenzhen"}
    assert plan.promised is not None
    assert plan.promised.starts_ms.tolist() == [50 * MINUTE_MS]


def test_a_hub_that_takes_its_machines_back_counts_the_time_that_data_takes() -> None:
    """Thirty minutes would be within its forty-five, but not after fetching for ten and ... for twenty."""
    back = here("shenzhen", takes_back=True, reclaim_ms=45 * MINUTE_MS)
    for slower, expected in ((1, {"one": "shenzhen"}), (2, {})):
        federation = Federation(
            here("cairo", FLIGHTS), back, jobs=(job("one", cpus(1), **READS),),
            links=(link("cairo", "shenzhen", SLOW // slower),), leases=(full("cairo"),),
        )  # fmt: skip
        assert where(federation.at(600)) == expected


def test_an_owner_takes_machines_back_only_when_its_data_may_come() -> None:
    """Before, it would end a guest's run for a job that does not start yet."""
    guest = lease("guest", cpus(4), "shenzhen", home_hub="accra", preemptible=True, expires_ms=600 * MINUTE_MS)
    owner = job("owner", cpus(2), home="shenzhen", **READS)
    federation = idle_apart(owner, leases=(guest,))
    assert federation.at(9).preemptions == ()
    (found,) = federation.at(10).preemptions
    assert (found.job_id, found.victims) == ("owner", ("guest",))
    claim = ClaimRow("owner", found.key, found.nodes, found.victims)
    plan = federation.at(11, Delta(claims_made=(claim,), leases_ended=("guest",)))
    assert [entry.transfer_ms for entry in plan.placements] == [10 * MINUTE_MS]


def test_one_that_waited_longer_may_start_where_a_fresh_one_could_not() -> None:
    """Same sort, same owner's line: what a fresh job found out does not hold for the one behind it."""
    fresh = job("fresh", cpus(1), seq=0, submitted_ms=20 * MINUTE_MS, **READS)
    old = job("old", cpus(1), seq=1, **READS)
    federation = idle_apart(fresh, old)
    assert where(federation.at(20)) == {"old": "shenzhen"}
    assert federation.state.last_plan.wake_ms == 30 * MINUTE_MS


def test_several_inputs_come_one_after_the_other_each_from_where_it_comes_soonest() -> None:
    """Five minutes from accra, ten from cairo; what lies there is not fetched, any version will do."""
    trains = Dataset("trains", "2", SLOW * 600, "open")
    one = job("one", cpus(4), inputs=(("flights", ""), ("trains", "2"), ("ships", "")))
    ships = Dataset("ships", "1", 10, "open")
    links = (link("cairo", "shenzhen"), link("accra", "shenzhen", 2 * SLOW, 1), link("cairo", "accra", 1))
    federation = Federation(
        here("cairo", FLIGHTS, count=1), here("accra", FLIGHTS, trains, count=1), here("shenzhen", ships), jobs=(one,),
        links=links,
    )  # fmt: skip
    (found,) = federation.at(0).placements
    assert [(fetch.dataset, fetch.from_hub) for fetch in found.fetches] == [("flights", "accra"), ("trains", "accra")]
    assert found.transfer_ms == 2 * (5 * MINUTE_MS + 1)


def test_what_never_arrives_takes_as_long_as_can_be_said() -> None:
    """The largest dataset at a byte a second; rounding is up, and a round trip is the least."""
    assert takes_ms(AMOUNT_MAX, link("a", "b", 1, 5)) == TRANSFER_MS_MAX
    assert takes_ms(1, link("a", "b", 1_001, 5)) == 6
    assert takes_ms(AMOUNT_MAX, link("a", "b", AMOUNT_MAX)) == 1_000
    federation = Federation(
        here("cairo", Dataset("flights", "1", AMOUNT_MAX, "open"), count=1), here("shenzhen"),
        jobs=(job("one", cpus(2), **READS),), links=(link("cairo", "shenzhen", 1),),
    )  # fmt: skip
    assert federation.at(0).placements[0].transfer_ms == TRANSFER_MS_MAX


def test_people_hear_what_would_be_moved_and_when() -> None:
    """Where there is room: from where, how long, and in how long it starts; its first start counts that."""
    one = job("one", cpus(1), **READS)
    federation = Federation(
        here("cairo", FLIGHTS), here("shenzhen"), here("tunis", fetches=False), here("lagos"), jobs=(one,),
        links=(link("cairo", "shenzhen"),), leases=(full("cairo"),),
    )  # fmt: skip
    federation.at(2)
    told = federation.told(one, 2)
    assert told["shenzhen"] == (
        "flights 1 lies at cairo, and bringing it here takes about 10 min: it starts here in 8 min, when it has waited for "
        "as long, if there is room then"
    )
    assert told["tunis"] == "flights does not lie here, and a job runs where its data is"
    assert told["lagos"] == (
        "flights does not lie here, and it cannot come: its owner keeps it where it is, or nobody knows its size or has "
        "measured the way"
    )
    found = explain(federation.state, Policy(), one, 2 * MINUTE_MS)
    assert (found.earliest_start_ms, found.earliest_hub_id) == (600 * MINUTE_MS, "cairo")  # it was promised that
    federation.at(10)
    found = explain(federation.state, Policy(), one, 10 * MINUTE_MS)
    assert (found.earliest_start_ms, found.earliest_hub_id) == (20 * MINUTE_MS, "shenzhen")
    assert found.reasons[2].message == (
        "it fits here now and waits only for its start; flights 1 lies at cairo: bringing it here first takes about 10 min"
    )


def test_an_agent_fetches_when_it_says_so() -> None:
    """By its features."""
    known = Agent(HubId("a"), AgentId("m"), "", "", "", LinkState.ONLINE, 0, (), (), features=(FETCHES,))
    assert agent_row(known, Hub(HubId("a"), "")).fetches
    assert not here("a", fetches=False).fetches
    assert key_of("a", "m") == known.key
