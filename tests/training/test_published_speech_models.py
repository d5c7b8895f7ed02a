"""Models in the layout of facebook/wav2vec2-base-960h: its files, the fields of its config and the names of its tensors."""

import json
import re

import numpy as np
import pytest
import small_speech
import soundfile
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCTC, GPT2Config, GPT2LMHeadModel, Wav2Vec2Config, Wav2Vec2ForCTC

from hflab import api
from hflab.cli import main
from hflab.recipe import ModelSection, parse_recipe
from hflab.speech.audio import read_waveform
from hflab.speech.ctc_decoding import CtcAlphabet
from hflab.training import loop
from hflab.training.pretrained import load_pretrained_model
from hflab.training.speech_models import pretrained_reader
from hflab.transcription.recognizer import Recognizer

# config.json of facebook/wav2vec2-base-960h, field by field
PUBLISHED = {
    "activation_dropout": 0.1,
    "apply_spec_augment": True,
    "architectures": ["Wav2Vec2ForCTC"],
    "attention_dropout": 0.1,
    "bos_token_id": 1,
    "codevector_dim": 256,
    "contrastive_logits_temperature": 0.1,
    "conv_bias": False,
    "conv_dim": [512] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "ctc_loss_reduction": "sum",
    "ctc_zero_infinity": False,
    "diversity_loss_weight": 0.1,
    "do_stable_layer_norm": False,
    "eos_token_id": 2,
    "feat_extract_activation": "gelu",
    "feat_extract_dropout": 0.0,
    "feat_extract_norm": "group",
    "feat_proj_dropout": 0.1,
    "feat_quantizer_dropout": 0.0,
    "final_dropout": 0.1,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout": 0.1,
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "layerdrop": 0.1,
    "mask_feature_length": 10,
    "mask_feature_prob": 0.0,
    "mask_time_length": 10,
    "mask_time_prob": 0.05,
    "model_type": "wav2vec2",
    "num_attention_heads": 12,
    "num_codevector_groups": 2,
    "num_codevectors_per_group": 320,
    "num_conv_pos_embedding_groups": 16,
    "num_conv_pos_embeddings": 128,
    "num_feat_extract_layers": 7,
    "num_hidden_layers": 12,
    "num_negatives": 100,
    "pad_token_id": 0,
    "proj_codevector_dim": 256,
    "transformers_version": "4.7.0.dev0",
    "vocab_size": 32,
}
VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
TOKENIZER = {**SPECIAL, "do_lower_case": False, "return_attention_mask": False, "do_normalize": True}
EXTRACTOR = {"do_normalize": True, "feature_size": 1, "padding_side": "right", "padding_value": 0.0, "return_attention_mask": False}
SMALL = {
    "conv_dim": [16] * 7,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def published_names(num_layers):
    """Names of the tensors in the file, whose positional convolution has those of torch's first weight norm; it has no masked_spec_embed."""
    both = ("weight", "bias")
    names = [f"wav2vec2.feature_extractor.conv_layers.{layer}.conv.weight" for layer in range(7)]
    names += [f"wav2vec2.feature_extractor.conv_layers.0.layer_norm.{part}" for part in both]
    names += [f"wav2vec2.feature_projection.{module}.{part}" for module in ("layer_norm", "projection") for part in both]
    names += [f"wav2vec2.encoder.pos_conv_embed.conv.{part}" for part in ("bias", "weight_g", "weight_v")]
    names += [f"wav2vec2.encoder.layer_norm.{part}" for part in both]
    modules = [f"attention.{name}_proj" for name in ("k", "v", "q", "out")]
    modules += ["layer_norm", "feed_forward.intermediate_dense", "feed_forward.output_dense", "final_layer_norm"]
    names += [f"wav2vec2.encoder.layers.{layer}.{module}.{part}" for layer in range(num_layers) for module in modules for part in both]
    return [*names, "lm_head.weight", "lm_head.bias"]


def as_published(name):
    """The name in the file of a tensor of transformers' present class."""
    return name.replace("parametrizations.weight.original0", "weight_g").replace("parametrizations.weight.original1", "weight_v")


def test_the_real_size_has_the_published_tensors():
    with torch.device("meta"):
        model = Wav2Vec2ForCTC(Wav2Vec2Config(**PUBLISHED))
    shapes = {as_published(name): tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes.keys() - set(published_names(12)) == {"wav2vec2.masked_spec_embed"}
    assert set(published_names(12)) <= shapes.keys()
    assert shapes["wav2vec2.encoder.pos_conv_embed.conv.weight_g"] == (1, 1, 128)
    assert shapes["wav2vec2.encoder.pos_conv_embed.conv.weight_v"] == (768, 48, 128)
    assert shapes["wav2vec2.feature_extractor.conv_layers.0.conv.weight"] == (512, 1, 10)
    assert shapes["lm_head.weight"] == (32, 768)
    assert model.num_parameters() == 94_396_320  # what the paper rounds to 95 million


@pytest.fixture(params=["safetensors", "bin"])
def published(request, tmp_path):
    """A small model in a folder as the published one is, and its weights."""
    folder = tmp_path / "wav2vec2-base-960h"
    folder.mkdir()
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**{**PUBLISHED, **SMALL, "initializer_range": 0.2}))
    weights = {as_published(name): value.clone() for name, value in model.state_dict().items() if "masked_spec_embed" not in name}
    assert set(weights) == set(published_names(2))
    if request.param == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**PUBLISHED, **SMALL}))
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(VOCABULARY)}))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    (folder / "special_tokens_map.json").write_text(json.dumps(SPECIAL))
    (folder / "preprocessor_config.json").write_text(json.dumps({**EXTRACTOR, "sampling_rate": 16000}))
    return folder, model.eval()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return small_speech.write_recordings(tmp_path_factory.mktemp("tones") / "data", {"train": 8, "validation": 4})


