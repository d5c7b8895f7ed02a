"""The commands of the command line that are about speech: what they take, and one call for each. See `cli.py`."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import UserError
from .recipe import load_recipe
from .terminal import without_loading_bars

FORMATS = ("txt", "srt", "vtt", "json")


def add_transcribe(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hflab transcribe`."""
    parser.add_argument("model", help="run folder, model folder or Hub id")
    parser.add_argument(
        "recordings", nargs="+", type=Path, metavar="RECORDING", help="sound files, or folders of them; with --stream: - or microphone"
    )
    parser.add_argument(
        "--stream", action="store_true", help="write down live sound, of standard input (-) or a microphone; for models that read one way"
    )
    parser.add_argument("--json", action="store_true", help="with --stream: a line of JSON for every event, partial ones too")
    parser.add_argument("--format", default="txt", help="txt, srt, vtt or json, or several with commas between them (default: txt)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write a file for each recording here; those that are there are passed over")
    parser.add_argument("--overwrite", action="store_true", help="write anew what is there already (with --output)")
    parser.add_argument(
        "--segments", default="auto", help="where to cut: by silero, energy or windows (default: silero if it is installed, else energy)"
    )
    parser.add_argument("--max-seconds", type=float, default=20.0, help="longest piece that is recognised at once (default: 20)")
    parser.add_argument("--batch-seconds", type=float, default=120.0, help="seconds of sound that the model reads at a time (default: 120)")
    parser.add_argument("--beams", type=int, help="1: greedily; more: beam search (default: as the model was saved)")
    parser.add_argument("--language-model", type=Path, metavar="FILE", help="an ARPA file, or one of kenlm, instead of the model's own")
    parser.add_argument("--hot-word", action="append", default=[], metavar="WORDS", help="word or phrase to expect; may be given several times")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that the model brings; only for a source you trust")


def run_transcribe(options: argparse.Namespace, overrides: dict[str, str], command: str) -> int:
    """Recognise, and print or write."""
    from . import api
    from .recognition import TranscribeOptions

    chosen = TranscribeOptions(
        output=options.output,
        formats=tuple(name.strip() for name in options.format.split(",")),
        overwrite=options.overwrite,
        segments=options.segments,
        max_seconds=options.max_seconds,
        batch_seconds=options.batch_seconds,
        num_beams=options.beams,
        language_model=options.language_model,
        hot_words=tuple(options.hot_word),
    )
    if options.output is None and len(chosen.formats) > 1:
        raise UserError("Several formats go with --output FOLDER; without it one format is printed.")
    if options.stream:
        return _transcribe_live(options, chosen)
    without_loading_bars()
    with _progress(options.recordings) as progress:
        found = api.transcribe(options.model, options.recordings, chosen, trust_remote_code=options.trust_remote_code, report=progress.update)
        progress.reset()  # the model is open now, and the rate is that of the sound
        if options.output is None:
            return _print_transcripts(found, options, progress)
        return _write_transcripts(found, progress)


def _transcribe_live(options: argparse.Namespace, chosen: Any) -> int:
    from .recognition import open_recognizer
    from .transcription.live import transcribe_live
    from .transcription.streaming import StreamingOptions

    if len(options.recordings) > 1:
        raise UserError("--stream hears one source; give - for standard input, or microphone.")
    if options.output is not None or options.format != "txt":
        raise UserError("--stream prints what it hears, as text or with --json as events; leave --output and --format out.")
    without_loading_bars()
    recognizer = open_recognizer(options.model, chosen.decoder, trust_remote_code=options.trust_remote_code)
    live = StreamingOptions(segmentation=chosen.reading.segmentation)
    transcribe_live(recognizer, str(options.recordings[0]), sys.stdout, live, json_lines=options.json)
    return 0


def _print_transcripts(found: Iterator[Any], options: argparse.Namespace, progress: Any) -> int:
    from .transcription.writing import formatted

    is_one = len(options.recordings) == 1 and not options.recordings[0].is_dir()
    for written in found:
        progress.clear()
        if not is_one:
            print(f"== {written.recording}")
        print(formatted(written.spoken, options.format.strip()), end="", flush=True)
    return 0


def _write_transcripts(found: Iterator[Any], progress: Any) -> int:
    done = []
    for written in found:
        done.append(written)
        progress.clear()
        if written.problem is not None:
            print(f"hflab: {written.problem}", file=sys.stderr)
        else:
            print(" ".join(map(str, written.files)) + ("" if written.spoken else " (was there)"), flush=True)
    progress.close()
    heard = [written.spoken for written in done if written.spoken is not None]
    seconds, elapsed = sum(spoken.seconds for spoken in heard), sum(spoken.elapsed_seconds for spoken in heard)
    failed = sum(written.problem is not None for written in done)
    speed = f", {elapsed / seconds:.4f} of real time" if seconds else ""
    print(f"{len(heard)} recordings, {seconds:,.1f} s of sound in {elapsed:,.1f} s{speed}; {failed} could not be read.", file=sys.stderr)
    return 2 if failed else 0


def _progress(given: list[Path]) -> Any:
    """A bar of the seconds of sound that are done, whose rate is the inverse of the real-time factor."""
    from tqdm.auto import tqdm

    from .speech.audio import duration_of
    from .transcription.recordings import find_recordings

    total = sum(duration_of(recording) for recording in find_recordings(given))
    # disable=None: a bar on terminals only
    return tqdm(total=round(total, 1), desc="transcribing", unit=" s of sound", disable=None, leave=False)


def add_language_model(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hflab language-model`."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder of a speech recognizer")
    parser.add_argument("--text", type=Path, metavar="FILE", help="UTF-8 text with a sentence on each line (default: the training transcripts)")
    parser.add_argument("--order", type=int, default=3, help="words of the longest n-grams, 1 to 6 (default: 3)")
    parser.add_argument("--beams", type=int, default=32, help="beams of the search that is saved (default: 32)")


def run_language_model(options: argparse.Namespace, overrides: dict[str, str], command: str) -> int:
    """Build, tune and save; print what it does."""
    from . import api
    from .summaries import describe_language_model

    without_loading_bars()
    found = api.add_language_model(options.run_folder, options.text, order=options.order, num_beams=options.beams)
    print(describe_language_model(dataclasses.asdict(found), options.run_folder.as_posix()))
    return 0


def add_data_check(parser: argparse.ArgumentParser) -> None:
    """The arguments of `hflab data check`."""
    parser.add_argument("recipe", help="name of a recipe of speech_recognition, or a YAML file")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="write data_check.json, left_out.csv and the picture data_check.png here")


def run_data_check(options: argparse.Namespace, overrides: dict[str, str], command: str) -> int:
    """Look at every clip, and print what was found."""
    load_recipe(options.recipe, overrides)  # a mistake is told before torch is even imported
    from . import api
    from .summaries import describe_check

    found = api.check_data(options.recipe, overrides, report=options.report)
    print(describe_check(found))
    return 1 if found.has_problems else 0
