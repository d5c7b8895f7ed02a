import random

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation import LogitsProcessorList, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import hflab.generation.streaming as streaming
from hflab.data.processors import build_tokenizer
from hflab.data.sources import Piece
from hflab.errors import UserError
from hflab.generation.streaming import GenerationOptions, generate_text, stream_text
from hflab.models.recurrent.cells_recurrent import CELLS
from hflab.models.recurrent.configuration_recurrent import RecurrentConfig
from hflab.models.recurrent.modeling_recurrent import RecurrentForCausalLM
from hflab.recipe import ProcessorSection

# ruff: noqa: RUF001 - Chinese text has Chinese punctuation
POEM = "春眠不觉晓，处处闻啼鸟 🐦。\n夜来风雨声，花落知多少 👨‍👩‍👧！"
MODELS = ["gpt2", *CELLS]
OPTIONS = [
    GenerationOptions(max_new_tokens=24, seed=5),
    GenerationOptions(max_new_tokens=24, seed=6, temperature=0.7, top_k=9, top_p=0.8, repetition_penalty=1.3),
]


def make_tokenizer(kind="character", text="abcdefghijklmnop "):
    return build_tokenizer(ProcessorSection(tokenizer=kind), [Piece(0, text)])


def make_model(name, tokenizer, spread=1.0, **sizes):
    """A small model with random weights, spread out so that its choices are clear, that never ends a text by itself."""
    end = tokenizer.eos_token_id
    tokens = {"vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(1)
    if name == "gpt2":
        sizes = {"n_positions": 96, "n_embd": 16, "n_layer": 2, "n_head": 2, **sizes}
        model = GPT2LMHeadModel(GPT2Config(initializer_range=0.6 * spread, **tokens, **sizes))
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "input_dropout": 0.5, **sizes}
        model = RecurrentForCausalLM(RecurrentConfig(cell_type=name, initializer_range=spread, **tokens, **sizes))
    model.generation_config.eos_token_id = []
    return model.eval()


POETS = {
    "gpt2": {"n_embd": 32, "n_layer": 1, "n_positions": 400, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "gru": {"hidden_size": 32, "num_hidden_layers": 1, "input_dropout": 0.0},
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Models this small only lose by sharing their work out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module", params=MODELS)
def model(request, tokenizer):
    return make_model(request.param, tokenizer)


@pytest.fixture(scope="module", params=POETS)
def poet(request):
    """A model that knows one poem of many-byte characters by heart, and its end; with its byte-level tokenizer."""
    tokenizer = build_tokenizer(ProcessorSection(tokenizer="byte_bpe", vocab_size=270), [Piece(0, POEM)])
    model = make_model(request.param, tokenizer, spread=0.04, **POETS[request.param]).train()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    tokens = torch.tensor([[tokenizer.eos_token_id, *tokenizer(POEM)["input_ids"], tokenizer.eos_token_id]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(120):
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05
    return model, tokenizer


def reference_text(model, tokenizer, prompt, options):
    """The same choices by the plainest means: the whole text in one forward for every token."""
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(options.repetition_penalty), TemperatureLogitsWarper(options.temperature)])
    if options.top_k:
        processors.append(TopKLogitsWarper(options.top_k))
    processors.append(TopPLogitsWarper(options.top_p))
    generator = torch.Generator().manual_seed(options.seed)
    tokens = tokenizer(prompt, return_tensors="pt")["input_ids"]
    start = tokens.shape[1]
    with torch.no_grad():
        for _ in range(options.max_new_tokens):
            scores = processors(tokens, model(input_ids=tokens, use_cache=False).logits[:, -1])
            tokens = torch.cat([tokens, torch.multinomial(scores.softmax(-1), 1, generator=generator)], dim=1)
    return tokenizer.decode(tokens[0, start:], skip_special_tokens=True)


@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_text_is_that_of_generate(model, tokenizer, penalty):
    inputs = tokenizer("hello bad"[5:], return_tensors="pt", return_token_type_ids=False)
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=40, repetition_penalty=penalty)[0, inputs["input_ids"].shape[1] :]
    text = generate_text(model, tokenizer, " bad", GenerationOptions(max_new_tokens=40, temperature=0, repetition_penalty=penalty))
    assert text == tokenizer.decode(tokens, skip_special_tokens=True)
    assert len(set(text)) > 1


@pytest.mark.parametrize("options", OPTIONS)
def test_sampled_text_is_that_of_plain_sampling(model, tokenizer, options):
    assert generate_text(model, tokenizer, "bad cab", options) == reference_text(model, tokenizer, "bad cab", options)


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}])
def test_narrowest_sampling_is_greedy(model, tokenizer, narrow):
    greedy = generate_text(model, tokenizer, "a", GenerationOptions(max_new_tokens=20, temperature=0))
    assert generate_text(model, tokenizer, "a", GenerationOptions(max_new_tokens=20, seed=0, **narrow)) == greedy


