"""`generate`: with and without a cache, beams, padding, continuing, assistants and compiled decoding, for one stack and for two.

This covers the ground of transformers' GenerationTesterMixin, which its source distribution leaves out.
"""

import pytest
import torch
import transformers
from packaging.version import Version
from torch._dynamo.utils import counters
from transformers import CompileConfig, EncoderDecoderCache, StaticCache
from transformers.generation.streamers import BaseStreamer

END = 1
GREEDY = {"max_new_tokens": 7, "do_sample": False}
BEAMS = {"max_new_tokens": 7, "do_sample": False, "num_beams": 3}
MODES = pytest.mark.parametrize("mode", [GREEDY, BEAMS], ids=["greedy", "beam"])
ONE_ARCHITECTURE = pytest.mark.parametrize("architecture", ["llama"], indirect=True)  # compiling takes seconds
SEQ2SEQ_ARCHITECTURES = pytest.mark.parametrize("architecture", ["vaswani", "gpt2", "llama"], indirect=True)


def scatter(model):
    """Weights so large that continuations vary from token to token."""
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture
def model(build_transformer):
    return scatter(build_transformer(eos_token_id=END))


@pytest.fixture
def translator(build_transformer):
    """An encoder and a decoder of another depth."""
    return scatter(build_transformer("ForConditionalGeneration", eos_token_id=END, num_decoder_layers=3))


@pytest.fixture
def prompts(tokens):
    return tokens.clamp(min=3)


@pytest.fixture
def padded(prompts):
    """The prompts cut to different lengths and padded on the left, their mask, and the cut rows."""
    ids, mask = prompts.clone(), torch.ones_like(prompts)
    for row, length in enumerate((9, 4, 1)):
        ids[row, :-length], mask[row, :-length] = 0, 0
    return ids, mask, [ids[row, mask[row] == 1][None] for row in range(3)]


def new_tokens(sequences, width):
    """What was generated in each row, up to the end of its text."""
    rows = [row[width:].tolist() for row in sequences]
    return [row[: row.index(END) + 1] if END in row else row for row in rows]


def test_continuations_vary(model, prompts):
    sequences = model.generate(prompts, eos_token_id=None, **GREEDY)
    assert len({tuple(row) for row in new_tokens(sequences, 9)}) > 1
    assert len(set(sequences[:, 9:].flatten().tolist())) > 2


@MODES
def test_cache_changes_nothing(model, prompts, mode):
    assert torch.equal(model.generate(prompts, **mode), model.generate(prompts, use_cache=False, **mode))


@MODES
@pytest.mark.parametrize("cache_implementation", ["dynamic", "static"])
def test_left_padded_batch_is_its_rows(model, padded, mode, cache_implementation):
    ids, mask, rows = padded
    batch = model.generate(ids, attention_mask=mask, cache_implementation=cache_implementation, **mode)
    assert new_tokens(batch, 9) == [new_tokens(model.generate(row, **mode), row.shape[1])[0] for row in rows]


@MODES
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_left_padding_without_cache(model, padded, mode, implementation):
    ids, mask, _ = padded
    model.set_attn_implementation(implementation)
    assert torch.equal(model.generate(ids, attention_mask=mask, use_cache=False, **mode), model.generate(ids, attention_mask=mask, **mode))


@pytest.mark.parametrize("cache_implementation", ["dynamic", "static"])
@pytest.mark.parametrize("prefill_chunk_size", [1, 4, 20])
def test_prefill_in_chunks_is_prefill_in_one(model, padded, cache_implementation, prefill_chunk_size):
    ids, mask, _ = padded
    options = {"attention_mask": mask, "cache_implementation": cache_implementation, **GREEDY}
    assert torch.equal(model.generate(ids, prefill_chunk_size=prefill_chunk_size, **options), model.generate(ids, **options))


