"""`generate` of the encoder-decoder: with and without a cache, beams, sampling, padded sources, attentions, compiled decoding, refusals."""

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig, DynamicCache, EncoderDecoderCache

from hflab.models.recurrent import ATTENTIONS

END = 2
GREEDY = {"max_new_tokens": 7, "do_sample": False}
BEAMS = {"max_new_tokens": 7, "do_sample": False, "num_beams": 3}
MODES = pytest.mark.parametrize("mode", [GREEDY, BEAMS], ids=["greedy", "beam"])
ONE_CELL = pytest.mark.parametrize("cell_type", ["lstm"], indirect=True)
CACHES = pytest.mark.parametrize("cache_implementation", ["dynamic", "static"])


@pytest.fixture(params=[*ATTENTIONS, "none"])
def attention_type(request):
    return request.param


@pytest.fixture
def model(build, attention_type):
    """A model with weights so large that its outputs vary from token to token, and from source to source."""
    fields = {"bidirectional": True, "attention_type": attention_type, "bos_token_id": 1, "eos_token_id": END, "num_decoder_layers": 1}
    model = build("ForConditionalGeneration", **fields)
    torch.manual_seed(0)
    for name, parameter in model.requires_grad_(False).named_parameters():
        if "embed" in name:
            torch.nn.init.normal_(parameter)
        elif parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=2 * parameter.shape[1] ** -0.5)
        else:
            parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
    return model


@pytest.fixture
def padded(tokens):
    """Sources of nine, four and one tokens padded on the left or right, with the mask and the rows without padding."""

    def pad(side):
        ids, mask = tokens.clone(), torch.ones_like(tokens)
        for row, length in enumerate((9, 4, 1)):
            padding = slice(0, 9 - length) if side == "left" else slice(length, 9)
            ids[row, padding], mask[row, padding] = 0, 0
        return ids, mask, [ids[row, mask[row] == 1][None] for row in range(3)]

    return pad


def written(sequences):
    """What was generated in each row, up to the end of its text."""
    rows = [row[1:].tolist() for row in sequences]
    return [row[: row.index(END) + 1] if END in row else row for row in rows]


def test_outputs_vary(model, tokens):
    sequences = model.generate(tokens, **GREEDY)
    assert sequences[:, 0].tolist() == [1, 1, 1]
    assert len({tuple(row) for row in written(sequences)}) > 1
    assert len(set(sequences[:, 1:].flatten().tolist())) > 3


@MODES
def test_cache_changes_nothing(model, tokens, mode):
    assert torch.equal(model.generate(tokens, **mode), model.generate(tokens, use_cache=False, **mode))


def test_cache_changes_no_sample(model, tokens):
    sampled = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        sampled.append(model.generate(tokens, use_cache=use_cache, do_sample=True, max_new_tokens=7, num_return_sequences=4))
    assert torch.equal(*sampled)
    assert len({tuple(row) for row in sampled[0].tolist()}) > 3


@MODES
@CACHES
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_is_its_rows(model, padded, mode, cache_implementation, side):
    ids, mask, rows = padded(side)
    batch = model.generate(ids, attention_mask=mask, cache_implementation=cache_implementation, **mode)
    assert written(batch) == [written(model.generate(row, **mode))[0] for row in rows]
    assert written(model.generate(ids, attention_mask=mask, use_cache=False, **mode)) == written(batch)


@MODES
def test_encoder_outputs_may_be_handed_in(model, padded, mode):
    ids, mask, _ = padded("right")
    encoder_outputs = model.get_encoder()(input_ids=ids, attention_mask=mask)
    expected = model.generate(ids, attention_mask=mask, **mode)
    assert torch.equal(model.generate(encoder_outputs=encoder_outputs, attention_mask=mask, **mode), expected)


def test_scores_are_those_of_the_whole_target(model, tokens):
    options = {"return_dict_in_generate": True, "output_logits": True, "output_hidden_states": True, "eos_token_id": None}
    outputs = model.generate(tokens, **options, **GREEDY)
    whole = model(input_ids=tokens, decoder_input_ids=outputs.sequences, output_hidden_states=True)
    torch.testing.assert_close(torch.stack(outputs.logits, 1), whole.logits[:, :-1], rtol=1e-4, atol=1e-5)
    assert len(outputs.decoder_hidden_states) == 7
    assert len(outputs.encoder_hidden_states) == 3
    for t, step in enumerate(outputs.decoder_hidden_states):
        torch.testing.assert_close(step[-1][:, 0], whole.decoder_hidden_states[-1][:, t], rtol=1e-4, atol=1e-5)


