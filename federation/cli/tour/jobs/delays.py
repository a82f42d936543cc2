"""A Spark job: for each carrier, how many flights arrived and their mean delay in minutes."""

import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession, functions

top = int(sys.argv[1]) if len(sys.argv) > 1 else 100
spark = SparkSession.builder.appName("delays-by-carrier").getOrCreate()
flights = spark.read.csv(
    f"{os.environ['BRHUB_INPUT_FLIGHTS']}/flights.csv", header=True, inferSchema=True, nullValue="NA"
)
delays = (
    flights.where(functions.col("arr_delay").isNotNull())
    .groupBy("carrier")
    .agg(
        functions.count("*").alias("flights"),
        functions.round(functions.avg(functions.col("arr_delay")), 6).alias("mean_delay_min"),
    )
    .orderBy("carrier")
    .limit(top)
)
rows = delays.collect()
target = Path(os.environ["BRHUB_OUTPUT_DIR"]) / "delays.csv"
with target.open("w", encoding="utf-8") as out:
    out.write("carrier,flights,mean_delay_min\n")
    out.writelines(f"{row['carrier']},{row['flights']},{row['mean_delay_min']}\n" for row in rows)
print(
    f"{len(rows)} carriers, {sum(row['flights'] for row in rows):,} flights with an arrival at {os.environ['BRHUB_HUB']}"
)
spark.stop()
