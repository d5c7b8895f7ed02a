"""A recognizer's word errors beside pocketsphinx with the same n-grams, on the same held-out clips.

    hflab train ctc_synthetic_commands
    hflab language-model runs/ctc_synthetic_commands
    python scripts/compare_recognizers.py runs/ctc_synthetic_commands        # 2 minutes on two CPU cores; pip install pocketsphinx

Pocketsphinx has its own acoustic model, of human speakers, and its own dictionary; it is given the recognizer's language model, and words that its
dictionary lacks are named. It is decoded twice: with that model, and with the wide English one that it brings.
"""

import argparse
import gzip
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hflab.errors import UserError
from hflab.evaluation.speech_metrics import SpeechOutputs, WordErrorRate, bootstrap_interval
from hflab.measuring import open_model
from hflab.recognition import DecoderChoice, open_recognizer
from hflab.speech.audio import as_integers
from hflab.speech.saved_decoder import MODEL_FILE
from hflab.training.speech_recognition import SpeechRecognition


def main() -> None:
    """Print a line for each recognizer and decoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder of a recognizer that has a language model")
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, help="at most so many")
    options = parser.parse_args()
    try:
        task = open_model(options.run, split=options.split).task
        assert isinstance(task, SpeechRecognition)
        clips = task.prepared.splits[options.split].rows
        rows = range(min(len(clips), options.clips or len(clips)))
        waveforms = [clips.waveforms.waveform(row) for row in rows]
        arpa = Path(options.run) / "model" / MODEL_FILE
        if not arpa.is_file():
            raise UserError(f"{options.run} has no language model; run: hflab language-model {options.run}")
        print(f"{len(rows)} clips, {sum(map(len, waveforms)) / clips.waveforms.sampling_rate:.0f} s, of {len(set(clips.speakers))} speakers")
        for name, recognize in _recognizers(options.run, arpa).items():
            began = time.process_time()
            texts = recognize(waveforms)
            took = time.process_time() - began
            outputs = SpeechOutputs(texts, [clips.texts[row] for row in rows], "basic", [clips.speakers[row] or "" for row in rows])
            low, high, *_ = bootstrap_interval(outputs, WordErrorRate, seed=0)
            errors = 100 * WordErrorRate.compute(outputs)
            print(f"{name:34} {errors:6.2f} % of words wrong ({100 * low:.1f} to {100 * high:.1f}), {took:.1f} CPU-seconds")
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def _recognizers(run: str, arpa: Path) -> dict[str, Callable[[list[np.ndarray]], list[str]]]:
    greedy, with_model = open_recognizer(run, DecoderChoice(num_beams=1)), open_recognizer(run)
    return {
        "hflab, greedy": lambda waveforms: [found.text for found in greedy.recognize(waveforms)],
        "hflab, with the language model": lambda waveforms: [found.text for found in with_model.recognize(waveforms)],
        "pocketsphinx, with the same": lambda waveforms: _pocketsphinx(waveforms, arpa),
        "pocketsphinx, with its own": lambda waveforms: _pocketsphinx(waveforms, None),
    }


def _pocketsphinx(waveforms: list[np.ndarray], arpa: Path | None) -> list[str]:
    try:
        from pocketsphinx import Decoder
    except ImportError:
        raise UserError("The peer is not installed; run: pip install pocketsphinx") from None
    with tempfile.TemporaryDirectory() as folder:
        settings = {"loglevel": "FATAL"}
        if arpa is not None:
            plain = Path(folder) / "language_model.lm"
            plain.write_bytes(gzip.decompress(arpa.read_bytes()))
            settings["lm"] = str(plain)
        decoder = Decoder(**settings)
        texts = []
        for waveform in waveforms:
            decoder.start_utt()
            decoder.process_raw(as_integers(waveform).tobytes(), full_utt=True)
            decoder.end_utt()
            texts.append(decoder.hyp().hypstr if decoder.hyp() else "")
        return texts


if __name__ == "__main__":
    main()