def test_beam_scores_are_those_of_the_whole_sequence(model, prompts):
    outputs = model.generate(prompts, return_dict_in_generate=True, output_scores=True, length_penalty=0.0, eos_token_id=None, **BEAMS)
    logits = model(input_ids=outputs.sequences).logits.log_softmax(-1)
    chosen = logits[:, 8:-1].gather(-1, outputs.sequences[:, 9:, None]).squeeze(-1)
    torch.testing.assert_close(outputs.sequences_scores, chosen.sum(1), rtol=1e-4, atol=1e-4)


def test_outputs_of_every_step(model, prompts):
    model.set_attn_implementation("eager")
    options = {"return_dict_in_generate": True, "output_logits": True, "output_hidden_states": True, "output_attentions": True}
    outputs = model.generate(prompts, eos_token_id=None, **options, **GREEDY)
    whole = model(input_ids=outputs.sequences, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(torch.stack(outputs.logits, 1), whole.logits[:, 8:-1], rtol=1e-4, atol=1e-5)
    assert [len(step) for step in outputs.hidden_states] == [3] * 7
    for t, (states, attentions) in enumerate(zip(outputs.hidden_states, outputs.attentions, strict=True)):
        for hidden, expected in zip(states, whole.hidden_states, strict=True):
            torch.testing.assert_close(hidden[:, -1], expected[:, 8 + t], rtol=1e-4, atol=1e-5)
        for attention, expected in zip(attentions, whole.attentions, strict=True):
            torch.testing.assert_close(attention[:, :, -1], expected[:, :, 8 + t, : 9 + t], rtol=1e-4, atol=1e-5)


def test_cache_is_of_keys_and_values(model, prompts):
    outputs = model.generate(prompts, return_dict_in_generate=True, eos_token_id=None, **GREEDY)
    assert outputs.past_key_values.get_seq_length() == 15  # the last token was not read yet
    assert {tensor.shape for layer in outputs.past_key_values.layers for tensor in (layer.keys, layer.values)} == {(3, 4, 15, 4)}
    static = model.generate(prompts, return_dict_in_generate=True, cache_implementation="static", eos_token_id=None, **GREEDY)
    assert isinstance(static.past_key_values, StaticCache)
    assert torch.equal(static.sequences, outputs.sequences)


def test_continues_from_a_returned_cache(model, prompts):
    first = model.generate(prompts, return_dict_in_generate=True, max_new_tokens=3, do_sample=False, eos_token_id=None)
    mask = torch.ones_like(first.sequences)  # else a generated pad_token_id would be taken for padding
    options = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    second = model.generate(first.sequences, past_key_values=first.past_key_values, **options)
    assert torch.equal(second, model.generate(prompts, eos_token_id=None, **GREEDY))


def test_caches_are_reordered_repeated_selected_cropped_and_reset(model, prompts):
    cache = model(input_ids=prompts[:, :6]).past_key_values
    cache.reorder_cache(torch.tensor([2, 0, 1]))
    logits = model(input_ids=prompts[[2, 0, 1], 6:], past_key_values=cache).logits
    torch.testing.assert_close(logits, model(input_ids=prompts[[2, 0, 1]]).logits[:, 6:], rtol=1e-4, atol=1e-5)
    assert cache.get_seq_length() == 9
    cache.crop(-3)
    cache.batch_select_indices(torch.tensor([1]))
    cache.batch_repeat_interleave(2)
    logits = model(input_ids=prompts[[0, 0], 6:], past_key_values=cache).logits
    torch.testing.assert_close(logits, model(input_ids=prompts[[0, 0]]).logits[:, 6:], rtol=1e-4, atol=1e-5)
    cache.reset()
    if Version(transformers.__version__) >= Version("5.23"):  # the cache is transformers' own: 5.17 zeroes its keys and keeps their number
        assert cache.get_seq_length() == 0


def test_one_prompt_read_once_for_many_continuations(model, prompts):
    cache = model(input_ids=prompts[:1, :-1]).past_key_values
    cache.batch_repeat_interleave(4)
    torch.manual_seed(0)
    sampled = model.generate(prompts[:1].repeat(4, 1), past_key_values=cache, max_new_tokens=7, do_sample=True)
    torch.manual_seed(0)
    assert torch.equal(sampled, model.generate(prompts[:1], num_return_sequences=4, max_new_tokens=7, do_sample=True))
    assert len({tuple(row) for row in sampled.tolist()}) > 1


def test_starts_from_embeddings(model, prompts):
    embeds = model.model.embed_tokens(prompts)
    expected = model.generate(prompts, **GREEDY)[:, 9:]
    assert torch.equal(model.generate(inputs_embeds=embeds, **GREEDY), expected)
    assert torch.equal(model.generate(prompts, inputs_embeds=embeds, use_cache=False, **GREEDY)[:, 9:], expected)


def test_starts_from_nothing(model):
    assert torch.equal(model.generate(bos_token_id=3, **GREEDY), model.generate(torch.tensor([[3]]), **GREEDY))


def test_stops_at_the_end_of_a_text(model, prompts):
    end = model.generate(prompts[:1], eos_token_id=None, **GREEDY)[0, 11].item()
    stopped = model.generate(prompts, eos_token_id=end, **GREEDY)
    row = stopped[0, 9:].tolist()
    assert row[row.index(end) + 1 :] == [0] * (len(row) - row.index(end) - 1)
    assert model.generate(prompts[:1], eos_token_id=end, min_new_tokens=5, **GREEDY).shape[1] >= 14


def test_streams(model, prompts):
    class Collector(BaseStreamer):
        def __init__(self):
            self.tokens = []

        def put(self, value):
            self.tokens.extend(value.flatten().tolist())

        def end(self):
            self.tokens.append("end")

    streamer = Collector()
    expected = model.generate(prompts[:1], **GREEDY)
    model.generate(prompts[:1], streamer=streamer, **GREEDY)
    assert streamer.tokens == [*expected[0].tolist(), "end"]


def test_assistants_change_nothing(model, build_transformer, prompts):
    """Tokens that another model, or the prompt itself, proposed and that are taken back when they are wrong."""
    expected = model.generate(prompts[:1], **GREEDY)
    assert torch.equal(model.generate(prompts[:1], assistant_model=build_transformer(eos_token_id=END), **GREEDY), expected)
    assert torch.equal(model.generate(prompts[:1], prompt_lookup_num_tokens=2, **GREEDY), expected)


@SEQ2SEQ_ARCHITECTURES
@MODES
@pytest.mark.parametrize("cache_implementation", ["dynamic", "static"])
def test_targets_with_and_without_cache(translator, prompts, mode, cache_implementation):
    cached = translator.generate(prompts, cache_implementation=cache_implementation, **mode)
    assert torch.equal(cached, translator.generate(prompts, use_cache=False, **mode))
    assert cached[:, 0].tolist() == [2, 2, 2]
    assert len({tuple(row) for row in cached.tolist()}) > 1


@SEQ2SEQ_ARCHITECTURES
@MODES
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_sources_are_their_rows(translator, prompts, mode, side):
    ids, mask = prompts.clone(), torch.ones_like(prompts)
    for row, length in enumerate((9, 4, 1)):
        padding = slice(None, 9 - length) if side == "left" else slice(length, None)
        ids[row, padding], mask[row, padding] = 0, 0
    batch = translator.generate(ids, attention_mask=mask, **mode)
    rows = [ids[row, mask[row] == 1][None] for row in range(3)]
    assert new_tokens(batch, 1) == [new_tokens(translator.generate(row, **mode), 1)[0] for row in rows]


@SEQ2SEQ_ARCHITECTURES
@pytest.mark.parametrize("cache_implementation", ["dynamic", "static"])
def test_targets_that_begin_with_different_prompts(translator, prompts, cache_implementation):
    begin, mask = torch.tensor([[2, 7, 8], [0, 2, 9], [0, 0, 2]]), torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 1]])
    options = {"decoder_input_ids": begin, "decoder_attention_mask": mask, "cache_implementation": cache_implementation}
    batch = translator.generate(prompts, **options, **GREEDY)
    for row in range(3):
        alone = translator.generate(prompts[row : row + 1], decoder_input_ids=begin[row, mask[row] == 1][None], **GREEDY)
        assert new_tokens(batch[row : row + 1], 3) == new_tokens(alone, int(mask[row].sum()))


