"""How loud a recording is from moment to moment, and how loud its noise: what speech is told from silence by, and where a cut does no harm.

Waveforms are mono floats with full scale at 1.0; levels are in dB relative to it. This module knows nothing about speech, segments or files.

Legend: `N` samples, `F` frames, `W` frames of the window in which the noise floor is sought.
"""

import math
from dataclasses import dataclass

import numpy as np

SUBFRAMES_PER_SECOND = 200  # frames and their hops are whole numbers of subframes, so that neighbours share their sums
SUBFRAMES_PER_FRAME, SUBFRAMES_PER_HOP = 5, 2
FRAMES_PER_SECOND = SUBFRAMES_PER_SECOND // SUBFRAMES_PER_HOP
LOWEST_LEVEL = -100.0
SMOOTHED_FRAMES = 5  # noise of few frequencies flickers: the mean of neighbours keeps it below the threshold
QUIET_FRAMES = 20  # a cut is sought in a pause of about this length, not in the gap inside a consonant
QUIET_TOLERANCE_DB = 1.0  # points as quiet as this are equal, and the one that leaves the longer piece is taken
FLOOR_SECONDS, FLOOR_STEP_SECONDS, FLOOR_SHARE = 10, 0.5, 0.1
FLOOR_BELOW_LOUDEST_DB = 55.0  # sound further below the loudest nearby is no speech, however silent the pauses
FLOOR_LEAST = -80.0  # dither and the noise of converters lie below
FLOOR_RISE_DB = 30.0  # steady sound further above the quietest part of a recording is kept: it may be a held note, but is no noise floor
ASSUMED_FLOOR, ASSUMED_FRAMES = -60.0, 20  # what is believed of the noise until some two seconds have been heard


@dataclass(frozen=True)
class Loudness:
    """The levels of a waveform's frames, and where the frames lie in it."""

    levels: np.ndarray
    """(F,) float64, in dB, smoothed."""
    hop: int
    """Samples from the start of a frame to that of the next."""
    frame: int
    """Samples in a frame."""
    num_samples: int

    def quietest(self, start: int, end: int) -> int:
        """The sample of the quietest point between two samples; of several about equally quiet the last."""
        first, last = start // self.hop, max(start // self.hop + 1, end // self.hop)
        quiet = last_quietest(self.levels[max(0, first - QUIET_FRAMES) : last + QUIET_FRAMES], min(first, QUIET_FRAMES), last - first)
        return min(max((first + quiet) * self.hop + self.frame // 2, start), end)


def subframe_samples(sampling_rate: int) -> int:
    """How many samples are in a subframe."""
    return round(sampling_rate / SUBFRAMES_PER_SECOND)


def frame_levels(samples: np.ndarray, subframe: int) -> np.ndarray:
    """The level of each frame, in dB: the power that remains when each subframe's mean is taken away.

    So neither a constant offset nor rumble and the hum of the mains count for much: what is lost is below some 100 Hz.

    Args:
        samples: (N,) with exactly as many as the frames need.
        subframe: samples in a subframe.

    Returns:
        (F,) float64, `LOWEST_LEVEL` or more.
    """
    parts = samples.reshape(-1, subframe).astype(np.float64)
    powers = np.einsum("ij,ij->i", parts, parts) / subframe - parts.mean(axis=1) ** 2
    means = np.lib.stride_tricks.sliding_window_view(powers, SUBFRAMES_PER_FRAME)[::SUBFRAMES_PER_HOP].mean(axis=1)
    return 10 * np.log10(np.maximum(means, 10 ** (LOWEST_LEVEL / 10)))


def moving_mean(levels: np.ndarray, width: int) -> np.ndarray:
    """The mean of each `width` neighbouring levels; (F,) to (F - width + 1,), or (0,) if there are fewer than `width`."""
    if len(levels) < width:
        return np.empty(0)
    return np.convolve(levels, np.full(width, 1 / width), mode="valid")


def smooth(levels: np.ndarray, width: int) -> np.ndarray:
    """The mean of each level and its neighbours, `width` in all, the first and last repeated beyond the ends; (F,) to (F,)."""
    return moving_mean(np.pad(levels, (width // 2, width - 1 - width // 2), mode="edge"), width)


def measure_loudness(waveform: np.ndarray, sampling_rate: int) -> Loudness:
    """The smoothed levels of a waveform (N,), N > 0; every sample is in at least one frame. A minute at a time, for the memory's sake."""
    subframe = subframe_samples(sampling_rate)
    hop, frame = subframe * SUBFRAMES_PER_HOP, subframe * SUBFRAMES_PER_FRAME
    num_frames, at_once = math.ceil(len(waveform) / hop), 60 * FRAMES_PER_SECOND
    levels = []
    for first in range(0, num_frames, at_once):
        last = min(first + at_once, num_frames) - 1
        samples = waveform[first * hop : last * hop + frame]
        levels.append(frame_levels(np.pad(samples, (0, last * hop + frame - first * hop - len(samples)), mode="edge"), subframe))
    return Loudness(smooth(np.concatenate(levels), SMOOTHED_FRAMES), hop, frame, len(waveform))


def last_quietest(levels: np.ndarray, first: int, count: int) -> int:
    """Which of the `count` frames from `first` is the quietest with its neighbours, counted from `first`; the last of about equals."""
    quiet = smooth(levels, QUIET_FRAMES)[first : first + count]
    return int(np.flatnonzero(quiet <= quiet.min() + QUIET_TOLERANCE_DB)[-1])


def noise_floor(levels: np.ndarray) -> np.ndarray:
    """The noise floor in windows of levels: a low percentile, held between the levels that a floor can have.

    In a short window the assumed floor decides: two seconds may be all speech, and then their quietest part is no noise.

    Args:
        levels: (..., W) in dB, W > 0.

    Returns:
        (...) in dB.
    """
    heard = np.concatenate([levels, np.full((*levels.shape[:-1], ASSUMED_FRAMES), ASSUMED_FLOOR)], axis=-1)
    rank = int(FLOOR_SHARE * heard.shape[-1])
    low = np.partition(heard, rank, axis=-1)[..., rank]
    return np.maximum(np.maximum(low, levels.max(axis=-1) - FLOOR_BELOW_LOUDEST_DB), FLOOR_LEAST)


def floor_of_frames(levels: np.ndarray) -> np.ndarray:
    """The noise floor around each frame, which follows noise that grows or fades within some seconds; (F,) to (F,) in dB."""
    width, step = min(len(levels), FLOOR_SECONDS * FRAMES_PER_SECOND), int(FLOOR_STEP_SECONDS * FRAMES_PER_SECOND)
    starts = np.append(np.arange(0, len(levels) - width, step), len(levels) - width)
    floors = noise_floor(np.lib.stride_tricks.sliding_window_view(levels, width)[starts])
    floors = np.minimum(floors, floors.min() + FLOOR_RISE_DB)
    return np.interp(np.arange(len(levels)), starts + width / 2, floors)
