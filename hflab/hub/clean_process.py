"""Python code run in a process that has nothing of this one: no hflab, no network, no settings of a launcher, a cache of its own for code."""

import os
import subprocess
import sys
import tempfile
from typing import NamedTuple

MOST_SECONDS = 120  # code that has not ended by then has failed
LAUNCHER_SETTINGS = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"}
# an import of hflab fails, as on a machine that has none; the seed makes what code prints repeatable
PREAMBLE = "import sys; sys.modules['hflab'] = None\nimport transformers; transformers.set_seed(1)\n"


class Outcome(NamedTuple):
    """What code did: what it printed, or the last line of why it failed."""

    output: str
    error: str | None


def run_without_hflab(code: str, *arguments: str) -> Outcome:
    """Run Python code with these words as `sys.argv[1:]`."""
    with tempfile.TemporaryDirectory() as modules:
        environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER_SETTINGS}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": modules, "PYTHONIOENCODING": "utf-8", "CUDA_VISIBLE_DEVICES": ""}
        try:
            result = subprocess.run(
                [sys.executable, "-I", "-c", PREAMBLE + code, *arguments],
                env=environment,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=MOST_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Outcome("", f"no answer within {MOST_SECONDS} s")
    if result.returncode:
        return Outcome("", (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1])
    return Outcome(result.stdout.rstrip("\n"), None)