def test_seed_decides_the_text_and_no_global_generator_moves(model, tokenizer):
    torch.manual_seed(3)
    before = (torch.get_rng_state(), random.getstate(), str(np.random.get_state()))  # noqa: NPY002 - the global one is what must not move
    texts = [generate_text(model, tokenizer, "a", GenerationOptions(max_new_tokens=30, seed=seed)) for seed in (7, 7, 8)]
    unseeded = {generate_text(model, tokenizer, "a", GenerationOptions(max_new_tokens=30)) for _ in range(3)}
    after = (torch.get_rng_state(), random.getstate(), str(np.random.get_state()))  # noqa: NPY002
    assert texts[0] == texts[1] != texts[2]
    assert len(unseeded) > 1
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("first", [{"temperature": 0}, {"seed": 4, "top_k": 8, "repetition_penalty": 1.2}])
def test_continued_text_is_the_whole_text(model, tokenizer, first):
    then = {**first, "seed": None}
    whole = generate_text(model, tokenizer, "bad", GenerationOptions(max_new_tokens=30, **first))
    stream = stream_text(model, tokenizer, "bad", GenerationOptions(max_new_tokens=11, **first))
    beginning, state = "".join(stream), stream.state
    rest = [generate_text(model, tokenizer, "", GenerationOptions(max_new_tokens=19, **then), state=state) for _ in range(2)]
    assert beginning + rest[0] == whole
    assert rest[0] == rest[1]  # continuing does not change the state


def test_state_is_there_after_every_piece(model, tokenizer):
    options = GenerationOptions(max_new_tokens=12, seed=2)
    whole = generate_text(model, tokenizer, "cab", options)
    stream, beginning = stream_text(model, tokenizer, "cab", options), ""
    for piece in stream:
        beginning += piece
        state = stream.state
        left = options.max_new_tokens - (len(state.tokens) - 3)
        if left:
            assert beginning + generate_text(model, tokenizer, "", GenerationOptions(max_new_tokens=left), state=state) == whole


def test_prompt_after_a_state_is_read_after_its_text(model, tokenizer):
    options = GenerationOptions(max_new_tokens=10, temperature=0)
    stream = stream_text(model, tokenizer, "bad", options)
    beginning = "".join(stream)
    assert tokenizer.decode(stream.state.tokens, skip_special_tokens=True) == "bad" + beginning
    read = torch.tensor([[*stream.state.tokens, *tokenizer(" cab")["input_ids"]]])
    expected = model.generate(read, do_sample=False, max_new_tokens=10)[0, read.shape[1] :]
    assert generate_text(model, tokenizer, " cab", options, state=stream.state) == tokenizer.decode(expected, skip_special_tokens=True)


def test_long_prompt_is_read_in_blocks(model, tokenizer, monkeypatch):
    options, prompt = GenerationOptions(max_new_tokens=10, temperature=0), "a bad cab had a mad dog "
    whole = generate_text(model, tokenizer, prompt, options)
    monkeypatch.setattr(streaming, "PREFILL_TOKENS", 5)
    assert generate_text(model, tokenizer, prompt, options) == whole


def test_empty_prompt_starts_from_the_end_of_text_token(model, tokenizer):
    options = GenerationOptions(max_new_tokens=10, temperature=0)
    tokens = model.generate(torch.tensor([[tokenizer.eos_token_id]]), do_sample=False, max_new_tokens=10)[0, 1:]
    assert generate_text(model, tokenizer, "", options) == tokenizer.decode(tokens, skip_special_tokens=True)


