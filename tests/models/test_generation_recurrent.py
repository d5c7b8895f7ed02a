"""`generate`: with and without a cache, beams, padding, continuing, compiled decoding, and the modes that a state rules out.

This covers the ground of transformers' GenerationTesterMixin, which its source distribution leaves out.
"""

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig, DynamicCache, StaticCache
from transformers.generation.streamers import BaseStreamer

from hflab.models.recurrent import cache_from_states, states_from_cache

END = 1
GREEDY = {"max_new_tokens": 7, "do_sample": False}
BEAMS = {"max_new_tokens": 7, "do_sample": False, "num_beams": 3}
MODES = pytest.mark.parametrize("mode", [GREEDY, BEAMS], ids=["greedy", "beam"])
ONE_CELL = pytest.mark.parametrize("cell_type", ["lstm"], indirect=True)  # compiling takes seconds, and the test before it compiles all


@pytest.fixture
def model(build):
    """A model with weights so large that its continuations vary from token to token."""
    model = build(eos_token_id=END)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.0)
    return model


@pytest.fixture
def prompts(tokens):
    return tokens.clamp(min=2)


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
    sequences = model.generate(prompts, **GREEDY)
    assert len({tuple(row) for row in new_tokens(sequences, 9)}) > 1
    assert len(set(sequences[:, 9:].flatten().tolist())) > 3


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
def test_left_padding_without_cache(model, padded, mode):
    ids, mask, _ = padded
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
    outputs = model.generate(prompts, return_dict_in_generate=True, output_logits=True, output_hidden_states=True, eos_token_id=None, **GREEDY)
    whole = model(input_ids=outputs.sequences, output_hidden_states=True)
    torch.testing.assert_close(torch.stack(outputs.logits, 1), whole.logits[:, 8:-1], rtol=1e-4, atol=1e-5)
    assert len(outputs.hidden_states) == 7
    assert [len(step) for step in outputs.hidden_states] == [3] * 7
    for t, step in enumerate(outputs.hidden_states):
        for hidden, expected in zip(step, whole.hidden_states, strict=True):
            torch.testing.assert_close(hidden[:, -1], expected[:, 8 + t], rtol=1e-4, atol=1e-5)


def test_continues_from_a_returned_cache(model, prompts):
    first = model.generate(prompts, return_dict_in_generate=True, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert first.past_key_values.get_seq_length() == 11  # the last token was not read yet
    second = model.generate(first.sequences, past_key_values=first.past_key_values, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert torch.equal(second, model.generate(prompts, eos_token_id=None, **GREEDY))


@pytest.mark.parametrize("static", [False, True])
def test_continues_from_a_state_handed_in(model, prompts, static):
    """With states that count no tokens, `generate` reads all ids it is given: a stream whose past is only a state."""
    states = states_from_cache(model(input_ids=prompts[:, :6]).past_key_values)
    cache = cache_from_states(model.config, states)
    if static:
        cache = StaticCache(config=model.config, max_cache_len=20)
        with torch.no_grad():
            for layer, state in zip(cache.layers, states, strict=True):
                layer.store_state(state, num_tokens=0)
    continued = model.generate(prompts[:, 6:], past_key_values=cache, disable_compile=True, **GREEDY)
    assert torch.equal(continued[:, 3:], model.generate(prompts, **GREEDY)[:, 9:])


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
    sequences = model.generate(bos_token_id=3, **GREEDY)
    assert torch.equal(sequences, model.generate(torch.tensor([[3]]), **GREEDY))


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
            {"input_ids": ids[:, 3:], "attention_mask": mask[:, 3:]},
            {"input_ids": ids.clamp(min=2)},
        ):
            compiled = model.generate(cache_implementation="static", compile_config=compile_config(), **inputs, **GREEDY)
            assert torch.equal(compiled, model.generate(**inputs, **GREEDY))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@ONE_CELL
def test_compiled_beams_with_a_static_cache(model, prompts):
    torch.compiler.reset()
    compiled = model.generate(prompts, cache_implementation="static", compile_config=compile_config(), **BEAMS)
    assert torch.equal(compiled, model.generate(prompts, **BEAMS))


@ONE_CELL
def test_own_compiled_step_with_a_growing_mask(model, padded):
    """A loop of one's own: no recompilation while the mask grows and the state is replaced."""
    ids, mask, _ = padded
    torch.compiler.reset()
    step, cache = torch.compile(model, backend="eager", fullgraph=True, dynamic=False), DynamicCache(config=model.config)
    whole = model(input_ids=ids, attention_mask=mask).logits
    with torch.no_grad():
        for t in range(3):  # the first steps make the state and its tensors' final kinds known
            step(input_ids=ids[:, t : t + 1], attention_mask=mask[:, t : t + 1], past_key_values=cache)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for t in range(3, 9):
                outputs = step(input_ids=ids[:, t : t + 1], attention_mask=mask[:, t : t + 1], past_key_values=cache)
    torch.testing.assert_close(outputs.logits[:, 0], whole[:, -1])


def test_modes_that_take_tokens_back_are_refused(model, build, prompts):
    with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
        model.generate(prompts[:1], assistant_model=build(), **GREEDY)
    with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
        model.generate(prompts[:1], prompt_lookup_num_tokens=2, **GREEDY)


def test_caches_that_make_no_sense_are_refused(model, prompts):
    with pytest.raises(ValueError, match="leave offloading out"):
        model(input_ids=prompts, past_key_values=DynamicCache(config=model.config, offloading=True))
    with pytest.raises((ValueError, NotImplementedError), match=r"recurrent|QuantizedCache|layer"):
        model.generate(prompts, cache_implementation="quantized", **GREEDY)


def test_misspelt_options_are_refused(model, prompts):
    with pytest.raises(ValueError, match="atention_mask"):
        model.generate(prompts, atention_mask=torch.ones_like(prompts), **GREEDY)
