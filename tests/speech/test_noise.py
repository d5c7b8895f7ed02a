import numpy as np
import pytest

from hflab.speech.noise import NOISES, add_noise, change_speed

pytest.importorskip("scipy")

RATE = 16000


def power_above(noise, frequency):
    """Share of the power at `frequency` in Hz and above it."""
    powers = np.abs(np.fft.rfft(noise.astype(np.float64))) ** 2
    return powers[np.fft.rfftfreq(len(noise), 1 / RATE) >= frequency].sum() / powers.sum()


def slope(noise):
    """Change of the power per octave, in dB, between 100 Hz and 6.4 kHz."""
    powers = np.abs(np.fft.rfft(noise.astype(np.float64))) ** 2
    frequencies = np.fft.rfftfreq(len(noise), 1 / RATE)
    octaves = [powers[(frequencies >= low) & (frequencies < 2 * low)].mean() for low in 100 * 2 ** np.arange(6)]
    return np.polyfit(np.arange(6), 10 * np.log10(octaves), 1)[0]


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("length", [1000, 16001, 160_000])
def test_noise_has_unit_power_and_is_decided_by_its_seed(name, length):
    one, again, other = (NOISES[name](length, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.dtype == np.float32
    assert one.shape == (length,)
    assert np.mean(one.astype(np.float64) ** 2) == pytest.approx(1, rel=0.1 if name == "white" else 1e-3)
    assert np.array_equal(one, again)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.3


@pytest.mark.parametrize(("name", "expected"), [("white", 0), ("pink", -3), ("brown", -6)])
def test_power_falls_with_the_frequency_as_the_name_says(name, expected):
    assert slope(NOISES[name](200_000, np.random.default_rng(0))) == pytest.approx(expected, abs=0.4)


def test_every_noise_is_tested():
    assert set(NOISES) == {"white", "pink", "brown"}


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("seconds", [1, 10])
def test_noise_can_be_heard_however_long_it_is(name, seconds):
    """A brown noise down to the lowest frequency that its length admits has 99.8 % of its power below 20 Hz."""
    noise = NOISES[name](seconds * RATE, np.random.default_rng(0))
    assert power_above(noise, 19) > 0.95
    assert power_above(noise, 100) > 0.1
    assert abs(noise.mean()) < 0.02


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("length", [1, 2, 3, 10])
def test_a_few_samples_are_enough(name, length):
    assert np.isfinite(NOISES[name](length, np.random.default_rng(0))).all()


@pytest.mark.parametrize("name", NOISES)
@pytest.mark.parametrize("level", [30, 10, 0, -5])
def test_noise_is_as_strong_as_it_is_told(name, level):
    speech = (0.3 * np.sin(np.arange(50_000) / 7)).astype(np.float32)
    noisy = add_noise(speech, level, name, np.random.default_rng(0))
    added = (noisy - speech).astype(np.float64)
    assert noisy.dtype == np.float32
    assert 10 * np.log10(np.mean(speech.astype(np.float64) ** 2) / np.mean(added**2)) == pytest.approx(level, abs=0.1)


def test_silence_stays_as_it_is():
    assert not add_noise(np.zeros(1000, dtype=np.float32), 10, "white", np.random.default_rng(0)).any()


@pytest.mark.parametrize("percent", [50, 85, 90, 100, 110, 113, 200])
def test_speed_changes_length_and_pitch_alike(percent):
    tone = (0.5 * np.sin(2 * np.pi * 400 * np.arange(RATE) / RATE)).astype(np.float32)
    found = change_speed(tone, percent)
    assert len(found) == -(-RATE * 100 // percent)
    spectrum = np.abs(np.fft.rfft(found * np.hanning(len(found))))
    assert np.fft.rfftfreq(len(found), 1 / RATE)[spectrum.argmax()] == pytest.approx(400 * percent / 100, abs=2)
    assert np.abs(found[1000:-1000]).max() == pytest.approx(0.5, rel=0.02)
