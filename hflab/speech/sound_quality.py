"""What is wrong with the sound of a recording, whatever it says: silence, clipping, an offset; and a hash to know it by.

    quality = measure_sound(read_blocks(Path("talk.flac")))
    quality.silence, quality.full_scale_share, quality.loudness

A recording is measured as it is stored, a block after the other, so that long ones need no more memory than short ones. Knows nothing about
transcripts, data sets and models.

N: samples, F: frames of `loudness.py`.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .audio import SoundBlock, as_integers
from .loudness import LOWEST_LEVEL, measure_loudness, noise_floor

FULL_SCALE = 0.999  # amplitude from which on a sample is at full scale, for the highest of 16 bits is a little below 1
QUIETEST_SOUND = -70.0  # dB; what stays below is the dither of a converter, and no speech
ABOVE_NOISE_DB = 6.0  # a frame that rises so far above the noise floor is sound
LEAST_FRAMES = 40  # half a second; shorter sounds may be a single vowel, as loud at its end as at its beginning
QUIET_PERCENTILE = 10


@dataclass(frozen=True)
class SoundQuality:
    """Measures of a recording as it is stored."""

    sampling_rate: int
    """In Hz."""
    num_channels: int
    num_samples: int
    """Of each channel."""
    loudness: float
    """Root mean square of the channels' mean, in dB relative to full scale, `LOWEST_LEVEL` or more."""
    full_scale_share: float
    """Share of the samples at which a channel is at full scale, 0 to 1."""
    offset: float
    """Mean of the samples, -1 to 1."""
    silence: str
    """Why nothing is heard, in words; empty where something is."""
    leading_seconds: float
    """Before the first sound; 0 where nothing is heard."""
    trailing_seconds: float
    """After the last sound; 0 where nothing is heard."""
    digest: str
    """Hash of the mean of the channels in 16 bits and of the rate: the same for the same sound, in whatever format without loss it is stored."""

    @property
    def seconds(self) -> float:
        """Of the whole recording."""
        return self.num_samples / self.sampling_rate

    @property
    def heard_seconds(self) -> float:
        """Without the silence at the beginning and the end."""
        return self.seconds - self.leading_seconds - self.trailing_seconds


def measure_sound(blocks: Iterable[SoundBlock]) -> SoundQuality:
    """Measure a recording that comes in blocks, at least one."""
    num_samples = num_at_full_scale = num_channels = rate = 0
    total = power = 0.0
    low, high = math.inf, -math.inf
    digest = hashlib.sha256()
    levels = []
    for samples, rate in blocks:
        num_channels = samples.shape[1]
        mono = samples.mean(axis=1, dtype=np.float32)
        num_samples += len(mono)
        num_at_full_scale += int((np.abs(samples).max(axis=1) >= FULL_SCALE).sum())
        total += float(mono.sum(dtype=np.float64))
        power += float(np.square(mono, dtype=np.float64).sum())
        low, high = min(low, float(mono.min())), max(high, float(mono.max()))
        digest.update(as_integers(mono).data)
        levels.append(measure_loudness(mono, rate).levels)
    assert num_samples, "a recording has samples"
    digest.update(str(rate).encode())
    in_time = np.concatenate(levels)
    silence = "digital silence" if low == high else _silence(in_time)
    leading, trailing = (0.0, 0.0) if silence else _quiet_ends(in_time, num_samples / rate)
    return SoundQuality(
        sampling_rate=rate,
        num_channels=num_channels,
        num_samples=num_samples,
        loudness=max(LOWEST_LEVEL, 10 * math.log10(max(power / num_samples, 1e-30))),
        full_scale_share=num_at_full_scale / num_samples,
        offset=total / num_samples,
        silence=silence,
        leading_seconds=leading,
        trailing_seconds=trailing,
        digest=digest.hexdigest(),
    )


def _silence(levels: np.ndarray) -> str:
    """Why nothing is heard at the levels (F,) in dB; empty where something is."""
    loudest = float(levels.max())
    if loudest < QUIETEST_SOUND:
        return f"nothing is louder than {loudest:.0f} dBFS"
    range_db = loudest - float(np.percentile(levels, QUIET_PERCENTILE))
    if len(levels) >= LEAST_FRAMES and range_db < ABOVE_NOISE_DB:
        return f"as even as noise alone, within {range_db:.1f} dB"
    return ""


def _quiet_ends(levels: np.ndarray, seconds: float) -> tuple[float, float]:
    """Seconds before the first and after the last of the levels (F,) in dB that is above the noise floor."""
    above = np.flatnonzero(levels > float(noise_floor(levels)) + ABOVE_NOISE_DB)
    if not len(above):
        return 0.0, 0.0
    per_frame = seconds / len(levels)
    return float(above[0] * per_frame), float((len(levels) - 1 - above[-1]) * per_frame)
