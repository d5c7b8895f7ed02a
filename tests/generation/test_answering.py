"""Answers of encoder-decoders: batched = single, seeds, stop strings, beams, and clear refusals."""

import dataclasses

import pytest
import torch
from test_streaming import make_tokenizer

from hflab.errors import UserError
from hflab.generation.answering import answer_text, answer_texts
from hflab.generation.options import GenerationOptions
from hflab.models import build_model

PROMPTS = ["bad cab", "a", "face of a cab", "bad cab", "deaf"]
OPTIONS = {
    "as saved": None,
    "greedy": GenerationOptions(max_new_tokens=12, temperature=0),
    "beams": GenerationOptions(max_new_tokens=12, temperature=0, num_beams=3),
    "drawn": GenerationOptions(max_new_tokens=12, seed=5, top_k=9, repetition_penalty=1.3),
    "stopped": GenerationOptions(max_new_tokens=12, temperature=0, stop_strings=("a", "fg")),
}
SMALL = {
    "recurrent": {
        "hidden_size": 16,
        "bidirectional": True,
        "attention_type": "additive",
        "recurrent_initializer": "normal",
        "initializer_range": 1.0,
    },
    "mini_transformer": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.7},
}


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module", params=list(SMALL))
def model(request, tokenizer):
    end = tokenizer.eos_token_id
    tokens = {"vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(1)
    model = build_model(request.param, "ForConditionalGeneration", {**SMALL[request.param], **tokens, "decoder_start_token_id": end}).eval()
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.randn_like(model.lm_head.weight))  # clear choices
    model.generation_config.max_length = 10
    return model


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_answer_is_that_to_its_prompt_alone_whatever_the_batch_size(model, tokenizer, options):
    expected = []
    for index, prompt in enumerate(PROMPTS):
        seeded = options is not None and options.seed is not None
        own = dataclasses.replace(options, seed=options.seed + index) if seeded else options
        expected.append(answer_text(model, tokenizer, prompt, own))
    assert len(set(expected)) > 2
    for batch_size in (1, 2, 8):
        assert list(answer_texts(model, tokenizer, PROMPTS, options, batch_size=batch_size)) == expected


def test_an_answer_is_what_generate_writes_up_to_a_stop_string(model, tokenizer):
    ids = torch.tensor([[*tokenizer("bad cab")["input_ids"], tokenizer.eos_token_id]])
    written = tokenizer.decode(model.generate(ids, max_new_tokens=12, do_sample=False)[0], skip_special_tokens=True).strip()
    greedy = OPTIONS["greedy"]
    assert answer_text(model, tokenizer, "bad cab", greedy) == written
    for end in range(1, len(written)):
        stop = written[end]
        assert answer_text(model, tokenizer, "bad cab", dataclasses.replace(greedy, stop_strings=(stop,))) == written[: written.index(stop)].strip()


def test_drawn_answers_leave_the_global_generator(model, tokenizer):
    before = torch.get_rng_state()
    options = GenerationOptions(max_new_tokens=30)
    assert list(answer_texts(model, tokenizer, PROMPTS, options)) != list(answer_texts(model, tokenizer, PROMPTS, options))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("prompts", "expected"), [(["a", " "], "Prompt 2: The prompt is empty"), (["a", "b", "z"], "Prompt 3: .*'z'")])
def test_prompts_are_checked_before_any_is_answered(model, tokenizer, prompts, expected):
    with pytest.raises(UserError, match=expected):
        answer_texts(model, tokenizer, prompts)


def test_a_batch_size_of_nothing_is_refused(model, tokenizer):
    with pytest.raises(UserError, match="batch_size is 0; it must be at least 1"):
        answer_texts(model, tokenizer, PROMPTS, batch_size=0)
