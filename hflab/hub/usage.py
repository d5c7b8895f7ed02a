"""The usage example of a model, and its execution in a clean process: a card shows no code that was not run.

One kind is shown without having been run, and the card says so: that of a model which hears, where the data are recordings of people. No clip of
theirs lies beside the model, so the example reads one of the reader's.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from .clean_process import Outcome, run_without_hflab

OWN_RECORDING = "recording.wav"  # the reader's
EXTRACTOR_FILE = "preprocessor_config.json"

_BLOCK = re.compile(r"^(?P<marks>`{3,})(?P<language>\w*)\n(?P<content>.*?)\n(?P=marks)$", re.MULTILINE | re.DOTALL)


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


def _transcribe(model_id: str, prompt: str) -> str:
    return (
        "import soundfile\n"
        "from transformers import pipeline\n"
        f"{_import_of(prompt)}"
        f'recognizer = pipeline("automatic-speech-recognition", model={model_id!r}, trust_remote_code=True)\n'
        f"samples, rate = soundfile.read({_clip(model_id, prompt)})\n"
        'print(recognizer({"raw": samples, "sampling_rate": rate})["text"])'
    )


def _represent(model_id: str, prompt: str) -> str:
    return (
        "import soundfile\n"
        "from transformers import AutoFeatureExtractor, AutoModel\n"
        f"{_import_of(prompt)}"
        f"extractor = AutoFeatureExtractor.from_pretrained({model_id!r}, trust_remote_code=True)\n"
        f"model = AutoModel.from_pretrained({model_id!r}, trust_remote_code=True)\n"
        f"samples, rate = soundfile.read({_clip(model_id, prompt)})\n"
        'heard = model(**extractor(samples, sampling_rate=rate, return_tensors="pt"))\n'
        "print(tuple(heard.last_hidden_state.shape))"
    )


def _import_of(prompt: str) -> str:
    """What finds a clip beside the model."""
    return "" if prompt == OWN_RECORDING else "from transformers.utils import cached_file\n"


def _clip(model_id: str, prompt: str) -> str:
    """Where the clip is, as Python."""
    return repr(OWN_RECORDING) if prompt == OWN_RECORDING else f"cached_file({model_id!r}, {prompt!r})"


_USAGE = {
    "causal_lm": _generate,
    "seq2seq": _answer,
    "text_classification": _classify_text,
    "token_classification": _classify_words,
    "masked_lm": _fill,
    "speech_recognition": _transcribe,
    "speech_pretraining": _represent,
}
_HEARING = ("speech_recognition", "speech_pretraining")  # tasks whose prompt is a clip


def execute_usage(folder: Path, shown_id: str, prompt: str, task: str = "causal_lm") -> dict[str, Any]:
    """Run the usage example in a clean process and return {"code", "output"}, or {"code", "error"} when it failed.

    The code that is shown names `shown_id`; the code that runs names `folder`. The seed is fixed outside of the shown code. Where the model hears and
    there is no clip beside it, nothing is run, and {"code", "sampling_rate"} comes back: the code reads `OWN_RECORDING`, which must have that rate.
    """
    if task in _HEARING and not (folder / prompt).is_file():
        rate = json.loads((folder / EXTRACTOR_FILE).read_text(encoding="utf-8"))["sampling_rate"]
        return {"code": usage_code(task, shown_id, OWN_RECORDING), "sampling_rate": rate}
    shown = usage_code(task, shown_id, prompt)
    outcome = run_without_hflab(usage_code(task, str(folder), prompt), model=folder)
    return {"code": shown, "output": outcome.output} if outcome.error is None else {"code": shown, "error": outcome.error}


class CardUsage(NamedTuple):
    """The usage example of a card."""

    code: str
    output: str | None
    """What the card says that it printed."""

    @property
    def reads_own_recording(self) -> bool:
        """Whether it reads a recording of the reader's, and cannot be run without one."""
        return repr(OWN_RECORDING) in self.code


def usage_of_card(card: str) -> CardUsage | None:
    """The first block of Python of a card, with the block of plain text that follows it; None where there is no Python."""
    blocks = [(match["language"], match["content"]) for match in _BLOCK.finditer(card)]
    for (language, code), following in zip(blocks, [*blocks[1:], ("", "")], strict=True):
        if language == "python":
            return CardUsage(code, following[1] if following[0] == "text" else None)
    return None


def run_usage_of_card(usage: CardUsage, shown_id: str, folder: Path) -> Outcome | None:
    """Run a card's usage example on the model in `folder` instead of `shown_id`; None where it names no such model."""
    named = re.compile(rf"""(["']){re.escape(shown_id)}\1""")
    if not named.search(usage.code):
        return None
    return run_without_hflab(named.sub(lambda match: repr(str(folder)), usage.code), model=folder)
