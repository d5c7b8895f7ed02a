"""A language of three tones, and a recognizer that learns it in some seconds."""

import numpy as np
import torch

from hflab.data.speech_batches import features_of
from hflab.models.recurrent.configuration_recurrent import RecurrentConfig
from hflab.models.recurrent.ctc_recurrent import RecurrentForCTC
from hflab.models.recurrent.feature_extraction_recurrent import RecurrentFeatureExtractor
from hflab.speech.ctc_decoding import CtcAlphabet
from hflab.transcription.recognizer import Recognizer

RATE = 8000
ALPHABET = CtcAlphabet(("", "", "a", "b", "c"), blank=0, word_delimiter=1)
HERTZ = {"a": 400, "b": 1100, "c": 2500}
TONE, GAP, PAUSE = 0.12, 0.04, 0.2  # seconds
NOISE = 1e-3
NUM_STEPS = 80


def seconds_of(count):
    return round(count * RATE)


def noise(seconds, generator):
    return (NOISE * generator.standard_normal(seconds_of(seconds))).astype(np.float32)


def speak(text, generator):
    """Each letter is a tone of 0.12 s, and a space a pause of 0.3 s."""
    time = np.arange(seconds_of(0.12)) / RATE
    parts = []
    for letter in text:
        if letter == " ":
            parts.append(np.zeros(seconds_of(0.2)))
        else:
            parts += [
                0.3 * np.hanning(len(time)) ** 0.3 * np.sin(2 * np.pi * {"a": 400, "b": 1100, "c": 2500}[letter] * time),
                np.zeros(seconds_of(0.04)),
            ]
    sound = np.concatenate(parts)
    return (sound + NOISE * generator.standard_normal(len(sound))).astype(np.float32)


def draw_text(generator, most_words=4):
    lengths = generator.integers(1, 4, size=generator.integers(1, most_words + 1))
    return " ".join("".join(generator.permutation(list(HERTZ))[:length]) for length in lengths)


def recording(generator, num_utterances, pauses=(1.2, 2.5)):
    """A waveform (N,), what is said in each of its utterances, and the sample where each begins."""
    parts, texts, starts = [noise(generator.uniform(*pauses), generator)], [], []
    for _ in range(num_utterances):
        texts.append(draw_text(generator))
        starts.append(sum(map(len, parts)))
        parts += [speak(texts[-1], generator), noise(generator.uniform(*pauses), generator)]
    return np.concatenate(parts), texts, starts


def build(seed=0, **changes):
    """A recognizer with random weights."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_mel_bins": 20, "vocab_size": len(ALPHABET.tokens), "pad_token_id": 0, "hop_length": 80}
    model = RecurrentForCTC(RecurrentConfig(**{"cell_type": "gru", **sizes, **changes})).eval()
    extractor = RecurrentFeatureExtractor(20, RATE, hop_length=80, window_length=200, mean=[-6.0] * 20, standard_deviation=[4.0] * 20)
    return Recognizer(model, extractor, ALPHABET)


def train(recognizer):
    """Teach it which frame writes what; that is known here, and learned sooner than by CTC's loss."""
    generator = np.random.default_rng(0)
    optimizer = torch.optim.Adam(recognizer.model.parameters(), lr=1e-2)
    recognizer.model.train()
    for _ in range(NUM_STEPS):
        silences = generator.uniform(-0.3, 0.9, size=(16, 2)).clip(min=0.0)
        examples = [example(draw_text(generator), silence, generator) for silence in silences]
        logits = recognizer.model(**features_of(recognizer.extractor, [sound for sound, _ in examples])).logits
        targets = torch.full(logits.shape[:2], -100)
        for row, (_, written) in enumerate(examples):
            middles = written[100::320][: logits.shape[1]]  # of the frames' windows
            targets[row, : len(middles)] = torch.from_numpy(middles)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    recognizer.model.eval()
    return loss.item()


def example(text, silence, generator):
    """What is said with silence before and after it, and which token each sample writes: a space is written after 0.08 s of silence."""
    sound = np.concatenate([noise(silence[0], generator), speak(text, generator), noise(silence[1], generator)])
    written, place = np.zeros(len(sound), np.int64), seconds_of(silence[0])
    for letter in text:
        if letter == " ":
            written[place + seconds_of(0.08) : place + seconds_of(0.2)] = ALPHABET.word_delimiter
            place += seconds_of(PAUSE)
        else:
            written[place : place + seconds_of(TONE)] = ALPHABET.tokens.index(letter)
            place += seconds_of(TONE + GAP)
    return sound, written
