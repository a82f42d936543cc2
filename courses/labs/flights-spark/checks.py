"""Checks of the tasks in late-or-not.ipynb: each works the answer out again, slowly and without Spark."""

import csv
import os
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

DATA = Path(os.environ.get("BRHUB_INPUT_FLIGHTS", "."))
TASKS = 7
passed = set()
_rows = []


def rows():
    """The file as dictionaries of texts, read once."""
    if not _rows:
        with open(DATA / "flights.csv", encoding="utf-8", newline="") as file:
            _rows.extend(csv.DictReader(file))
    return _rows


def number(text):
    """A number, or None where the file says NA."""
    return None if text in ("NA", "") else float(text)


def check(task, good, hint):
    """Tell the student, and remember what is solved."""
    if good:
        passed.add(task)
        print(f"Task {task}: right. ({len(passed)} of {TASKS} done)")
    else:
        passed.discard(task)
        print(f"Task {task}: not yet. {hint}")


def near(one, other, most=0.005):
    """Whether two numbers are equal but for rounding."""
    try:
        return abs(float(one) - other) <= most
    except (TypeError, ValueError):
        return False


def task_1(total, cancelled):
    """How many flights, and how many never left."""
    if total != len(rows()):
        return check(1, False, "`total` is the number of rows: the DataFrame has a method for that.")
    truth = sum(number(row["dep_time"]) is None for row in rows())
    return check(1, cancelled == truth, "A cancelled flight has no departure time: its `dep_time` is null.")


def task_2(late_share):
    """The share of departures more than 15 minutes late."""
    delays = [delay for row in rows() if (delay := number(row["dep_delay"])) is not None]
    truth = sum(delay > 15 for delay in delays) / len(delays)
    if near(late_share, 100 * truth, 0.5):
        return check(2, False, "That is a percentage; `late_share` is a number between 0 and 1.")
    return check(
        2, near(late_share, truth), "Leave the cancelled flights out first, then count those with dep_delay > 15."
    )


def mean_by(keys, value, least):
    """Means of a column by group, groups with at least `least` values."""
    groups = defaultdict(list)
    for row in rows():
        if (number_ := number(row[value])) is not None:
            groups[tuple(row[key] for key in keys)].append(number_)
    return {key: sum(values) / len(values) for key, values in groups.items() if len(values) >= least}


def task_3(by_carrier):
    """Mean arrival delay by carrier, the latest first."""
    truth = {key[0]: mean for key, mean in mean_by(["carrier"], "arr_delay", 500).items()}
    try:
        found = [(row["carrier"], row["mean_arr_delay"]) for row in by_carrier.collect()]
    except Exception as problem:  # noqa: BLE001 - whatever a first attempt is, the student gets a hint
        return check(3, False, f"The table needs the columns carrier and mean_arr_delay ({type(problem).__name__}).")
    if {carrier for carrier, _ in found} != set(truth):
        return check(3, False, "Keep the carriers with at least 500 arrivals, and no others.")
    if not all(near(mean, truth[carrier], 0.01) for carrier, mean in found):
        return check(3, False, "A mean is wrong: take arr_delay, and leave flights without one out.")
    means = [mean for _, mean in found]
    return check(3, means == sorted(means, reverse=True), "Sort it: the latest carrier comes first.")


def task_4(worst_hour):
    """The scheduled hour whose departures are latest on average."""
    means = mean_by(["hour"], "dep_delay", 500)
    truth = int(max(means, key=lambda key: means[key])[0])
    return check(
        4, worst_hour == truth, "Group by `hour`, keep hours with at least 500 departures, take the largest mean."
    )


def task_5(knock_on):
    """How often a departure is late after a late one of the same plane, and after one that was not."""
    days = defaultdict(list)
    for row in rows():
        delay = number(row["dep_delay"])
        if delay is not None and row["tailnum"] not in ("NA", ""):
            order = (int(row["sched_dep_time"]), int(row["flight"]))
            days[row["tailnum"], int(row["month"]), int(row["day"])].append((order, delay > 15))
    counts = {True: [0, 0], False: [0, 0]}
    for departures in days.values():
        departures.sort()
        for (_, before), (_, after) in pairwise(departures):
            counts[before][0] += after
            counts[before][1] += 1
    truth = {before: late / of for before, (late, of) in counts.items() if of}
    try:
        good = set(knock_on) == set(truth) and all(near(knock_on[key], truth[key]) for key in truth)
    except TypeError:
        good = False
    hint = "Look at the window: partition by tailnum, month and day, order by sched_dep_time and flight. "
    return check(5, good, hint + "`knock_on` has two keys, True and False.")


def task_6(shuffles):
    """How many exchanges the plan of task 3 has."""
    return check(
        6, shuffles == 2, "Count the lines that begin with Exchange in the plan: one for the groups, one for the order."
    )


def task_7(saved):
    """A folder of Parquet files."""
    folder = Path(str(saved))
    good = (folder / "_SUCCESS").is_file() and any(folder.glob("*.parquet"))
    return check(7, good, "Write by_carrier to the folder with .write.mode('overwrite').parquet(...).")