def test_beam_scores_are_those_of_the_whole_target(model, tokens):
    outputs = model.generate(tokens, return_dict_in_generate=True, output_scores=True, length_penalty=0.0, eos_token_id=None, **BEAMS)
    logits = model(input_ids=tokens, decoder_input_ids=outputs.sequences).logits.log_softmax(-1)
    chosen = logits[:, :-1].gather(-1, outputs.sequences[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(outputs.sequences_scores, chosen.sum(1), rtol=1e-4, atol=1e-4)


def test_cross_attentions_of_every_step(model, padded, attention_type):
    ids, mask, _ = padded("right")
    options = {"return_dict_in_generate": True, "output_attentions": True, "eos_token_id": None}
    if attention_type == "none":
        with pytest.raises(ValueError, match="attention_type is 'none'"):
            model.generate(ids, attention_mask=mask, **options, **GREEDY)
        return
    outputs = model.generate(ids, attention_mask=mask, **options, **GREEDY)
    whole = model(input_ids=ids, attention_mask=mask, decoder_input_ids=outputs.sequences, output_attentions=True).cross_attentions[0]
    assert len(outputs.cross_attentions) == 7
    for t, (weights,) in enumerate(outputs.cross_attentions):
        assert weights.shape == (3, 1, 1, 9)
        torch.testing.assert_close(weights[:, :, 0], whole[:, :, t], rtol=1e-4, atol=1e-5)
    beams = model.generate(ids, attention_mask=mask, **options, **BEAMS)
    assert beams.cross_attentions[0][0].shape == (9, 1, 1, 9)


def test_starts_from_a_prompt_and_continues_from_a_returned_cache(model, tokens):
    expected = model.generate(tokens, eos_token_id=None, **GREEDY)
    assert torch.equal(model.generate(tokens, decoder_input_ids=expected[:, :4], eos_token_id=None, max_new_tokens=4, do_sample=False), expected)
    first = model.generate(tokens, return_dict_in_generate=True, eos_token_id=None, max_new_tokens=3, do_sample=False)
    assert first.past_key_values.get_seq_length() == 3  # the last token was not read yet
    # by the mask `generate` sees that the ids are the whole target, of which the cache has read a part
    target = {"decoder_input_ids": first.sequences, "decoder_attention_mask": torch.ones_like(first.sequences)}
    options = {"past_key_values": first.past_key_values, "eos_token_id": None, "max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(tokens, **target, **options), expected)


def test_starts_from_embeddings(model, tokens):
    assert torch.equal(model.generate(inputs_embeds=model.model.embed_tokens(tokens), **GREEDY), model.generate(tokens, **GREEDY))


def test_an_own_cache_is_filled(model, tokens):
    cache = EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))
    assert torch.equal(model.generate(tokens, past_key_values=cache, **GREEDY), model.generate(tokens, **GREEDY))
    assert cache.get_seq_length() >= 1


def compile_config():
    config = CompileConfig(backend="eager", fullgraph=True, dynamic=False, mode=None)
    config._compile_all_devices = True  # otherwise transformers compiles on GPUs only
    return config


@ONE_CELL
def test_static_decoding_compiles_once_in_one_graph(model, padded):
    ids, mask, _ = padded("right")
    torch.compiler.reset()
    counters.clear()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for inputs in ({"input_ids": ids, "attention_mask": mask}, {"input_ids": ids.flip(1).clamp(min=3), "attention_mask": mask.flip(1)}):
            compiled = model.generate(cache_implementation="static", compile_config=compile_config(), **inputs, **GREEDY)
            assert torch.equal(compiled, model.generate(**inputs, **GREEDY))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_modes_that_take_tokens_back_are_refused(model, build, tokens):
    with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
        model.generate(tokens[:1], assistant_model=build(), **GREEDY)


def test_misspelt_options_are_refused(model, tokens):
    with pytest.raises((ValueError, TypeError), match="atention_mask"):
        model.generate(tokens, atention_mask=torch.ones_like(tokens), **GREEDY)
