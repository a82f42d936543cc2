"""An afternoon at four hubs, for a console to show: something of everything that an operator may meet."""

from __future__ import annotations

from dataclasses import replace

from federation.domain.hub import Dataset
from federation.domain.job import Input, JobState, OutputFile, Priority, Reason
from federation.lifecycle.job import Trigger
from federation.service import expiry
from tests.support.builders import a_node, some_resources
from tests.support.console import OMAR, Console, Hub

MINUTE_MS = 60_000
LOG = "".join(
    f"2026-11-22 04:4{n // 60}:{n % 60:02} INFO stage {n // 8}: task {n % 8 + 1} of 8 finished, {117 + 13 * n} rows\n"
    for n in range(120)
)


def flights(airport: str) -> Dataset:
    """One airport's flights."""
    return Dataset(f"flights-{airport}", "2013", 9_876_543, "members", f"Departures from {airport.upper()}, 2013")


def at(console: Console, minutes: int) -> None:
    """Move the clock to so many minutes from now; every hub but the one that was lost says that it is there."""
    console.clock.moved_ms = minutes * MINUTE_MS
    console.desk.writer.run(expiry.expire)
    for hub in console.hubs.values():
        if hub.agent.hub_id != "lanzhou":
            hub.beat()


def settle(console: Console, hub: Hub, job_id: str, *, ran_ms: int, code: int = 0) -> None:
    """Run a job to its end: it began `ran_ms` ago."""
    now_ms = console.clock.now_ms()
    hub.report(job_id, Trigger.RUN_STARTED, started_ms=now_ms - ran_ms)
    outputs = (OutputFile("table.csv", 18_204, "ab" * 32), OutputFile("plots/delays by carrier.png", 91_002, "cd" * 32))
    if code:
        reason = Reason("RUN_FAILED", f"the program ended with status {code}: see the end of its log")
        hub.report(job_id, Trigger.RUN_FAILED, exit_code=code, reason=reason, ended_ms=now_ms)
    else:
        hub.report(job_id, Trigger.RUN_SUCCEEDED, ended_ms=now_ms, outputs=outputs)


def furnish(console: Console) -> dict[str, str]:
    """Set the scene; the ids of the jobs that tests look at, by name."""
    clock = console.clock
    at(console, -140)
    engines = ("command", "fake", "lab", "ray", "spark")
    loaded = replace(a_node("rack-1", 16, 64), load_cpu_milli=5_400, memory_available_bytes=41 << 30)
    gpus = replace(a_node("rack-2", 32, 128, 2, "nvidia/A100"), load_cpu_milli=27_800, memory_available_bytes=22 << 30)
    kl = console.hub("kuala-lumpur", "Kuala Lumpur", nodes=(loaded,), engines=engines, datasets=(flights("ewr"),))
    console.hub("kuala-lumpur", "Kuala Lumpur", agent_id="gpu", nodes=(gpus,), engines=engines)
    cairo = console.hub("cairo", "Cairo", nodes=(a_node("n1", 8, 16),), engines=engines, datasets=(flights("jfk"),))
    shenzhen = console.hub(
        "shenzhen", "Shenzhen", nodes=(a_node("pool", 64, 256),), engines=("command", "spark"),
        datasets=(flights("lga"),),
    )  # fmt: skip
    console.hub("lanzhou", "Lanzhou", nodes=(a_node("n1", 4, 8),), engines=("command",))

    early = console.submit("s-1", OMAR, name="weather-join", engine="spark", hubs_allow=("cairo",))
    cairo.wait_for_lease(early)
    at(console, -95)
    settle(console, cairo, early, ran_ms=41 * MINUTE_MS)
    failed = console.submit("s-2", name="clean-carriers", hubs_allow=("kuala-lumpur",))
    console.hub_of(failed).report(failed, Trigger.RUN_ACCEPTED)
    at(console, -32)
    settle(console, console.hub_of(failed), failed, ran_ms=90_000, code=3)

    lab = console.submit("s-3", name="lab-flights-aisha", engine="lab", priority=Priority.INTERACTIVE,
                         hubs_allow=("cairo",), per_task=some_resources(2, 4))  # fmt: skip
    cairo.report(lab, Trigger.RUN_STARTED, started_ms=clock.now_ms(), url="http://127.0.0.1:8888/lab")
    at(console, -11)
    tune = console.submit("s-4", OMAR, name="digits-tuning", runtime_limit_ms=7_200_000, engine="ray", hubs_allow=("kuala-lumpur",),
                          tracking=True, per_task=some_resources(14, 96, 2))  # fmt: skip
    tuner = console.hub_of(tune)
    tuner.logs[tune] = LOG.encode()
    tuner.report(tune, Trigger.RUN_STARTED, started_ms=clock.now_ms(), progress="trial 7 of 20")
    wide = console.submit("s-5", OMAR, name="monte-carlo", replicas=12, per_task=some_resources(5, 20),
                          hubs_allow=("shenzhen",))  # fmt: skip
    shenzhen.report(wide, Trigger.RUN_STARTED, started_ms=clock.now_ms())
    at(console, -4)
    huge = console.submit("s-6", name="whole-genome", engine="spark", per_task=some_resources(128, 512))
    again = console.submit("s-7", OMAR, name="digits-tuning-b", engine="ray", per_task=some_resources(8, 48, 2))
    data = console.submit("s-8", name="delays-lga", engine="spark", inputs=(Input("flights-lga", "", "flights"),),
                          per_task=some_resources(16, 32))  # fmt: skip
    at(console, -1)
    console.drain("shenzhen", "new disks until Monday")
    staged = console.submit("s-9", name="delays-by-carrier", engine="spark", hubs_allow=("cairo",),
                            per_task=some_resources(4, 8), arguments=("--top", "10"))  # fmt: skip
    cairo.report(staged, Trigger.RUN_STAGING, progress="environment, 41 of 63 MB")
    at(console, 0)
    quick = console.submit("s-10", name="count-words", hubs_allow=("kuala-lumpur",))
    settle(console, console.hub_of(quick), quick, ran_ms=8_000)
    gone = console.submit("s-11", name="count-letters", per_task=some_resources(100, 1))
    console.cancel(gone)
    assert console.job(huge).state is JobState.QUEUED
    assert kl.agent.hub_id == "kuala-lumpur"
    return {"failed": failed, "tune": tune, "huge": huge, "again": again, "data": data, "quick": quick, "lab": lab,
            "staged": staged, "early": early}  # fmt: skip
