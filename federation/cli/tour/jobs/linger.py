"""A Spark job that has work for an hour: made to be cancelled."""

import time

from pyspark.sql import SparkSession

spark = SparkSession.builder.appName("linger").getOrCreate()
print("lingering", flush=True)


def slowly(n: int) -> int:
    """A minute for each number."""
    time.sleep(60)  # noqa: TID251 - passing time is this program's work
    return n


print(spark.sparkContext.parallelize(range(60), 2).map(slowly).sum())