@SEQ2SEQ_ARCHITECTURES
def test_outputs_of_every_step_of_a_target(translator, prompts):
    translator.set_attn_implementation("eager")
    options = {"return_dict_in_generate": True, "output_logits": True, "output_attentions": True, "eos_token_id": None}
    outputs = translator.generate(prompts, **options, **GREEDY)
    whole = translator(input_ids=prompts, decoder_input_ids=outputs.sequences[:, :-1], output_attentions=True)
    torch.testing.assert_close(torch.stack(outputs.logits, 1), whole.logits, rtol=1e-4, atol=1e-5)
    assert isinstance(outputs.past_key_values, EncoderDecoderCache)
    assert len(outputs.encoder_attentions) == 2
    for t, step in enumerate(outputs.cross_attentions):
        assert len(step) == 3
        for attention, expected in zip(step, whole.cross_attentions, strict=True):
            torch.testing.assert_close(attention[:, :, -1], expected[:, :, t], rtol=1e-4, atol=1e-5)


def compile_config():
    config = CompileConfig(backend="eager", fullgraph=True, dynamic=False, mode=None)
    config._compile_all_devices = True  # otherwise transformers compiles on GPUs only
    return config


def test_static_decoding_compiles_once_in_one_graph(model, padded):
    ids, mask, _ = padded
    torch.compiler.reset()
    counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for inputs in (
            {"input_ids": ids, "attention_mask": mask},
            {"input_ids": ids.roll(1, 1), "attention_mask": torch.ones_like(ids)},
            {"input_ids": ids.clamp(min=2)},
        ):
            compiled = model.generate(cache_implementation="static", compile_config=compile_config(), **inputs, **GREEDY)
            assert torch.equal(compiled, model.generate(**inputs, **GREEDY))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@SEQ2SEQ_ARCHITECTURES