def test_model_in_training_writes_without_dropout_and_goes_on_training(model, tokenizer):
    options = GenerationOptions(max_new_tokens=20, temperature=0)
    expected = generate_text(model, tokenizer, "a", options)
    frozen = next(module for module in model.modules() if isinstance(module, torch.nn.Embedding))
    model.train()
    frozen.eval()
    modes = [module.training for module in model.modules()]
    stream, text = stream_text(model, tokenizer, "a", options), ""
    try:
        for piece in stream:
            text += piece
            assert [module.training for module in model.modules()] == modes
            assert torch.is_grad_enabled()
    finally:
        model.eval()
    assert text == expected


def test_text_comes_in_whole_characters_and_ends_with_the_end_of_text_token(poet):
    pieces = list(stream_text(*poet, "", GenerationOptions(max_new_tokens=300, temperature=0)))
    assert "".join(pieces) == POEM
    assert len(pieces) > 20
    assert "鸟" in pieces


def test_text_cut_inside_a_character_is_continued_with_it(poet):
    for first in range(1, 15):
        stream = stream_text(*poet, "", GenerationOptions(max_new_tokens=first, temperature=0))
        beginning = "".join(stream)
        assert POEM.startswith(beginning)
        rest = generate_text(*poet, "", GenerationOptions(max_new_tokens=300, temperature=0), state=stream.state)
        assert beginning + rest == POEM


@pytest.mark.parametrize(
    ("stops", "text"),
    [
        (("处闻",), "春眠不觉晓，处"),
        (("花落知足", "闻啼"), "春眠不觉晓，处处"),
        (("少年",), POEM),
        (("👧！", "没有"), POEM[:-2]),
        ((POEM + "x",), POEM),
    ],
)
def test_stop_strings_end_the_text_and_are_never_shown(poet, stops, text):
    shown = ""
    for piece in stream_text(*poet, "", GenerationOptions(max_new_tokens=300, temperature=0, stop_strings=stops)):
        shown += piece
        assert text.startswith(shown)
    assert shown == text


def test_nothing_is_computed_before_the_first_piece_is_asked_for(model, tokenizer):
    stream = stream_text(model, tokenizer, "a", GenerationOptions(max_new_tokens=5))
    with pytest.raises(UserError, match="iterate"):
        stream.state  # noqa: B018 - reading it is the test


def test_unknown_characters_are_named(model, tokenizer):
    with pytest.raises(UserError, match="'Z'"):
        stream_text(model, tokenizer, "aZ", GenerationOptions())


@pytest.mark.parametrize("temperature", [0, 1])
def test_model_that_diverged_is_named_as_such(tokenizer, temperature):
    model = make_model("gru", tokenizer)
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    with pytest.raises(UserError, match="diverged"):
        generate_text(model, tokenizer, "a", GenerationOptions(temperature=temperature))


def test_text_longer_than_the_positions_of_the_model_is_refused(tokenizer):
    model = make_model("gpt2", tokenizer)
    assert len(generate_text(model, tokenizer, "a" * 90, GenerationOptions(max_new_tokens=7, temperature=0))) <= 7
    with pytest.raises(UserError, match=r"90 tokens and max_new_tokens is 8, but the model has 96 positions; lower max_new_tokens to 7"):
        stream_text(model, tokenizer, "a" * 90, GenerationOptions(max_new_tokens=8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"max_new_tokens": 1.5}, "a whole number"),
        ({"temperature": -0.1}, "temperature is -0.1; it must be 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": "hot"}, "a number"),
        ({"top_k": -1}, "top_k is -1; it must be at least 1, or 0"),
        ({"top_p": 0.0}, "above 0 and at most 1"),
        ({"top_p": 1.1}, "above 0 and at most 1"),
        ({"repetition_penalty": 0}, "above 0"),
        ({"seed": -1}, "from 0 to"),
        ({"seed": True}, "a whole number"),
        ({"stop_strings": "end"}, "a tuple of strings"),
        ({"stop_strings": ("",)}, "not empty"),
    ],
)
def test_impossible_options_are_refused_with_what_is_allowed(options, message):
    with pytest.raises(UserError, match=message):
        GenerationOptions(**options)
