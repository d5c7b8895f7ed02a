"""Maps hold what the models themselves give out, labelled by what was read; refusals say what and why."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from hflab.errors import UserError
from hflab.inspection.loading import load_model
from hflab.inspection.maps import Token
from hflab.inspection.reading import read_text

SOURCE, TARGET = "我爱机器。", "I love"
END = Token("<eos>", "special")


def labels(tokens):
    return [token.label for token in tokens]


def outputs_of(folder, auto_class, **inputs):
    """What the model says of itself, opened and asked without hflab's inspection."""
    model = auto_class.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(output_attentions=True, **{name: torch.tensor([ids]) for name, ids in inputs.items()})


def assert_same_weights(maps, attentions):
    assert maps.weights.shape == (len(attentions), *attentions[0].shape[1:])
    np.testing.assert_allclose(maps.weights, torch.cat(attentions).numpy(), atol=1e-6)
    np.testing.assert_allclose(maps.weights.sum(-1), 1, atol=1e-5)
    assert maps.rows_sum_to_one
    assert maps.weights.shape[2:] == (len(maps.rows), len(maps.columns))
    assert np.ptp(maps.weights, axis=(0, 1)).max() > 0.01 or maps.weights.shape[:2] == (1, 1)  # layers and heads differ


def test_self_attention_is_what_the_model_gives_out(one_text, folder_of, reading_of):
    reading = reading_of(one_text, SOURCE)
    tokenizer = AutoTokenizer.from_pretrained(folder_of(one_text))
    auto_class = AutoModelForCausalLM if one_text in {"mini causal", "gpt2"} else AutoModel
    (maps,) = reading.maps
    assert_same_weights(maps, outputs_of(folder_of(one_text), auto_class, input_ids=tokenizer(SOURCE)["input_ids"]).attentions)
    assert maps.name == "self_attention"
    assert maps.rows == maps.columns
    assert maps.hides_later == (one_text in {"mini causal", "gpt2"})
    assert reading.target is None
    assert reading.trace is None


def test_a_model_is_opened_with_the_head_it_was_saved_with(one_text, folder_of, reading_of):
    saved = json.loads(Path(folder_of(one_text), "config.json").read_text(encoding="utf-8"))["architectures"]
    assert [reading_of(one_text).model_class] == saved


@pytest.mark.parametrize("target", [TARGET, None], ids=["given", "generated"])
def test_attention_of_an_encoder_decoder_is_what_the_model_gives_out(pair, target, folder_of, reading_of):
    folder, reading = folder_of(pair), reading_of(pair, SOURCE, target)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    source = [*tokenizer(SOURCE)["input_ids"], 0]
    if target is None:
        model, most = AutoModelForSeq2SeqLM.from_pretrained(folder), 80 if pair in {"multiplicative", "additive"} else 40
        written = model.generate(torch.tensor([source]), do_sample=False, max_new_tokens=most)[0, 1:].tolist()
    else:
        written = [*tokenizer(target)["input_ids"], 0]
    expected = outputs_of(folder, AutoModelForSeq2SeqLM, input_ids=source, decoder_input_ids=[0, *written[:-1]])
    maps = {found.name: found for found in reading.maps}
    assert_same_weights(maps["cross_attention"], expected.cross_attentions)
    assert len(maps["cross_attention"].rows) == len(written)
    assert labels(maps["cross_attention"].columns) == [*SOURCE, "<eos>"]
    assert reading.target.text == (tokenizer.decode(written, skip_special_tokens=True) if target is None else target)
    assert reading.target.was_given == (target is not None)
    if pair in {"multiplicative", "additive"}:
        assert set(maps) == {"cross_attention"}
        assert maps["cross_attention"].weights.shape[:2] == (1, 1)
    else:
        assert_same_weights(maps["encoder_self_attention"], expected.encoder_attentions)
        assert_same_weights(maps["decoder_self_attention"], expected.decoder_attentions)
        assert maps["decoder_self_attention"].hides_later
        assert not maps["encoder_self_attention"].hides_later


def test_a_row_of_cross_attention_is_named_by_what_is_written_there(reading_of):
    cross, _, decoder = reading_of("mini seq2seq", SOURCE, TARGET).maps
    assert labels(cross.rows) == ["I", "␣", "l", "o", "v", "e", "<eos>"]
    assert labels(decoder.rows) == ["<eos>", "I", "␣", "l", "o", "v", "e"]  # what the decoder has read by then
    assert cross.rows[-1] == decoder.rows[0] == END
    assert cross.rows[0].kind == "text"


