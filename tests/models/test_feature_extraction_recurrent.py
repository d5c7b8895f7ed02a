"""Log-mel features: an independent computation of them, waveforms in pieces, in batches and of every kind, errors, saving."""

import copy
import io
import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from hflab.models import register_auto_classes
from hflab.models.recurrent import RecurrentFeatureExtractor
from hflab.models.recurrent.feature_extraction_recurrent import FRAMES_AT_ONCE, LOG_FLOOR

EXTRACTORS = {
    "default": {},
    "telephone": {"num_mel_bins": 40, "sampling_rate": 8000, "hop_length": 80, "window_length": 200},
    "odd": {"num_mel_bins": 23, "hop_length": 101, "window_length": 301, "min_frequency": 133.0, "max_frequency": 6000.0},
    "sparse": {"num_mel_bins": 5, "hop_length": 500, "window_length": 256, "min_frequency": 0.0},
}


@pytest.fixture(params=EXTRACTORS)
def extractor(request):
    return RecurrentFeatureExtractor(**EXTRACTORS[request.param])


def waveform(num_samples, seed=0):
    """A gliding tone in noise."""
    generator = np.random.default_rng(seed)
    glide = 0.3 * np.sin(np.cumsum(0.02 + 0.3 * np.arange(num_samples) / (num_samples + 1)))
    return (glide + 0.01 * generator.standard_normal(num_samples)).astype(np.float32)


def band_weights(num_bands, frequencies, low, high):
    """Triangles (frequencies, num_bands) whose corners are equally far apart on the mel scale, 2595 log10(1 + f / 700)."""
    mels = np.linspace(2595 * np.log10(1 + low / 700), 2595 * np.log10(1 + high / 700), num_bands + 2)
    corners = 700 * (10 ** (mels / 2595) - 1)
    weights = np.zeros((len(frequencies), num_bands))
    for band in range(num_bands):
        left, top, right = corners[band : band + 3]
        for place, frequency in enumerate(frequencies):
            if left < frequency <= top:
                weights[place, band] = (frequency - left) / (top - left)
            elif top < frequency < right:
                weights[place, band] = (right - frequency) / (right - top)
    return weights


