"""The usage example of a model, and its execution in a clean process: a card shows no code that was not run."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

USAGE_SECONDS = 120  # a usage example that has not ended by then has failed


def usage_code(task: str, model_id: str, prompt: str) -> str:
    """The few lines of Python that use a model of `task`, a name of `hflab.recipe.Recipe.task`."""
    return _USAGE[task](model_id, prompt)


def _generate(model_id: str, prompt: str) -> str:
    return (
        "from transformers import pipeline\n"
        f'generator = pipeline("text-generation", model={model_id!r}, trust_remote_code=True)\n'
        f'print(generator({prompt!r})[0]["generated_text"])'
    )


def _answer(model_id: str, prompt: str) -> str:
    return (
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer\n"
        f"tokenizer = AutoTokenizer.from_pretrained({model_id!r}, trust_remote_code=True)\n"
        f"model = AutoModelForSeq2SeqLM.from_pretrained({model_id!r}, trust_remote_code=True)\n"
        f'answer = model.generate(**tokenizer({prompt!r}, return_tensors="pt"))\n'
        "print(tokenizer.decode(answer[0], skip_special_tokens=True))"
    )


def _classify_text(model_id: str, prompt: str) -> str:
    return (
        "from transformers import pipeline\n"
        f'classifier = pipeline("text-classification", model={model_id!r}, trust_remote_code=True)\n'
        f"print(classifier({prompt!r}))"
    )


def _classify_words(model_id: str, prompt: str) -> str:
    return (
        "from transformers import pipeline\n"
        f'classifier = pipeline("token-classification", model={model_id!r}, trust_remote_code=True)\n'
        f"for token in classifier({prompt!r}):\n"
        '    print(token["word"], token["entity"], round(float(token["score"]), 3))'
    )


def _fill(model_id: str, prompt: str) -> str:
    return (
        "from transformers import pipeline\n"
        f'filler = pipeline("fill-mask", model={model_id!r}, trust_remote_code=True)\n'
        f"for filled in filler({prompt!r}):\n"
        '    print(round(filled["score"], 3), filled["sequence"])'
    )


_USAGE = {
    "causal_lm": _generate,
    "seq2seq": _answer,
    "text_classification": _classify_text,
    "token_classification": _classify_words,
    "masked_lm": _fill,
}


def execute_usage(folder: Path, shown_id: str, prompt: str, task: str = "causal_lm") -> dict[str, str]:
    """Run the usage example in a clean process, offline, and return {"code", "output"}, or {"code", "error"} when it failed.

    The code that is shown names `shown_id`; the code that runs names `folder`. The seed is fixed outside of the shown code.
    """
    code = "import transformers; transformers.set_seed(1)\n" + usage_code(task, str(folder), prompt)
    shown = usage_code(task, shown_id, prompt)
    with tempfile.TemporaryDirectory() as modules:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": modules, "PYTHONIOENCODING": "utf-8", "CUDA_VISIBLE_DEVICES": ""}
        environment = {key: value for key, value in environment.items() if key not in {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"}}
        try:
            result = subprocess.run(
                [sys.executable, "-I", "-c", code], env=environment, capture_output=True, encoding="utf-8", timeout=USAGE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return {"code": shown, "error": f"no answer within {USAGE_SECONDS} s"}
    if result.returncode:
        return {"code": shown, "error": result.stderr.strip().splitlines()[-1]}
    return {"code": shown, "output": result.stdout.rstrip("\n")}