def test_a_target_without_an_end_is_cut_and_says_so(folder_of):
    model, tokenizer = load_model(folder_of("mini seq2seq"), trust_remote_code=False)
    model.generation_config.eos_token_id = None
    reading = read_text(model, tokenizer, SOURCE)
    assert reading.target.was_cut
    assert len(reading.maps[0].rows) == 40  # the model's positions


def test_frames_of_a_text_are_special(reading_of):
    rows = reading_of("bert", "我爱").maps[0].rows
    assert rows == (Token("<cls>", "special"), Token("我"), Token("爱"), Token("<sep>", "special"))


def test_the_mode_of_the_model_stays(folder_of):
    model, tokenizer = load_model(folder_of("gpt2"), trust_remote_code=False)
    model.train()
    first, second = (read_text(model, tokenizer, SOURCE).maps[0].weights for _ in range(2))
    assert model.training
    np.testing.assert_array_equal(first, second)  # without dropout


def test_surprisal_is_the_models_own_loss(traced, folder_of, reading_of):
    trace = reading_of(traced, SOURCE).trace
    tokenizer = AutoTokenizer.from_pretrained(folder_of(traced))
    ids = torch.tensor([[0, *tokenizer(SOURCE)["input_ids"]]])
    model = AutoModelForCausalLM.from_pretrained(folder_of(traced)).eval()
    assert math.isnan(trace.surprisal[0])
    assert trace.mean_surprisal == pytest.approx(model(ids, labels=ids).loss.item() / math.log(2), rel=1e-5)
    assert labels(trace.tokens) == ["<eos>", *SOURCE]


def test_changes_of_the_state_are_those_of_the_cache(traced, folder_of, reading_of):
    trace = reading_of(traced, SOURCE).trace
    ids = torch.tensor([[0, *AutoTokenizer.from_pretrained(folder_of(traced))(SOURCE)["input_ids"]]])
    model = AutoModelForCausalLM.from_pretrained(folder_of(traced)).eval()
    before, after = (model(ids[:, :length]).past_key_values.layers[1].state for length in (4, 5))
    expected = (after.hidden - before.hidden).norm() / (after.hidden.norm() + before.hidden.norm())
    assert trace.changes["layer 2, hidden state"][4] == pytest.approx(expected.item(), rel=1e-4)
    assert ("layer 2, cell" in trace.changes) == (traced == "lstm")
    for changes in trace.changes.values():
        assert changes.shape == (len(trace.tokens),)
        assert changes[0] == pytest.approx(1)
        assert ((changes >= 0) & (changes <= 1 + 1e-6)).all()


@pytest.mark.parametrize(
    ("text", "target", "expected"),
    [
        ("", None, "The text is empty"),
        (" \n", None, "The text is empty"),
        (SOURCE, "", "The target is empty"),
        ("Zug", None, "'Z'"),
        (SOURCE, "Zug", "'Z'"),
        ("love" * 10, None, "41 tokens, but at most 40"),
        (SOURCE, "love" * 10, "The target has 41 tokens, but at most 40"),
    ],
)
def test_texts_that_cannot_be_shown_are_refused(text, target, expected, reading_of):
    with pytest.raises(UserError, match=expected):
        reading_of("mini seq2seq", text, target)


def test_long_texts_are_refused_where_positions_do_not_end(reading_of):
    with pytest.raises(UserError, match="82 tokens, but at most 80"):
        reading_of("additive", "love " * 16 + "i")
    with pytest.raises(UserError, match="241 tokens, but at most 240"):
        reading_of("lstm", "a" * 241)
    assert len(reading_of("lstm", "a" * 240).trace.tokens) == 241


def test_a_target_needs_a_decoder(one_text, reading_of):
    with pytest.raises(UserError, match="has no decoder"):
        reading_of(one_text, SOURCE, TARGET)


def test_models_without_attention_say_what_can_be_inspected(without_attention, reading_of):
    with pytest.raises(UserError, match=r"no attention weights.*recurrent causal language model"):
        reading_of(without_attention)


def test_damaged_weights_are_refused(folder_of):
    model, tokenizer = load_model(folder_of("gpt2"), trust_remote_code=False)
    model.transformer.wte.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="not numbers"):
        read_text(model, tokenizer, SOURCE)


def test_a_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(str(tmp_path), trust_remote_code=False)
