"""Many prompts at once: batched = single, seeds, stop strings, beams, and clear refusals."""

import random

import pytest
import torch
from test_streaming import MODELS, make_model, make_tokenizer

from hflab.errors import UserError
from hflab.generation.batches import generate_texts
from hflab.generation.options import DEFAULT_NEW_TOKENS, GenerationOptions
from hflab.generation.prompt_files import read_prompts
from hflab.generation.streaming import generate_text, longest_prompt, stream_text

PROMPTS = ["bad cab", "a", "", "face of a cab", "bad cab"]
OPTIONS = [
    GenerationOptions(max_new_tokens=20, temperature=0),
    GenerationOptions(max_new_tokens=20, temperature=0, repetition_penalty=1.4),
    GenerationOptions(max_new_tokens=20, seed=5),
    GenerationOptions(max_new_tokens=20, seed=6, temperature=0.7, top_k=9, top_p=0.8, repetition_penalty=1.3, stop_strings=("a", "fg")),
]


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module", params=MODELS)
def model(request, tokenizer):
    return make_model(request.param, tokenizer)


@pytest.mark.parametrize("options", OPTIONS, ids=["greedy", "penalty", "sampled", "all"])
def test_a_text_is_that_of_its_prompt_alone_whatever_the_batch_size(model, tokenizer, options):
    expected = []
    for index, prompt in enumerate(PROMPTS):
        seed = None if options.seed is None else options.seed + index
        expected.append(generate_text(model, tokenizer, prompt, GenerationOptions(**{**vars(options), "seed": seed})))
    assert len(set(expected)) > 2
    for batch_size in (1, 2, 3, 8):
        assert list(generate_texts(model, tokenizer, PROMPTS, options, batch_size=batch_size)) == expected


def test_seeded_and_unseeded_texts_leave_the_global_generators(model, tokenizer):
    before = (torch.get_rng_state(), random.getstate())
    options = GenerationOptions(max_new_tokens=30)
    assert list(generate_texts(model, tokenizer, PROMPTS, options)) != list(generate_texts(model, tokenizer, PROMPTS, options))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_rows_end_by_themselves(tokenizer):
    """A row that has ended does not change its neighbours, nor does it take part in its own text any more."""
    model = make_model("gpt2", tokenizer)
    model.generation_config.eos_token_id = list(range(3, 9))
    options = GenerationOptions(max_new_tokens=30, seed=1)
    texts = list(generate_texts(model, tokenizer, PROMPTS, options, batch_size=8))
    assert texts == list(generate_texts(model, tokenizer, PROMPTS, options, batch_size=1))
    assert len({len(text) for text in texts}) > 1


@pytest.mark.parametrize("num_beams", [2, 4])
def test_beams_find_what_transformers_finds_in_any_batch(model, tokenizer, num_beams, monkeypatch):
    monkeypatch.setattr(model.generation_config, "eos_token_id", tokenizer.eos_token_id)
    options = GenerationOptions(max_new_tokens=8, temperature=0, num_beams=num_beams)
    prompts = [prompt for prompt in PROMPTS if prompt]
    texts = list(generate_texts(model, tokenizer, prompts, options, batch_size=3))
    for prompt, text in zip(prompts, texts, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        written = model.generate(**inputs, do_sample=False, num_beams=num_beams, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
        assert text == tokenizer.decode(written, skip_special_tokens=True)
    assert texts == list(generate_texts(model, tokenizer, prompts, options, batch_size=1))


def test_beams_are_at_least_as_likely_as_greedy_and_are_cut_at_stop_strings(tokenizer):
    model = make_model("gpt2", tokenizer)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    whole = next(generate_texts(model, tokenizer, ["bad"], GenerationOptions(max_new_tokens=8, temperature=0, num_beams=4)))
    stop = whole[3:5]
    options = GenerationOptions(max_new_tokens=8, temperature=0, num_beams=4, stop_strings=(stop,))
    assert next(generate_texts(model, tokenizer, ["bad"], options)) == whole[: whole.index(stop)]


def test_without_a_number_of_tokens_the_positions_decide(tokenizer):
    model = make_model("gpt2", tokenizer)  # 96 positions
    stream = stream_text(model, tokenizer, "a" * 90, GenerationOptions(temperature=0))
    "".join(stream)
    assert len(stream.state.tokens) == 97
    endless = stream_text(make_model("gru", tokenizer), tokenizer, "a", GenerationOptions(temperature=0))
    "".join(endless)
    assert len(endless.state.tokens) == 1 + DEFAULT_NEW_TOKENS


def test_a_prompt_too_long_for_the_model_is_named_with_both_numbers(tokenizer):
    model = make_model("gpt2", tokenizer)
    with pytest.raises(UserError, match="has 100 tokens, but the model has 96 positions"):
        stream_text(model, tokenizer, "a" * 100, GenerationOptions())
    with pytest.raises(UserError, match="Prompt 2: The text has 100 tokens"):
        generate_texts(model, tokenizer, ["a", "a" * 100], GenerationOptions())
    with pytest.raises(UserError, match="Prompt 2: The tokenizer does not know 'Z'"):
        generate_texts(model, tokenizer, ["a", "Z"], GenerationOptions())
    assert longest_prompt(model, tokenizer, "b" + "a" * 100, 7) == "a" * 90


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0; it must be at least 1"),
        ({"num_beams": 2.0, "temperature": 0}, "a whole number"),
        ({"num_beams": 2}, "draws nothing; set temperature to 0"),
        ({"top_k": 3, "temperature": 0}, "top_k is 3 and temperature is 0"),
        ({"top_p": 0.5, "temperature": 0}, r"top_p is 0\.5 and temperature is 0"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        GenerationOptions(**options)


def test_beams_are_not_streamed_and_batches_are_not_empty(tokenizer):
    model = make_model("gpt2", tokenizer)
    with pytest.raises(UserError, match="cannot be streamed"):
        stream_text(model, tokenizer, "a", GenerationOptions(num_beams=2, temperature=0))
    with pytest.raises(UserError, match="batch_size is 0"):
        generate_texts(model, tokenizer, ["a"], GenerationOptions(), batch_size=0)
    assert list(generate_texts(model, tokenizer, [], GenerationOptions())) == []


def test_prompts_are_read_from_lines_and_from_json(tmp_path):
    (tmp_path / "plain.txt").write_text("ROMEO: \n\nZürich\n", encoding="utf-8")
    assert read_prompts(tmp_path / "plain.txt") == ["ROMEO: ", "Zürich"]
    (tmp_path / "rows.jsonl").write_text('{"prompt": "two\\nlines", "id": 1}\n{"prompt": ""}\n', encoding="utf-8")
    assert read_prompts(tmp_path / "rows.jsonl") == ["two\nlines", ""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "cannot be read: No such file"),
        ("empty.txt", b"\n \n", "hold no line"),
        ("latin.txt", b"Z\xfcrich", "not UTF-8"),
        ("rows.jsonl", b'{"prompt": "a"}\nprompt\n', r"Line 2 of .* is no JSON"),
        ("rows.jsonl", b'{"text": "a"}\n', 'Line 1 of .* has no text under "prompt"'),
    ],
)
def test_files_without_prompts_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_prompts(tmp_path / name)
