"""Answers to late-or-not.ipynb, a cell each. `run.py` puts them into the notebook and runs it."""

# ruff: noqa: F821
# %% task-1
total = flights.count()
cancelled = flights.where(F.col("dep_time").isNull()).count()
# %% task-2
late_share = departed.select(F.mean((F.col("dep_delay") > 15).cast("int"))).first()[0]
# %% task-3
by_carrier = (
    flights.where(F.col("arr_delay").isNotNull())
    .groupBy("carrier")
    .agg(F.count("*").alias("flights"), F.mean("arr_delay").alias("mean_arr_delay"))
    .where("flights >= 500")
    .orderBy(F.desc("mean_arr_delay"))
)
# %% task-4
worst_hour = (
    departed.groupBy("hour")
    .agg(F.count("*").alias("flights"), F.mean("dep_delay").alias("delay"))
    .where("flights >= 500")
    .orderBy(F.desc("delay"))
    .first()["hour"]
)
# %% task-5
knock_on = {
    row["late_before"]: row["share"]
    for row in pairs.where("late_before is not null")
    .groupBy("late_before")
    .agg(F.mean(F.col("late").cast("int")).alias("share"))
    .collect()
}
# %% task-6
shuffles = 2
# %% task-7
saved = Path(os.environ.get("BRHUB_OUTPUT_DIR", "output")) / "by_carrier"
by_carrier.write.mode("overwrite").parquet(str(saved))
