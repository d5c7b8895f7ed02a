"""Tones for letters, written as recordings with transcripts, and small models of speech with random weights, each in a folder of its own."""

import json
import random

import numpy as np
import soundfile
import torch
import transformers
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

from hflab.data.speech_preparation import character_tokenizer
from hflab.recipe import ProcessorSection

RATE = 4000  # Hz; small models of a low rate are fast
LETTERS = "abcd"
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
CONVOLUTIONS = {"conv_dim": [24, 24, 24], "conv_kernel": [10, 4, 4], "conv_stride": [5, 4, 4]}  # 50 frames a second, as the large ones make
POSITIONS = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
QUANTIZER = {"codevector_dim": 16, "proj_codevector_dim": 16, "num_codevectors_per_group": 8, "num_negatives": 10}
UPPER = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, **{letter.upper(): 5 + place for place, letter in enumerate(LETTERS)}}

# kind: class without its head, and what differs from the sizes above
KINDS = {
    "wav2vec2-group": ("Wav2Vec2", {"feat_extract_norm": "group", **QUANTIZER}),
    "wav2vec2-layer": ("Wav2Vec2", {"feat_extract_norm": "layer", "do_stable_layer_norm": True, **QUANTIZER}),
    "hubert-layer": ("Hubert", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "wavlm-group": ("WavLM", {"feat_extract_norm": "group"}),
    "wavlm-layer": ("WavLM", {"feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "unispeech-layer": ("UniSpeech", {"feat_extract_norm": "layer", **QUANTIZER}),
    "unispeech-sat-group": ("UniSpeechSat", {"feat_extract_norm": "group", **QUANTIZER}),
    "sew-group": ("SEW", {"squeeze_factor": 2}),
    "sew-d-layer": ("SEWD", {"feat_extract_norm": "layer", "squeeze_factor": 2, "max_position_embeddings": 64, "position_buckets": 16}),
    "data2vec-audio": ("Data2VecAudio", {"conv_pos_kernel_size": 7, "num_conv_pos_embeddings": 3}),
    "conformer-layer": ("Wav2Vec2Conformer", {"feat_extract_norm": "layer", "position_embeddings_type": "rotary", **QUANTIZER}),
    "wav2vec2-bert": ("Wav2Vec2Bert", {"feature_projection_input_dim": 160, "conv_depthwise_kernel_size": 5, "num_adapter_layers": 1}),
}


def tone(letter):
    """0.12 s of the letter's own frequency, silence for a space; (480,) float32."""
    samples = np.arange(480) / RATE
    return 0.3 * np.sin(2 * np.pi * (300 + 330 * LETTERS.index(letter)) * samples) if letter != " " else np.zeros(480)


def say(text, draw):
    """The letters of `text` one after the other, with a little noise and silence around, (N,) float32."""
    silence = [np.zeros(draw.randint(100, 900)) for _ in range(2)]
    clean = np.concatenate([silence[0], *[tone(letter) for letter in text], silence[1]])
    noise = np.random.default_rng(draw.randrange(2**31)).standard_normal(len(clean))
    return (clean + 0.003 * noise).astype(np.float32)


def write_recordings(folder, counts, *, longest=4, seed=0):
    """A folder for each split with so many clips, a .wav and a .txt each; no two letters in a row are equal."""
    draw = random.Random(seed)
    for split, count in counts.items():
        (folder / split).mkdir(parents=True)
        for number in range(count):
            words = ["".join(draw.sample(LETTERS, draw.randint(1, 3))) for _ in range(draw.randint(1, longest))]
            soundfile.write(folder / split / f"{number:03}.wav", say(" ".join(words), draw), RATE)
            (folder / split / f"{number:03}.txt").write_text(" ".join(words))
    return folder


def make_tokenizer(folder, *, upper=False):
    """A tokenizer for CTC of the letters; `upper`: of capitals, in the layout of facebook/wav2vec2-base-960h."""
    if not upper:
        return character_tokenizer([LETTERS + " "], ProcessorSection())
    (folder / "vocab.json").write_text(json.dumps(UPPER))
    return Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))


def build(kind, head="ForCTC", **fields):
    """A model of the kind with random weights."""
    name, changes = KINDS[kind]
    shape = {} if name == "Wav2Vec2Bert" else {**CONVOLUTIONS, **POSITIONS}
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **shape, **changes, "vocab_size": 7, **fields})
    return getattr(transformers, f"{name}{head}")(config)


def make_extractor(kind):
    """As published models of the kind have it: those with group norm hand out no attention mask."""
    if kind == "wav2vec2-bert":
        return transformers.SeamlessM4TFeatureExtractor(sampling_rate=RATE)
    return Wav2Vec2FeatureExtractor(sampling_rate=RATE, return_attention_mask="group" not in kind)


def save(kind, folder, head="ForCTC", *, seed=0, upper=False, **fields):
    """Write model, feature extractor and, with the head for CTC, tokenizer into `folder`; return its path as text."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(folder, upper=upper)
    build(kind, head, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **fields).save_pretrained(folder)
    make_extractor(kind).save_pretrained(folder)
    if head == "ForCTC":
        tokenizer.save_pretrained(folder)
    return str(folder)
