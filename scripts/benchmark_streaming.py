"""Long recordings and live sound beside single clips: errors, latency, speed and memory over a long recording of a model's own held-out clips.

    python scripts/benchmark_streaming.py runs/uni                                  # an hour of its test split, in blocks of 100 ms
    python scripts/benchmark_streaming.py runs/uni --minutes 10 --pauses 0.05 0.3   # speech with hardly a pause
    python scripts/benchmark_streaming.py runs/uni --segments windows               # live, the model hears silence too, with one state throughout
    python scripts/benchmark_streaming.py runs/ctc_synthetic_digits --minutes 10    # of a model that reads both ways, and cannot hear live sound

A model that reads in one direction: hflab train ctc_synthetic_digits --model.bidirectional false --run uni. The recording is cut in each of the ways
of `hflab transcribe --segments`. Clips are drawn one after the other, again
and again, with faint noise in the pauses between them, and fed as fast as they can be read. Errors of long recordings are counted in groups of some
minutes, words belonging to where their middle lies. Delays are from the end of a word's last frame to the end of the computation by which an event
first shows it, in a stream that is fed in time.
"""

import argparse
import os
import platform
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hflab.data.speech_batches import PAUSE_LEVEL, EncodedClips
from hflab.errors import UserError
from hflab.evaluation.speech_metrics import SpeechOutputs, WordErrorRate
from hflab.measuring import open_model
from hflab.recognition import DecoderChoice, open_recognizer
from hflab.speech.segmentation import METHODS, SegmentationOptions
from hflab.speech.subtitles import CaptionWord
from hflab.terminal import without_loading_bars
from hflab.training.speech_recognition import SpeechRecognition
from hflab.transcription.chunked_logits import check_streamable
from hflab.transcription.recognizer import Recognizer
from hflab.transcription.recordings import TranscriptionOptions, transcribe_waveform
from hflab.transcription.streaming import StreamEvent, StreamingOptions, StreamingRecognizer

BLOCK_SECONDS = 0.1
GROUP_SECONDS = 300.0


@dataclass(frozen=True)
class LongRecording:
    """Clips one after the other, each after a pause; made piece by piece, so that it takes no memory."""

    clips: EncodedClips
    order: list[int]
    """Numbers of clips in their split."""
    pauses: list[float]
    """Seconds before each clip."""
    sampling_rate: int

    @classmethod
    def draw(cls, clips: EncodedClips, seconds: float, pauses: tuple[float, float]) -> "LongRecording":
        """Of at least so many seconds."""
        generator, rate = np.random.default_rng(1), clips.rows.waveforms.sampling_rate
        recording = cls(clips, [], [], rate)
        total = 0.0
        while total < seconds:
            for clip in generator.permutation(clips.chosen).tolist():
                recording.order.append(clip)
                recording.pauses.append(float(generator.uniform(*pauses)))
                total += recording.pauses[-1] + clips.rows.waveforms.lengths[clip] / rate
                if total >= seconds:
                    break
        return recording

    def pieces(self) -> Iterator[np.ndarray]:
        """A pause, a clip, a pause, a clip, (N,) float32 each."""
        generator = np.random.default_rng(2)
        for clip, seconds in zip(self.order, self.pauses, strict=True):
            yield generator.standard_normal(round(seconds * self.sampling_rate), dtype=np.float32) * np.float32(PAUSE_LEVEL)
            yield self.clips.rows.waveforms.waveform(clip)

    def blocks(self) -> Iterator[np.ndarray]:
        """All of it in blocks of `BLOCK_SECONDS`."""
        size, waiting = round(BLOCK_SECONDS * self.sampling_rate), np.empty(0, np.float32)
        for piece in self.pieces():
            waiting = np.concatenate([waiting, piece])
            for first in range(0, len(waiting) - size + 1, size):
                yield waiting[first : first + size]
            waiting = waiting[len(waiting) - len(waiting) % size :]
        yield waiting

    def references(self) -> list[str]:
        """What is said in each group of `GROUP_SECONDS`."""
        groups: list[list[str]] = []
        place = 0.0
        for clip, pause in zip(self.order, self.pauses, strict=True):
            length = self.clips.rows.waveforms.lengths[clip] / self.sampling_rate
            group = int((place + pause + length / 2) / GROUP_SECONDS)
            groups += [[] for _ in range(group + 1 - len(groups))]
            groups[group].append(self.clips.rows.texts[clip])
            place += pause + length
        return [" ".join(texts) for texts in groups]


