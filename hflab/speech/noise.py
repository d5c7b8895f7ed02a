"""Noise and other changes that make a recogniser robust: of a waveform, by a seeded generator. Knows nothing about data sets and models.

N: samples.
"""

from collections.abc import Callable

import numpy as np

from .audio import resample

LOWEST_FREQUENCY = (
    1 / 800
)  # of coloured noise, by the sampling rate: 20 Hz of 16 kHz. Nobody hears what is lower, and brown has most of its power there


def white(length: int, generator: np.random.Generator) -> np.ndarray:
    """As strong at every frequency, (N,) float32 of unit power."""
    return generator.standard_normal(length, dtype=np.float32)


def pink(length: int, generator: np.random.Generator) -> np.ndarray:
    """Power falling with the frequency, as of rain and air, (N,) float32 of unit power."""
    return _coloured(length, generator, exponent=0.5)


def brown(length: int, generator: np.random.Generator) -> np.ndarray:
    """Power falling with the square of the frequency, as of engines and wind, (N,) float32 of unit power."""
    return _coloured(length, generator, exponent=1.0)


NOISES: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {"white": white, "pink": pink, "brown": brown}


def add_noise(waveform: np.ndarray, signal_to_noise: float, noise: str, generator: np.random.Generator) -> np.ndarray:
    """The waveform (N,) with noise that is `signal_to_noise` dB weaker than its mean power; silence stays as it is."""
    power = float(np.mean(np.square(waveform, dtype=np.float64)))
    scale = np.float32(np.sqrt(power / 10 ** (signal_to_noise / 10)))
    return waveform + scale * NOISES[noise](len(waveform), generator)


def change_speed(waveform: np.ndarray, percent: int) -> np.ndarray:
    """The waveform (N,) at so many percent of its speed, its pitch changed with it (Ko et al. 2015, "Audio Augmentation for Speech Recognition")."""
    return resample(waveform, percent, 100)


def _coloured(length: int, generator: np.random.Generator, exponent: float) -> np.ndarray:
    """White noise above `LOWEST_FREQUENCY` whose amplitudes are divided by the frequency to the power of `exponent`."""
    spectrum = np.fft.rfft(generator.standard_normal(length))
    cycles = np.arange(len(spectrum))
    spectrum *= (cycles > LOWEST_FREQUENCY * length) / np.maximum(cycles, 1) ** exponent
    noise = np.fft.irfft(spectrum, n=length)
    return (noise / max(float(np.sqrt(np.mean(noise**2))), 1e-12)).astype(np.float32)
