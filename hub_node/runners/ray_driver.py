"""The entrypoint that Ray is given: it puts a job's driver under `guard.py`, in the environment that Ray made for it.

Started by Ray as `python -I -S ray_driver.py ATTEMPT_FOLDER`; standard library only. The guard then holds the run's deadline
and its log exactly as for any other engine. Read next: `ray.py`, which writes the spec that is completed here.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Complete the guard's spec by Ray's own variables, and become the guard."""
    spec_path = Path(sys.argv[1]) / "guard-spec.json"
    try:
        spec = json.loads(spec_path.read_text(encoding="utf-8"))
    except OSError:
        raise SystemExit(0) from None  # a guard has taken this attempt already
    spec["env"].update({name: text for name, text in os.environ.items() if name.startswith("RAY_")})
    partial = spec_path.with_suffix(".completed")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        json.dump(spec, out)
    partial.replace(spec_path)
    guard = str(Path(__file__).with_name("guard.py"))
    os.execv(sys.executable, [sys.executable, "-I", "-S", guard, str(spec_path)])  # noqa: S606 - it becomes the guard


if __name__ == "__main__":
    main()