def test_static_decoding_of_targets_compiles_in_one_graph(translator, prompts):
    torch.compiler.reset()
    counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for source in (prompts, prompts.flip(1)):
            compiled = translator.generate(source, cache_implementation="static", compile_config=compile_config(), **GREEDY)
            assert torch.equal(compiled, translator.generate(source, **GREEDY))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@ONE_ARCHITECTURE
def test_compiled_beams_with_a_static_cache(model, prompts):
    torch.compiler.reset()
    compiled = model.generate(prompts, cache_implementation="static", compile_config=compile_config(), **BEAMS)
    assert torch.equal(compiled, model.generate(prompts, **BEAMS))


@ONE_ARCHITECTURE
def test_own_compiled_step_with_a_static_cache(model, prompts):
    """A loop of one's own: one graph for all steps."""
    torch.compiler.reset()
    step = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    cache = StaticCache(config=model.config, max_cache_len=12)
    whole = model(input_ids=prompts).logits
    with torch.no_grad():
        model(input_ids=prompts[:, :1], past_key_values=cache)  # allocates the cache
        step(input_ids=prompts[:, 1:2], position_ids=torch.tensor([[1]]), past_key_values=cache)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for t in range(2, 9):
                outputs = step(input_ids=prompts[:, t : t + 1], position_ids=torch.tensor([[t]]), past_key_values=cache)
    torch.testing.assert_close(outputs.logits[:, 0], whole[:, -1], rtol=1e-4, atol=1e-5)


def test_misspelt_options_are_refused(model, prompts):
    with pytest.raises(ValueError, match="atention_mask"):
        model.generate(prompts, atention_mask=torch.ones_like(prompts), **GREEDY)
