"""The usage example of a model, and its execution in a clean process: a card shows no code that was not run."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

USAGE_SECONDS = 120  # a usage example that has not ended by then has failed


def usage_code(model_id: str, prompt: str) -> str:
    """The three lines of Python that use a causal language model."""
    return (
        "from transformers import pipeline\n"
        f'generator = pipeline("text-generation", model={model_id!r}, trust_remote_code=True)\n'
        f'print(generator({prompt!r})[0]["generated_text"])'
    )


def execute_usage(folder: Path, shown_id: str, prompt: str) -> dict[str, str]:
    """Run the usage example in a clean process, offline, and return {"code", "output"}, or {"code", "error"} when it failed.

    The code that is shown names `shown_id`; the code that runs names `folder`. The seed is fixed outside of the shown code.
    """
    code = "import transformers; transformers.set_seed(1)\n" + usage_code(str(folder), prompt)
    with tempfile.TemporaryDirectory() as modules:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": modules, "PYTHONIOENCODING": "utf-8", "CUDA_VISIBLE_DEVICES": ""}
        environment = {key: value for key, value in environment.items() if key not in {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"}}
        try:
            result = subprocess.run(
                [sys.executable, "-I", "-c", code], env=environment, capture_output=True, encoding="utf-8", timeout=USAGE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return {"code": usage_code(shown_id, prompt), "error": f"no answer within {USAGE_SECONDS} s"}
    if result.returncode:
        return {"code": usage_code(shown_id, prompt), "error": result.stderr.strip().splitlines()[-1]}
    return {"code": usage_code(shown_id, prompt), "output": result.stdout.rstrip("\n")}