class Streamed:
    """What was measured of a stream; it holds little more for a long one, so as not to be taken for the recognizer's memory."""

    def __init__(self, num_groups: int) -> None:
        self.texts: list[list[str]] = [[] for _ in range(num_groups)]
        """Final words of each group of `GROUP_SECONDS`."""
        self.num_finals = 0
        self.delays = array("d")
        """Seconds, of each word of the final events."""
        self.elapsed, self.work = array("d"), array("d")
        """Seconds that each block took, and seconds of them that this process was at work."""
        self.megabytes: list[float] = []
        """Resident memory at the beginning and every ten minutes of sound."""
        self.seconds = 0.0
        """Of sound."""
        self._shown: dict[tuple[str, int], float] = {}  # when each word of the running utterance was first seen, by its text and place

    def note(self, events: Sequence[StreamEvent], now: float) -> None:
        """Count events that were there at `now`."""
        for event in events:
            for word in event.words:
                self._shown.setdefault((word.text, round(word.start * 1000)), now)
            if event.kind == "final" and event.words:
                self._note_final(event.words)

    def _note_final(self, words: Sequence[CaptionWord]) -> None:
        self.num_finals += 1
        for word in words:
            self.delays.append(self._shown[word.text, round(word.start * 1000)] - word.end)
            group_of(self.texts, word).append(sys.intern(word.text))
        heard = round(words[-1].end * 1000)
        self._shown = {key: now for key, now in self._shown.items() if key[1] >= heard}


def stream(recognizer: Recognizer, recording: LongRecording, options: StreamingOptions) -> Streamed:
    """Feed the recording."""
    live, found = StreamingRecognizer(recognizer, options), Streamed(len(recording.references()))
    ten_minutes = round(600 / BLOCK_SECONDS)
    for number, block in enumerate(recording.blocks()):
        if number % ten_minutes == ten_minutes // 60:  # ten seconds after each, when all code that is needed is in memory
            found.megabytes.append(resident_megabytes())
        began, began_work = time.perf_counter(), time.process_time()
        events = live.feed(block)
        found.work.append(time.process_time() - began_work)
        found.elapsed.append(time.perf_counter() - began)
        found.seconds += len(block) / recording.sampling_rate
        found.note(events, found.seconds + found.elapsed[-1])
    found.note(live.finish(), found.seconds)
    return found


