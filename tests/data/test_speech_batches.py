import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

from hflab.data.speech_batches import (
    LONGEST_PAUSE,
    LOUDEST_NOISE,
    MOST_JOINED,
    QUIETEST_NOISE,
    SHORTEST_PAUSE,
    EncodedClips,
    KeptFeatures,
    SpeechBatches,
    SpeechBatching,
    encode_clips,
    features_of,
)
from hflab.data.speech_corpus import SpeechRows
from hflab.data.speech_preparation import character_tokenizer
from hflab.data.waveform_store import Waveforms
from hflab.errors import UserError
from hflab.models.recurrent.feature_extraction_recurrent import RecurrentFeatureExtractor
from hflab.recipe import ProcessorSection
from hflab.speech.audio import as_integers

pytest.importorskip("scipy")

RATE = 4000
EXTRACTORS = {
    "features": RecurrentFeatureExtractor(8, RATE, hop_length=40, window_length=100),
    "values with a mask": Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=True, do_normalize=True),
    "values without a mask": Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=False, do_normalize=True),
    "values as they are": Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask=True, do_normalize=False),
}
SPACE = 99


def made(num_clips, seed=0, longest=1000, space=SPACE):
    """Clips of noise whose labels say which clip they are of: label = number + 1."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(200, longest, num_clips)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    samples = as_integers(generator.uniform(-0.5, 0.5, starts[-1]).astype(np.float32))
    waveforms = Waveforms(samples, starts, RATE, "0")
    labels = [np.full(1 + number % 5, number + 1) for number in range(num_clips)]
    rows = SpeechRows(waveforms, ["text"] * num_clips, [None] * num_clips, [None] * num_clips)
    return EncodedClips(rows, labels, np.arange(num_clips), space)


def make(clips, extractor="features", batch_size=8, seed=3, **keys):
    return SpeechBatches(clips, EXTRACTORS[extractor], SpeechBatching(batch_size, seed, **keys))


def plain(clips, batch_size=8, **keys):
    """Batches of waveforms as they are heard."""
    return make(clips, "values as they are", batch_size, **keys)


def whole(batches, step):
    return batches.batch(step, slice(0, batches._batching.batch_size))


def epoch_of(batches, epoch=0):
    return [whole(batches, step) for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)]


def heard_of(batches, epoch=0):
    """What is heard of each clip in `epoch`: by its number, (N,) float32."""
    heard = {}
    for batch in epoch_of(batches, epoch):
        for row, values, samples in zip(batch.rows.tolist(), batch.inputs["input_values"], batch.num_samples, strict=True):
            if row >= 0:
                heard[row] = values[: int(samples)].numpy()
    return heard


def same(one, other):
    return all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs) and torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("extractor", EXTRACTORS)
@pytest.mark.parametrize(("num_clips", "batch_size"), [(1, 1), (5, 8), (24, 8), (27, 8), (100, 16)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_has_every_clip_once_with_its_sound_and_labels(extractor, num_clips, batch_size, shuffle):
    clips = made(num_clips)
    batches = make(clips, extractor, batch_size, shuffle=shuffle)
    read, counted = [], 0
    for batch in epoch_of(batches, epoch=2):
        assert len(batch.labels) == len(batch.rows) == len(batch.num_samples) == batch_size
        assert all(len(values) == batch_size for values in batch.inputs.values())
        for place, row in enumerate(batch.rows.tolist()):
            if row < 0:
                continue
            read.append(row)
            assert batch.labels[place][batch.labels[place] != -100].tolist() == clips.labels[row].tolist()
            assert batch.num_samples[place] == clips.rows.waveforms.lengths[row]
            alone = features_of(EXTRACTORS[extractor], [clips.rows.waveforms.waveform(row)])
            for name, values in alone.items():
                assert torch.allclose(batch.inputs[name][place][: values.shape[1]], values[0], atol=1e-5)
                if name != "attention_mask":
                    assert not batch.inputs[name][place][values.shape[1] :].any()
        counted += batch.num_tokens
    assert sorted(read) == list(range(num_clips))
    assert counted == sum(map(len, clips.labels))


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_a_model_gets_a_mask_where_its_extractor_hands_one_out(extractor):
    clips = made(16)
    inputs = whole(make(clips, extractor), 0).inputs
    names = {"input_features" if extractor == "features" else "input_values"}
    assert set(inputs) == names | (set() if extractor == "values without a mask" else {"attention_mask"})
    assert all(isinstance(values, torch.Tensor) for values in inputs.values())


@pytest.mark.parametrize("num_clips", [27, 5])
def test_a_clip_that_fills_the_last_batch_is_not_counted(num_clips):
    clips = made(num_clips)
    last = epoch_of(make(clips))[-1]
    filled = 8 - num_clips % 8
    assert last.rows.tolist()[-filled:] == [-1] * filled
    assert (last.rows[:-filled] >= 0).all()
    first = int(last.rows[0])
    for place in range(8 - filled, 8):
        assert torch.equal(last.inputs["input_features"][place], last.inputs["input_features"][0])
        assert last.num_samples[place] == clips.rows.waveforms.lengths[first]
    assert last.num_tokens == sum(len(clips.labels[row]) for row in last.rows if row >= 0)


AUGMENTED = {"speed_percents": (90, 100, 110), "noise_probability": 0.5, "join_probability": 0.4}


@pytest.mark.parametrize("keys", [{}, AUGMENTED, {"shuffle": False}])
@pytest.mark.parametrize("shares", [(4, 4), (2, 2, 2, 2), (1, 3, 4), (8,)])
def test_shares_of_processes_make_up_the_batch(shares, keys):
    clips = made(29)
    batches, others = make(clips, "values as they are", **keys), make(clips, "values as they are", **keys)
    edges = list(itertools.accumulate(shares, initial=0))
    for step in range(batches.steps_per_epoch + 2):
        expected = whole(batches, step)
        parts = [others.batch(step, slice(start, stop)) for start, stop in itertools.pairwise(edges)]
        assert np.concatenate([part.rows for part in parts]).tolist() == expected.rows.tolist()
        assert np.concatenate([part.num_samples for part in parts]).tolist() == expected.num_samples.tolist()
        assert {part.num_tokens for part in parts} == {expected.num_tokens}
        place = 0
        for part in parts:  # padded to the longest of the share
            for values, labels in zip(part.inputs["input_values"], part.labels, strict=True):
                assert torch.equal(values, expected.inputs["input_values"][place][: len(values)])
                assert not expected.inputs["input_values"][place][len(values) :].any()
                assert labels[labels != -100].tolist() == expected.labels[place][expected.labels[place] != -100].tolist()
                place += 1


@pytest.mark.parametrize("keys", [{}, AUGMENTED, {"shuffle": False}])
def test_a_batch_depends_on_its_step_alone(keys):
    clips = made(40)
    wandering, fresh = plain(clips, **keys), plain(clips, **keys)
    ordered = [whole(fresh, step) for step in range(12)]
    for step in np.random.default_rng(1).permutation(12).tolist():
        assert same(whole(wandering, step), ordered[step])


def test_left_out_clips_are_never_read():
    clips = replace(made(40), chosen=np.array([3, 5, 8, 13, 21, 34]))
    read = [row for epoch in range(3) for batch in epoch_of(plain(clips, 4, **AUGMENTED), epoch) for row in batch.rows.tolist()]
    assert set(read) - {-1} == {3, 5, 8, 13, 21, 34}
    labels = {label for batch in epoch_of(plain(clips, 4, join_probability=0.9, max_seconds=9)) for label in batch.labels.flatten().tolist()}
    assert labels == {-100, SPACE, 4, 6, 9, 14, 22, 35}


def test_speeds_are_drawn_anew_in_every_epoch_and_the_same_in_every_run():
    clips = made(60)
    lengths = clips.rows.waveforms.lengths
    speeds = []
    for epoch in range(2):
        heard, again = (heard_of(plain(clips, speed_percents=(80, 100, 125)), epoch) for _ in range(2))
        assert all(np.array_equal(heard[row], again[row]) for row in heard)
        speeds.append([round(100 * lengths[row] / len(heard[row])) for row in range(60)])
        assert {round(speed / 5) * 5 for speed in speeds[-1]} == {80, 100, 125}
        for row, speed in enumerate(speeds[-1]):
            if speed == 100:
                assert np.array_equal(heard[row], clips.rows.waveforms.waveform(row))
    assert speeds[0] != speeds[1]
    others = heard_of(plain(clips, seed=4, speed_percents=(80, 100, 125)))
    assert [len(others[row]) for row in range(60)] != [len(heard_of(plain(clips, speed_percents=(80, 100, 125)))[row]) for row in range(60)]


def test_noise_is_added_to_its_share_at_its_levels():
    clips = made(120)
    original = clips.rows.waveforms
    levels = []
    for epoch in range(2):
        heard = heard_of(plain(clips, noise_probability=0.5), epoch)
        for row, waveform in heard.items():
            clean = original.waveform(row)
            assert len(waveform) == len(clean)
            added = np.mean((waveform - clean).astype(np.float64) ** 2)
            if added:
                levels.append(10 * np.log10(np.mean(clean.astype(np.float64) ** 2) / added))
    assert 0.35 < len(levels) / 240 < 0.65
    assert LOUDEST_NOISE - 1.5 < min(levels) < LOUDEST_NOISE + 4
    assert QUIETEST_NOISE - 4 < max(levels) < QUIETEST_NOISE + 1.5
    one, other = (heard_of(plain(clips, noise_probability=1.0), epoch) for epoch in range(2))
    assert not any(np.array_equal(one[row], other[row]) for row in one)


@pytest.mark.parametrize("space", [SPACE, None])
def test_joined_clips_follow_each_other_after_a_pause(space):
    clips = made(60, space=space)
    original, counts, orders = clips.rows.waveforms, [], []
    for epoch in range(2):
        batches = plain(clips, join_probability=0.6, max_seconds=60)
        heard = heard_of(batches, epoch)
        for batch in epoch_of(batches, epoch):
            for row, labels in zip(batch.rows.tolist(), batch.labels, strict=True):
                if row < 0:
                    continue
                said = [label - 1 for label in labels.tolist() if label != -100]
                rows = [said[0]]
                while len(said) > len(clips.labels[rows[-1]]):
                    said = said[len(clips.labels[rows[-1]]) :]
                    assert space is None or said[0] == SPACE - 1
                    said = said[space is not None :]
                    rows.append(said[0])
                assert rows[0] == row
                counts.append(len(rows))
                orders.append(tuple(rows))
                waveform, place = heard[row], 0
                pauses = len(waveform) - sum(original.lengths[part] for part in rows)
                assert (len(rows) - 1) * (SHORTEST_PAUSE * RATE - 1) <= pauses <= (len(rows) - 1) * LONGEST_PAUSE * RATE
                assert np.array_equal(waveform[: original.lengths[row]], original.waveform(row))
                place = len(waveform) - original.lengths[rows[-1]]
                assert np.array_equal(waveform[place:], original.waveform(rows[-1]))
    assert set(counts) == set(range(1, MOST_JOINED + 2))
    assert 0.25 < counts.count(1) / len(counts) < 0.55
    assert set(orders[:60]) != set(orders[60:])


def test_joined_clips_stay_below_the_longest():
    clips = made(60)
    heard = heard_of(plain(clips, join_probability=1.0, max_seconds=0.5 + LONGEST_PAUSE))
    assert max(map(len, heard.values())) <= (0.5 + LONGEST_PAUSE) * RATE
    assert any(len(waveform) > clips.rows.waveforms.lengths[row] for row, waveform in heard.items())
    alone = heard_of(plain(clips, join_probability=1.0, max_seconds=0.1))
    assert all(np.array_equal(alone[row], clips.rows.waveforms.waveform(row)) for row in alone)


def test_evaluation_hears_the_clips_as_they_are_the_longest_first():
    clips = made(50)
    batches = plain(clips, shuffle=False, **AUGMENTED)
    lengths = [length for batch in epoch_of(batches) for length, row in zip(batch.num_samples, batch.rows, strict=True) if row >= 0]
    assert lengths == sorted(lengths, reverse=True)
    heard = heard_of(batches, epoch=1)
    assert all(np.array_equal(heard[row], clips.rows.waveforms.waveform(row)) for row in range(50))


def test_labels_of_texts():
    tokenizer = character_tokenizer(["ab ba"], ProcessorSection())
    rows = replace(made(3).rows, texts=["ab", "", "b c"])
    encoded = encode_clips(rows, tokenizer)
    assert [labels.tolist() for labels in encoded.labels] == [[3, 4], [], [4, 2, 1]]
    assert all(labels.dtype == np.int64 for labels in encoded.labels)
    assert encoded.space == 2
    assert encoded.chosen.tolist() == [0, 1, 2]
    assert encode_clips(rows, tokenizer, np.array([2])).chosen.tolist() == [2]
    assert encode_clips(rows, character_tokenizer(["ab"], ProcessorSection())).space is None


def test_a_delimiter_that_transformers_added_to_a_vocabulary_is_no_space(tmp_path):
    """Its id would lie beyond the model's outputs."""
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "<unk>": 1, "a": 2, "b": 3}')
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), bos_token=None, eos_token=None, pad_token="<pad>")
    assert tokenizer.get_vocab()["|"] == 4
    assert encode_clips(replace(made(1).rows, texts=["ab"]), tokenizer).space is None


