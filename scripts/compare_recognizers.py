"""A recognizer's word errors beside pocketsphinx with the same n-grams, on the same held-out clips.

    hflab train ctc_synthetic_commands
    hflab language-model runs/ctc_synthetic_commands
    python scripts/compare_recognizers.py runs/ctc_synthetic_commands        # 2 minutes on two CPU cores; pip install pocketsphinx
    python scripts/compare_recognizers.py runs/ctc_human_asterisk --data FOLDER        # other clips than the run's own, as in `hflab evaluate`

Pocketsphinx has its own acoustic model, of human speakers, and its own dictionary; it is given the recognizer's language model if there is one, and
words that its dictionary lacks are named. It is decoded twice: with that model, and with the wide English one that it brings.
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
from hflab.evaluation.speech_metrics import CharacterErrorRate, SpeechOutputs, WordErrorRate, bootstrap_interval
from hflab.measuring import open_model
from hflab.recognition import DecoderChoice, open_recognizer
from hflab.speech.audio import as_integers
from hflab.speech.saved_decoder import MODEL_FILE
from hflab.training.speech_recognition import SpeechRecognition


def main() -> None:
    """Print a line for each recognizer and decoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder of a recognizer")
    parser.add_argument("--data", help="other recordings than the run's: a folder, a table or the name of a source")
    parser.add_argument("--path", help="data.path of such a source")
    parser.add_argument("--language", help="data.language of such a source")
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, help="at most so many")
    options = parser.parse_args()
    try:
        overrides = {f"data.{key}": value for key in ("path", "language") if (value := getattr(options, key)) is not None}
        opened = open_model(options.run, options.data, split=options.split, overrides=overrides)
        assert isinstance(opened.task, SpeechRecognition)
        clips = opened.task.prepared.splits[opened.split].rows
        rows = range(min(len(clips), options.clips or len(clips)))
        waveforms = [clips.waveforms.waveform(row) for row in rows]
        arpa = Path(options.run) / "model" / MODEL_FILE
        of = f"{len(set(clips.speakers))} speaker(s)" if None not in clips.speakers else "speakers who are not named"
        print(f"{len(rows)} clips, {sum(map(len, waveforms)) / clips.waveforms.sampling_rate:.0f} s, of {of}")
        for name, recognize in _recognizers(options.run, arpa if arpa.is_file() else None).items():
            began = time.process_time()
            texts = recognize(waveforms)
            took = time.process_time() - began
            # clips whose speakers are not known are drawn one by one
            speakers = [clips.speakers[row] or "" for row in rows] if len(set(clips.speakers)) > 1 else None
            outputs = SpeechOutputs(texts, [clips.texts[row] for row in rows], "basic", speakers)
            low, high, *_ = bootstrap_interval(outputs, WordErrorRate, seed=0)
            words, characters = 100 * WordErrorRate.compute(outputs), 100 * CharacterErrorRate.compute(outputs)
            wrong = f"{words:6.2f} % of words wrong ({100 * low:.1f} to {100 * high:.1f}), {characters:.2f} % of characters"
            print(f"{name:34} {wrong}, {took:.1f} CPU-seconds")
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def _recognizers(run: str, arpa: Path | None) -> dict[str, Callable[[list[np.ndarray]], list[str]]]:
    greedy = open_recognizer(run, DecoderChoice(num_beams=1))
    recognizers: dict[str, Callable[[list[np.ndarray]], list[str]]] = {
        "hflab, greedy": lambda waveforms: [found.text for found in greedy.recognize(waveforms)]
    }
    if arpa is not None:
        with_model = open_recognizer(run)
        recognizers["hflab, with the language model"] = lambda waveforms: [found.text for found in with_model.recognize(waveforms)]
        recognizers["pocketsphinx, with the same"] = lambda waveforms: _pocketsphinx(waveforms, arpa)
    recognizers["pocketsphinx, with its own"] = lambda waveforms: _pocketsphinx(waveforms, None)
    return recognizers


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
