"""Speaks for `synthesis.py` in a process of its own: a job as JSON on standard input, 16-bit samples on standard output.

The C library of espeak-ng keeps some state from utterance to utterance, so that the same words sound the same only in a fresh process. This
file is run by its path and imports nothing of hflab.

    job: {"library": path, "data": path, "voice": "en-us+f3", "utterances": [{"text": "one", "speed": 170, "pitch": 50, "pitch_range": 50}, ...]}
    out: the sampling rate, then for each utterance the number of its samples and the samples; little-endian, 4 bytes a number and 2 a sample
"""

import ctypes
import json
import struct
import sys

RETRIEVAL = 1  # espeak_AUDIO_OUTPUT: hand the samples to the callback
UTF8, BY_CHARACTER = 1, 1
RATE, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER


def main() -> int:
    """Speak the job. Exit status 3: no such voice; 4: the library failed."""
    job = json.load(sys.stdin)
    library = ctypes.CDLL(job["library"])
    rate = library.espeak_Initialize(RETRIEVAL, 0, job["data"].encode(), 0)
    if rate < LOWEST_RATE:
        return 4
    heard: list[bytes] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def hear(samples: "ctypes._Pointer[ctypes.c_short]", count: int, events: int | None) -> int:
        if samples and count > 0:
            heard.append(ctypes.string_at(samples, 2 * count))
        return 0

    library.espeak_SetSynthCallback(hear)
    if library.espeak_SetVoiceByName(job["voice"].encode()) != 0:
        return 3
    sys.stdout.buffer.write(struct.pack("<i", rate))
    for utterance in job["utterances"]:
        heard.clear()
        library.espeak_ng_SetRandSeed(SEED)  # of the noise in some voices; it would be the time of day
        for parameter, name in ((RATE, "speed"), (PITCH, "pitch"), (RANGE, "pitch_range")):
            library.espeak_SetParameter(parameter, utterance[name], 0)
        text = utterance["text"].encode() + b"\0"
        if library.espeak_Synth(text, len(text), 0, BY_CHARACTER, 0, UTF8, None, None) != 0 or library.espeak_Synchronize() != 0:
            return 4
        samples = b"".join(heard)
        sys.stdout.buffer.write(struct.pack("<i", len(samples) // 2) + samples)
    return 0


SEED = ctypes.c_long(1)
LOWEST_RATE = 8000  # in Hz; below, the number is an error code

if __name__ == "__main__":
    sys.exit(main())