def test_clips_without_text_can_be_evaluated():
    clips = made(4)
    clips = replace(clips, labels=[np.zeros(0, dtype=np.int64)] * 4)
    batch = whole(plain(clips, 4, shuffle=False), 0)
    assert batch.labels.shape == (4, 0)
    assert batch.num_tokens == 0


def test_a_batch_moves_to_a_device_and_no_clips_are_refused():
    clips = made(9)
    batch = whole(make(clips), 0).to("meta")
    assert {batch.labels.device.type, *(values.device.type for values in batch.inputs.values())} == {"meta"}
    with pytest.raises(UserError, match="no rows"):
        make(replace(clips, chosen=np.zeros(0, dtype=np.int64)))


class CountingExtractor(RecurrentFeatureExtractor):
    """Counts how often it is asked."""

    asked = 0

    def __call__(self, *arguments, **keys):
        type(self).asked += 1
        return super().__call__(*arguments, **keys)


def test_features_of_held_out_batches_are_made_once(monkeypatch):
    clips, extractor = made(20), CountingExtractor(8, RATE, hop_length=40, window_length=100)
    monkeypatch.setattr(CountingExtractor, "asked", 0)
    held_out = SpeechBatching(8, shuffle=False)
    first = epoch_of(SpeechBatches(clips, extractor, held_out))
    again = epoch_of(SpeechBatches(replace(clips, chosen=clips.chosen), extractor, held_out))
    assert extractor.asked == len(first) == 3
    assert all(same(*pair) for pair in zip(first, again, strict=True))
    epoch_of(SpeechBatches(clips, EXTRACTORS["features"], held_out))
    epoch_of(SpeechBatches(clips, extractor, held_out))
    assert extractor.asked == 3  # features of another extractor do not take their place
    halves = [SpeechBatches(clips, extractor, held_out).batch(0, share) for share in (slice(0, 4), slice(4, 8))]
    assert extractor.asked == 5  # nor do those of a part
    assert [len(half.rows) for half in halves] == [4, 4]
    for expected in (8, 11):  # each epoch of training hears the clips anew
        epoch_of(SpeechBatches(clips, extractor, SpeechBatching(8, shuffle=True)))
        assert extractor.asked == expected


def test_kept_features_are_bounded():
    clips, extractor = replace(made(20), kept=KeptFeatures(most_bytes=1)), CountingExtractor(8, RATE, hop_length=40, window_length=100)
    batches = SpeechBatches(clips, extractor, SpeechBatching(8, shuffle=False))
    CountingExtractor.asked = 0
    first, again = epoch_of(batches), epoch_of(batches)
    assert extractor.asked == 3 + 2  # the first alone was kept
    assert all(same(*pair) for pair in zip(first, again, strict=True))