def resident_megabytes() -> float:
    """Memory of this process that is not swapped out (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


def errors_of(predictions: list[str], references: list[str], normalizer: str) -> str:
    """The word error rate, and of what errors it is made."""
    outputs = SpeechOutputs(predictions, references, normalizer)
    counts = outputs.counts
    kinds = f"{counts.substitutions.sum()} substituted, {counts.deletions.sum()} deleted, {counts.insertions.sum()} inserted"
    return f"{100 * WordErrorRate.compute(outputs):.2f} % of {counts.words.sum():,} words ({kinds})"


def group_of(groups: list[list[str]], word: CaptionWord) -> list[str]:
    """The group of `GROUP_SECONDS` in which the middle of the word lies."""
    return groups[min(len(groups) - 1, int((word.start + word.end) / 2 / GROUP_SECONDS))]


def grouped(words: Sequence[CaptionWord], num_groups: int) -> list[list[str]]:
    """The words of each group."""
    groups: list[list[str]] = [[] for _ in range(num_groups)]
    for word in words:
        group_of(groups, word).append(word.text)
    return groups


def spread(seconds: Sequence[float], unit: str = "s") -> str:
    """Median, 99 % and greatest of some times."""
    times = np.array(seconds) * {"s": 1, "ms": 1000}[unit]
    return f"median {np.median(times):.2f} {unit}, 99 % {np.quantile(times, 0.99):.2f} {unit}, most {times.max():.2f} {unit}"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder or model folder of a speech recognizer; live sound is for one-directional recurrent ones")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the recording (default: 60)")
    parser.add_argument("--pauses", type=float, nargs=2, default=(0.3, 3.0), metavar=("LEAST", "MOST"), help="seconds between clips (default: 0.3 3)")
    parser.add_argument("--chunk-seconds", type=float, default=StreamingOptions.chunk_seconds, help="that the model reads at a time live")
    parser.add_argument("--segments", default="energy", help="energy or windows: what the model hears live (default: energy)")
    parser.add_argument("--beams", type=int, default=1, help="above 1: beam search, live at the end of each utterance (default: 1)")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    without_loading_bars()
    task = open_model(arguments.model, split="test").task
    assert isinstance(task, SpeechRecognition)
    clips, normalizer = task.prepared.splits["test"], task.recipe.processor.normalizer
    recognizer = open_recognizer(arguments.model, DecoderChoice(num_beams=arguments.beams))
    recording = LongRecording.draw(clips, 60 * arguments.minutes, tuple(arguments.pauses))
    waveforms = [clips.rows.waveforms.waveform(row) for row in clips.chosen.tolist()]  # all in memory before memory is measured
    print(f"{platform.machine()}, {os.cpu_count()} cores, 1 thread, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    seconds = sum(map(len, recording.pieces())) / recording.sampling_rate
    print(f"{seconds / 60:.1f} minutes, {len(recording.order)} clips, pauses of {arguments.pauses[0]:g} to {arguments.pauses[1]:g} s\n")
    options = StreamingOptions(arguments.chunk_seconds, segmentation=SegmentationOptions(method=arguments.segments))
    streamed = stream(recognizer, recording, options) if can_stream(recognizer) else None
    apart = dict(zip(clips.chosen.tolist(), recognizer.recognize(waveforms), strict=True))
    texts = [clips.rows.texts[row] for row in recording.order]
    print("the same clips apart   ", errors_of([apart[row].text for row in recording.order], texts, normalizer))
    print_errors_of_recording(recognizer, recording, normalizer)
    if streamed is not None:
        print_stream(streamed, recording, recognizer.alphabet.space, normalizer)


def can_stream(recognizer: Recognizer) -> bool:
    """Whether it can hear live sound; if not, why is printed."""
    try:
        check_streamable(recognizer)
    except UserError as error:
        print(f"no live sound: {error}\n")
        return False
    return True


def print_errors_of_recording(recognizer: Recognizer, recording: LongRecording, normalizer: str) -> None:
    """Of the whole recording by each way of cutting it."""
    references, joiner = recording.references(), recognizer.alphabet.space
    waveform = np.concatenate(list(recording.pieces()))
    for method in METHODS:
        try:
            spoken = transcribe_waveform(recognizer, waveform, TranscriptionOptions(SegmentationOptions(method=method)))
        except UserError as error:
            print(f"the recording, {method:8}", error)
            continue
        texts = [joiner.join(words) for words in grouped(spoken.words, len(references))]
        print(f"the recording, {method:8}", errors_of(texts, references, normalizer), f"real-time factor {spoken.real_time_factor:.4f}")


def print_stream(streamed: Streamed, recording: LongRecording, joiner: str, normalizer: str) -> None:
    """Errors, latency, speed and memory of live sound."""
    print("live                   ", errors_of([joiner.join(words) for words in streamed.texts], recording.references(), normalizer))
    print(f"\n{streamed.num_finals:,} utterances")
    for what, seconds in {"elapsed": streamed.elapsed, "at work": streamed.work}.items():
        print(f"a block of {1000 * BLOCK_SECONDS:.0f} ms, {what}: {spread(seconds, 'ms')}; of real time {sum(seconds) / streamed.seconds:.4f}")
    print(f"delay of a word: {spread(streamed.delays)}")
    print("resident memory every 10 minutes, in MB:", ", ".join(f"{size:.1f}" for size in streamed.megabytes))


if __name__ == "__main__":
    main()
