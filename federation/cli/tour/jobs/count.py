"""Counts seconds aloud and leaves a trace of each start: made to go on while its agent is killed."""

import os
import sys
import time
from pathlib import Path

seconds = int(sys.argv[1])
output = Path(os.environ["BRHUB_OUTPUT_DIR"])
with (output / "starts.txt").open("a", encoding="utf-8") as starts:
    starts.write(f"{os.environ['BRHUB_JOB_ID']} {os.environ['BRHUB_ATTEMPT']}\n")
for second in range(1, seconds + 1):
    time.sleep(1)  # noqa: TID251 - passing time is this program's work
    print(f"second {second}", flush=True)
(output / "total.txt").write_text(f"{seconds}\n", encoding="utf-8")
