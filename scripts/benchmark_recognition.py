"""A recognizer in transformers' own pipeline beside hflab: text, word errors and speed on clips of mixed lengths.

    python scripts/benchmark_recognition.py runs/ctc_synthetic_commands --repeats 3      # 3 minutes on two CPU cores

Both run the same model on the same waveforms in memory, greedily, in turns; times are medians. The pipeline is run clip by clip and in batches.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from transformers import pipeline

from hflab.data.speech_corpus import SpeechRows
from hflab.evaluation.speech_metrics import SpeechOutputs, WordErrorRate
from hflab.measuring import open_model
from hflab.recognition import DecoderChoice, open_recognizer
from hflab.training.speech_recognition import SpeechRecognition


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder of a recognizer")
    parser.add_argument("--split", default="test")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--longest", type=int, default=8, help="clips are joined into recordings of 1 to so many")
    options = parser.parse_args()
    task = open_model(options.run, split=options.split).task
    assert isinstance(task, SpeechRecognition)
    rows = task.prepared.splits[options.split].rows
    waveforms, texts = _mixed(rows, options.longest)
    rate = rows.waveforms.sampling_rate
    seconds = [len(waveform) / rate for waveform in waveforms]
    print(f"{len(waveforms)} recordings of {min(seconds):.1f} to {max(seconds):.1f} s, {sum(seconds):.0f} s in all")
    ways = _ways(options.run, rate)
    found = {name: way(waveforms) for name, way in ways.items()}  # the first time warms up
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            way(waveforms)
            times[name].append(time.perf_counter() - began)
    for name in ways:
        errors = WordErrorRate.compute(SpeechOutputs(found[name], texts, "basic"))
        # words, not characters: the pipeline writes two spaces where the model finds the space between words twice
        same = sum(mine.split() == theirs.split() for mine, theirs in zip(found[name], found["hflab"], strict=True))
        took = statistics.median(times[name])
        print(
            f"{name:24} {100 * errors:6.2f} % of words wrong, {same} of {len(texts)} with hflab's words, {sum(seconds) / took:6.0f} times real time, "
            f"{statistics.median(theirs / mine for theirs, mine in zip(times[name], times['hflab'], strict=True)):.2f} of hflab's time"
        )


def _mixed(clips: SpeechRows, longest: int) -> tuple[list[np.ndarray], list[str]]:
    """Recordings of 1 to `longest` clips each, of all clips."""
    waveforms, texts, place, number = [], [], 0, 0
    while place < len(clips.texts):
        count = 1 + number % longest
        chosen = range(place, min(place + count, len(clips.texts)))
        waveforms.append(np.concatenate([clips.waveforms.waveform(row) for row in chosen]))
        texts.append(" ".join(clips.texts[row] for row in chosen))
        place, number = place + count, number + 1
    order = np.random.default_rng(0).permutation(len(texts))
    return [waveforms[row] for row in order], [texts[row] for row in order]


def _ways(run: str, rate: int) -> dict[str, Callable[[list[np.ndarray]], list[str]]]:
    own = open_recognizer(run, DecoderChoice(num_beams=1))
    theirs: Any = pipeline("automatic-speech-recognition", model=f"{run}/model", trust_remote_code=False)

    def piped(batch_size: int) -> Callable[[list[np.ndarray]], list[str]]:
        def run_pipeline(waveforms: list[np.ndarray]) -> list[str]:
            inputs: Any = [{"raw": waveform, "sampling_rate": rate} for waveform in waveforms]
            return [found["text"] for found in theirs(inputs, batch_size=batch_size)]

        return run_pipeline

    return {
        "hflab": lambda waveforms: [found.text for found in own.recognize(waveforms)],
        "pipeline, one by one": piped(1),
        "pipeline, batches of 8": piped(8),
    }


if __name__ == "__main__":
    main()