def log_mel(samples, extractor):
    """Frame by frame, by the sums of the discrete Fourier transform, in double precision."""
    length = 1
    while length < extractor.window_length:
        length *= 2
    places, bins = np.arange(extractor.window_length), np.arange(length // 2 + 1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * places / (extractor.window_length - 1))
    waves = np.exp(-2j * np.pi * np.outer(places, bins) / length)
    highest = extractor.max_frequency or extractor.sampling_rate / 2
    weights = band_weights(extractor.num_mel_bins, bins * extractor.sampling_rate / length, extractor.min_frequency, highest)
    frames = []
    for start in range(0, len(samples) - extractor.window_length + 1, extractor.hop_length):
        spectrum = (samples[start : start + extractor.window_length].astype(np.float64) * window) @ waves
        frames.append(np.log(np.maximum(np.abs(spectrum) ** 2 @ weights, LOG_FLOOR)))
    return np.array(frames)


def test_features_are_their_formula(extractor):
    samples = waveform(4321)
    features = extractor(samples, sampling_rate=extractor.sampling_rate)["input_features"]
    assert features.dtype == np.float32
    expected = log_mel(samples, extractor)
    assert features.shape == (1, *expected.shape)
    np.testing.assert_allclose(features[0], expected, rtol=0, atol=2e-3)
    assert expected.std() > 1


def test_features_are_those_of_transformers():
    """Its `spectrogram`, with the same window, filters and floor."""
    samples, extractor = waveform(16000), RecurrentFeatureExtractor()
    expected = spectrogram(
        samples,
        window_function(400, "hann", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        center=False,
        mel_filters=mel_filter_bank(257, 80, 20.0, 8000.0, 16000, mel_scale="htk"),
        power=2.0,
        mel_floor=LOG_FLOOR,
        log_mel="log",
    )
    np.testing.assert_allclose(extractor(samples)["input_features"][0], expected.T, rtol=0, atol=2e-3)


def test_no_band_is_deaf():
    """A tone in the middle of each band is heard in it, at least as well as in any other; transformers has nothing to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extractor = RecurrentFeatureExtractor()
        mels = np.linspace(2595 * np.log10(1 + 20 / 700), 2595 * np.log10(1 + 8000 / 700), 82)[1:-1]
        for band, frequency in enumerate(700 * (10 ** (mels / 2595) - 1)):
            heard = extractor(0.5 * np.sin(2 * np.pi * frequency * np.arange(400) / 16000))["input_features"][0, 0]
            assert heard[band] > 3.0
            assert abs(int(heard.argmax()) - band) <= 1


def test_a_waveform_in_pieces_has_the_frames_of_the_whole(extractor):
    samples = waveform(6000)
    whole = extractor(samples)["input_features"][0]
    for size in (1, 3, 7):
        pieces = []
        for first in range(0, len(whole), size):
            start = first * extractor.hop_length
            end = start + (size - 1) * extractor.hop_length + extractor.window_length
            pieces.append(extractor(samples[start:end])["input_features"][0])
        np.testing.assert_allclose(np.concatenate(pieces)[: len(whole)], whole, rtol=0, atol=1e-4)


def test_long_recordings_are_computed_in_parts():
    extractor = RecurrentFeatureExtractor(num_mel_bins=4)
    samples = waveform((2 * FRAMES_AT_ONCE + 5) * 160)
    features = extractor(samples)["input_features"][0]
    assert len(features) == extractor.num_frames(len(samples)) > 2 * FRAMES_AT_ONCE
    for first in (0, FRAMES_AT_ONCE - 2, 2 * FRAMES_AT_ONCE - 2):
        alone = extractor(samples[first * 160 :][: 3 * 160 + 400])["input_features"][0]
        np.testing.assert_allclose(features[first : first + 4], alone, rtol=0, atol=1e-4)


def test_number_of_frames(extractor):
    window, hop = extractor.window_length, extractor.hop_length
    for num_samples in (1, 2, window - 1, window, window + 1, window + hop - 1, window + hop, window + 3 * hop):
        features = extractor(waveform(num_samples))["input_features"]
        assert features.shape == (1, extractor.num_frames(num_samples), extractor.num_mel_bins)
        assert features.shape[1] == max(1, 1 + (num_samples - window) // hop)
        assert np.isfinite(features).all()


@pytest.mark.parametrize("num_samples", [1, 160, 399])
def test_clips_shorter_than_a_window_are_filled_up_with_silence(num_samples):
    extractor, samples = RecurrentFeatureExtractor(), waveform(num_samples)
    filled = np.concatenate([samples, np.zeros(400 - num_samples, dtype=np.float32)])
    assert np.array_equal(extractor(samples)["input_features"], extractor(filled)["input_features"])


def test_silence_is_the_floor():
    features = RecurrentFeatureExtractor()(np.zeros(800, dtype=np.float32))["input_features"]
    np.testing.assert_allclose(features, np.log(LOG_FLOOR), rtol=1e-6)


def test_a_row_of_a_batch_is_the_row_alone(extractor):
    clips = [waveform(num_samples, seed) for seed, num_samples in enumerate((5000, 1, 3000, 700))]
    batch = extractor(clips, sampling_rate=extractor.sampling_rate, return_tensors="pt")
    lengths = [extractor.num_frames(len(clip)) for clip in clips]
    assert batch["input_features"].shape == (4, max(lengths), extractor.num_mel_bins)
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    for row, (clip, length) in enumerate(zip(clips, lengths, strict=True)):
        alone = extractor(clip, return_tensors="pt")
        assert alone["attention_mask"].tolist() == [[1] * length]
        assert torch.equal(batch["input_features"][row, :length], alone["input_features"][0])
        assert not batch["input_features"][row, length:].any()
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (max(lengths) - length)


def test_normalisation():
    plain, samples = RecurrentFeatureExtractor(num_mel_bins=6), [waveform(4000), waveform(2000, 1)]
    features = np.concatenate([plain(clip)["input_features"][0] for clip in samples])
    mean, deviation = features.mean(0), features.std(0)
    extractor = RecurrentFeatureExtractor(num_mel_bins=6, mean=mean, standard_deviation=torch.from_numpy(deviation), padding_value=7.0)
    batch = extractor(samples)
    normalised = batch["input_features"][batch["attention_mask"] == 1]
    np.testing.assert_allclose(normalised, (features - mean) / deviation, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(normalised.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(normalised.std(0), 1, atol=1e-4)
    assert (batch["input_features"][batch["attention_mask"] == 0] == 7).all()
    only_mean = RecurrentFeatureExtractor(num_mel_bins=6, mean=mean)(samples[0])["input_features"][0]
    np.testing.assert_allclose(only_mean, plain(samples[0])["input_features"][0] - mean, rtol=1e-4, atol=1e-4)


def test_padding_truncation_and_types():
    extractor, clips = RecurrentFeatureExtractor(num_mel_bins=6), [waveform(4000), waveform(2000)]
    frames = [extractor.num_frames(len(clip)) for clip in clips]
    assert frames == [23, 11]

    def shapes(**options):
        batch = extractor(clips, **options)
        return {name: tuple(values.shape) for name, values in batch.items()}

    assert shapes() == shapes(padding="longest") == {"input_features": (2, 23, 6), "attention_mask": (2, 23)}
    assert shapes(padding="max_length", max_length=30)["input_features"] == (2, 30, 6)
    assert shapes(padding="max_length", max_length=15, truncation=True) == {"input_features": (2, 15, 6), "attention_mask": (2, 15)}
    assert shapes(truncation=True, max_length=20)["input_features"] == (2, 20, 6)
    assert shapes(pad_to_multiple_of=8) == {"input_features": (2, 24, 6), "attention_mask": (2, 24)}
    assert shapes(return_attention_mask=False) == {"input_features": (2, 23, 6)}
    assert type(extractor(clips)["input_features"]) is type(extractor(clips, return_tensors="np")["input_features"]) is np.ndarray
    tensors = extractor(clips, return_tensors="pt")
    assert (tensors["input_features"].dtype, tensors["attention_mask"].dtype) == (torch.float32, torch.int32)
    assert [row.shape for row in extractor(clips, padding=False)["input_features"]] == [(23, 6), (11, 6)]
    assert "attention_mask" not in RecurrentFeatureExtractor(return_attention_mask=False)(clips)
    cut = extractor(clips, truncation=True, max_length=20)
    assert np.array_equal(cut["input_features"][0], extractor(clips[0])["input_features"][0, :20])
    assert cut["attention_mask"].sum(1).tolist() == [20, 11]
    with pytest.raises(ValueError, match="max_length"):
        extractor(clips, truncation=True)


def read_only(samples):
    samples = samples.copy()
    samples.flags.writeable = False
    return samples


@pytest.mark.parametrize(
    "convert",
    [
        lambda samples: samples.astype(np.float64),
        lambda samples: samples.astype(">f4"),
        lambda samples: samples[::-1].copy()[::-1],
        lambda samples: np.stack([samples, samples], axis=1)[:, 0],
        read_only,
        lambda samples: samples.tolist(),
        lambda samples: tuple(samples.tolist()),
        list,  # of numpy's scalars
        torch.from_numpy,
        lambda samples: torch.from_numpy(samples).requires_grad_(),
        lambda samples: [samples],
        lambda samples: [samples.tolist()],
        lambda samples: [torch.from_numpy(samples)],
    ],
)
def test_waveforms_of_every_kind(convert):
    extractor, samples = RecurrentFeatureExtractor(), waveform(1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features = extractor(convert(samples), sampling_rate=16000)["input_features"]
    assert np.array_equal(features, extractor(samples)["input_features"])


@pytest.mark.parametrize("convert", [lambda samples: samples.astype(np.float16), lambda samples: torch.from_numpy(samples).bfloat16()])
def test_waveforms_of_low_precision(convert):
    extractor, samples = RecurrentFeatureExtractor(num_mel_bins=6), waveform(1000)
    np.testing.assert_allclose(extractor(convert(samples))["input_features"], extractor(samples)["input_features"], atol=0.1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros(0, dtype=np.float32), ["shape (0,)", "at least one"]),
        ([], ["shape (0,)"]),
        ([[]], ["shape (0,)"]),
        ([np.zeros(5), np.zeros(0)], ["shape (0,)"]),
        (np.zeros((2, 800)), ["shape (2, 800)", "one channel, (N,), or a list"]),
        (torch.zeros(2, 800), ["shape (2, 800)", "one channel"]),
        ([np.zeros((2, 800))], ["shape (2, 800)", "one channel"]),
        (np.zeros((1, 2, 800)), ["shape (1, 2, 800)"]),
        (np.float32(1), ["shape ()"]),
        (None, ["shape ()"]),
        (["speech.wav"], ["shape ()"]),
        (np.zeros(800, dtype=np.int16), ["int16", "divided by 32768"]),
        (torch.zeros(800, dtype=torch.int16), ["int16", "divided by 32768"]),
        ([0, 1, 2], ["int64", "between -1 and 1"]),
        (np.zeros(800, dtype=bool), ["bool"]),
        (np.zeros(800, dtype=complex), ["complex128"]),
        (np.array(["a", "b"]), ["<U1"]),
        (np.array([0.0, np.nan]), ["no finite numbers"]),
        (np.array([0.0, -np.inf]), ["no finite numbers"]),
        ([0.0, float("nan")], ["no finite numbers"]),
        (np.array([0.0, 20000.0]), ["up to 20000", "between -1 and 1"]),
        (np.array([0.0, -1e300]), ["up to 1e+300"]),
    ],
)
def test_mistakes_in_waveforms_are_named(given, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011  what it says is checked below
        RecurrentFeatureExtractor()(given)
    assert [word for word in words if word not in str(error.value)] == []


def test_another_sampling_rate_is_refused():
    with pytest.raises(ValueError, match=r"8000 samples a second, and the model reads 16000; resample it"):
        RecurrentFeatureExtractor()(waveform(800), sampling_rate=8000)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_mel_bins": 1}, ["num_mel_bins is 1", "at least 2"]),
        ({"num_mel_bins": 40.0}, ["num_mel_bins is 40.0", "whole number"]),
        ({"hop_length": 0}, ["hop_length is 0", "at least 1"]),
        ({"window_length": 2}, ["window_length is 2", "at least 3"]),
        ({"sampling_rate": -1}, ["sampling_rate is -1"]),
        ({"feature_size": 40}, ["feature_size is 40", "num_mel_bins 80"]),
        ({"min_frequency": -1.0}, ["min_frequency is -1.0"]),
        ({"min_frequency": 8000.0}, ["min_frequency is 8000.0", "8000"]),
        ({"max_frequency": 0.0}, ["max_frequency 0.0"]),
        ({"max_frequency": 8001.0}, ["max_frequency 8001.0", "half the sampling rate, 8000"]),
        ({"mean": [0.0] * 3}, ["mean has 3 numbers for 80 bands"]),
        ({"mean": []}, ["mean has 0 numbers"]),
        ({"num_mel_bins": 2, "mean": [0.0, float("nan")]}, ["mean is [0.0, nan]", "finite"]),
        ({"num_mel_bins": 2, "standard_deviation": [1.0, 0.0]}, ["standard_deviation is [1.0, 0.0]", "above 0"]),
        ({"num_mel_bins": 2, "standard_deviation": [1.0]}, ["standard_deviation has 1 numbers for 2 bands"]),
    ],
)
def test_impossible_settings_are_named(fields, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011  what it says is checked below
        RecurrentFeatureExtractor(**fields)
    assert [word for word in words if word not in str(error.value)] == []


def test_saves_and_loads(extractor, tmp_path):
    fields = extractor.to_dict() | {"mean": list(range(extractor.num_mel_bins)), "standard_deviation": [0.5] * extractor.num_mel_bins}
    extractor = RecurrentFeatureExtractor(**fields | {"padding_value": -1.0, "a_new_key": {"x": [1]}})
    clips = [waveform(3000), waveform(2000)]
    expected = extractor(clips)["input_features"]
    extractor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["auto_map"] == {"AutoFeatureExtractor": "feature_extraction_recurrent.RecurrentFeatureExtractor"}
    assert saved["a_new_key"] == {"x": [1]}
    assert (tmp_path / "feature_extraction_recurrent.py").is_file()
    loaded = RecurrentFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == extractor.to_dict()
    assert loaded.a_new_key == {"x": [1]}
    assert np.array_equal(loaded(clips)["input_features"], expected)
    register_auto_classes()
    automatic = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(automatic) is RecurrentFeatureExtractor
    assert np.array_equal(automatic(clips)["input_features"], expected)
    changed = RecurrentFeatureExtractor.from_pretrained(tmp_path, padding_value=3.0)
    assert changed.padding_value == 3.0


def test_goes_to_other_processes():
    extractor = RecurrentFeatureExtractor(num_mel_bins=6, mean=[1.0] * 6)
    expected = extractor(waveform(1000))["input_features"]
    for other in (copy.deepcopy(extractor), pickle.load(io.BytesIO(pickle.dumps(extractor)))):
        assert np.array_equal(other(waveform(1000))["input_features"], expected)
