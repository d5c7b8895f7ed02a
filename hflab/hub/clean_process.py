"""Python code run in a process that has nothing of this one: no hflab, no launcher's settings, its own cache for code, hardly ever a network."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

MOST_SECONDS = 120  # code that has not ended by then has failed
LAUNCHER_SETTINGS = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"}
# an import of hflab fails, as on a machine that has none; the seed makes what code prints repeatable
PREAMBLE = "import sys; sys.modules['hflab'] = None\nimport transformers; transformers.set_seed(1)\n"


class Outcome(NamedTuple):
    """What code did: what it printed, or the last line of why it failed."""

    output: str
    error: str | None


def run_without_hflab(code: str, *arguments: str, model: Path) -> Outcome:
    """Run Python code that uses the model folder `model`, with these words as `sys.argv[1:]`.

    Without network, but for an adapter, whose base model may have to come from the Hub, with its code.
    """
    with tempfile.TemporaryDirectory() as modules:
        environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER_SETTINGS}
        environment |= {} if (model / "adapter_config.json").is_file() else {"HF_HUB_OFFLINE": "1"}
        environment |= {"HF_MODULES_CACHE": modules, "PYTHONIOENCODING": "utf-8", "CUDA_VISIBLE_DEVICES": ""}
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