def test_it_loads_with_all_its_weights(published):
    folder, model = published
    loaded = load_pretrained_model(ModelSection(pretrained=str(folder)), "ForCTC")
    expected, found = model.state_dict(), loaded.state_dict()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == ["wav2vec2.masked_spec_embed"]
    frozen = {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name in found if ".feature_extractor." in name}
    reader = pretrained_reader(ModelSection(pretrained=str(folder)))
    assert (reader.tokenizer.pad_token_id, len(reader.tokenizer), reader.extractor.do_normalize) == (0, 32, True)


def test_it_transcribes_and_evaluates_on_the_command_line(published, tmp_path, capsys):
    """What is written is what the model's own weights hear; recordings of any rate are read at the extractor's."""
    folder, model = published
    reader = pretrained_reader(ModelSection(pretrained=str(folder)))
    recognizer = Recognizer(model, reader.extractor, CtcAlphabet.of_tokenizer(reader.tokenizer))
    files, texts = [], []
    for number, rate in enumerate((16000, 44100)):
        sound = 0.2 * np.random.default_rng(number).standard_normal(rate).astype(np.float32)
        files.append(tmp_path / f"{rate}.wav")
        soundfile.write(files[-1], sound, rate, subtype="FLOAT")
        texts.append(recognizer.recognize([read_waveform(files[-1], 16000)])[0].text)
        files[-1].with_suffix(".txt").write_text("what is said")
    assert all(texts)
    assert set("".join(texts)) <= set(VOCABULARY[5:]) | {" "}
    capsys.readouterr()
    assert main(["transcribe", str(folder), *map(str, files), "--segments", "windows"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line] == [
        line for file, text in zip(files, texts, strict=True) for line in (f"== {file}", text)
    ]
    assert main(["evaluate", str(folder), "--data", str(tmp_path)]) == 0  # no recipe says that it hears
    assert "word_error_rate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("facebook/wav2vec2-base-960h", r"from the Hub: .*hf download facebook/wav2vec2-base-960h --local-dir FOLDER.*give its path"),
        ("empty", r"holds no model"),
        ("sounds_alone", r"has no files of a tokenizer, so it cannot write.*model\.new_head: true"),
        ("text", r"is a gpt2 model, and there is no gpt2 model ForCTC"),
    ],
)
def test_what_cannot_transcribe_is_told_in_one_line(recordings, tmp_path, monkeypatch, capsys, given, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    small_speech.save("wav2vec2-layer", tmp_path / "sounds_alone", "ForPreTraining")
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=9, bos_token_id=0, eos_token_id=0)).save_pretrained(tmp_path / "text")
    small_speech.make_tokenizer(tmp_path / "text").save_pretrained(tmp_path / "text")
    capsys.readouterr()
    assert main(["transcribe", given, str(recordings / "validation" / "000.wav")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hflab: ")]
    assert re.search(expected, line), line


def test_it_is_fine_tuned(published, recordings, tmp_path):
    folder, _ = published
    recipe = parse_recipe(
        {
            "task": "speech_recognition",
            "data": {"source": "speech", "path": str(recordings)},
            "model": {"pretrained": str(folder)},
            "training": {"num_steps": 2, "batch_size": 4, "learning_rate": 1e-4, "device": "cpu"},
        }
    )
    run = loop.train(recipe, name="tuned", output=tmp_path / "runs")
    assert api.evaluate(run.path)["loss"] == pytest.approx(run.read_facts()["evaluation"]["loss"], rel=1e-4)
    names = set(load_file(run.model / "model.safetensors"))
    assert {as_published(name) for name in names} == {*published_names(2), "wav2vec2.masked_spec_embed"}
    assert type(AutoModelForCTC.from_pretrained(run.model)) is Wav2Vec2ForCTC
