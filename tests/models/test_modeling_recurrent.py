"""What the models compute: torch's own networks, padding, windows with carried state, outputs, errors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache

from hflab.models.recurrent import BLOCKS, CELLS, RecurrentConfig, RecurrentForCausalLM, RecurrentModel, detach_cache, states_from_cache

TORCH_CELLS = [name for name, cell in CELLS.items() if cell.torch_class is not None]
PADDINGS = {
    "left": [[0, 0, 0, 1, 1, 1, 1, 1, 1], [1] * 9, [0] * 8 + [1]],
    "right": [[1, 1, 1, 1, 1, 1, 0, 0, 0], [1] * 9, [1] + [0] * 8],
    "interior": [[0, 1, 0, 0, 1, 1, 1, 0, 1], [1] * 9, [1, 0, 1, 0, 1, 0, 1, 0, 1]],
    "empty row": [[0] * 9, [1] * 9, [1, 1, 1, 0, 0, 0, 0, 0, 0]],
}


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_torch_has_some_of_the_cells():
    assert set(TORCH_CELLS) == {"rnn", "gru", "lstm"}


def torch_twin(model, module_class):
    """A `torch.nn` module with random weights, and `model` made to have the same."""
    config = model.config
    torch.manual_seed(2)
    twin = module_class(config.embedding_size, config.hidden_size, config.num_hidden_layers, batch_first=True, bidirectional=config.bidirectional)
    for layer, block in enumerate(model.layers):
        block.cell.load_torch_weights(twin, layer=layer)
        if config.bidirectional:
            block.backward_cell.load_torch_weights(twin, layer=layer, reverse=True)
    return twin


@pytest.mark.parametrize("cell_type", TORCH_CELLS, indirect=True)
@pytest.mark.parametrize("block_style", ["stacked"], indirect=True)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("embedding_size", [12, 7])
def test_stacked_blocks_are_the_network_of_torch(build, tokens, bidirectional, embedding_size):
    model = build("Model", bidirectional=bidirectional, embedding_size=embedding_size)
    twin = torch_twin(model, CELLS[model.config.cell_type].torch_class)
    embeds = model.embed_tokens(tokens).detach()
    ours, theirs = embeds.clone().requires_grad_(), embeds.clone().requires_grad_()
    outputs, (expected, state) = model(inputs_embeds=ours), twin(theirs)
    assert_close(outputs.last_hidden_state, expected)
    if not bidirectional:
        hidden = state[0] if model.config.cell_type == "lstm" else state
        assert_close(torch.stack([state.hidden for state in states_from_cache(outputs.past_key_values)]), hidden)
    (outputs.last_hidden_state * torch.linspace(-1, 1, expected.shape[-1])).sum().backward()
    (expected * torch.linspace(-1, 1, expected.shape[-1])).sum().backward()
    assert_close(ours.grad, theirs.grad)
    assert_close(model.layers[1].cell.hidden_projection.weight.grad, twin.weight_hh_l1.grad)


@pytest.mark.parametrize("cell_type", TORCH_CELLS, indirect=True)
@pytest.mark.parametrize("block_style", ["stacked"], indirect=True)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_right_padding_is_the_packed_sequence_of_torch(build, tokens, bidirectional):
    model = build("Model", bidirectional=bidirectional)
    twin = torch_twin(model, CELLS[model.config.cell_type].torch_class)
    mask = torch.tensor(PADDINGS["right"])
    packed = nn.utils.rnn.pack_padded_sequence(model.embed_tokens(tokens), mask.sum(1), batch_first=True, enforce_sorted=False)
    expected, _ = nn.utils.rnn.pad_packed_sequence(twin(packed)[0], batch_first=True, total_length=9)
    assert_close(model(input_ids=tokens, attention_mask=mask).last_hidden_state, expected)


@pytest.mark.parametrize("cell_type", ["lstm"], indirect=True)
@pytest.mark.parametrize("block_style", ["residual"], indirect=True)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_residual_blocks_follow_their_formula(build, tokens, bidirectional):
    model = build("Model", bidirectional=bidirectional, embedding_size=7, intermediate_size=20, hidden_act="relu")
    hidden = F.linear(model.embed_tokens(tokens), model.embedding_projection.weight, model.embedding_projection.bias)
    for block in model.layers:
        twin = nn.LSTM(12, 12, batch_first=True, bidirectional=bidirectional)
        block.cell.load_torch_weights(twin)
        if bidirectional:
            block.backward_cell.load_torch_weights(twin, reverse=True)
        recurrence = twin(F.layer_norm(hidden, (12,)))[0]
        hidden = hidden + (block.direction_projection(recurrence) if bidirectional else recurrence)
        inner = F.relu(block.up_projection(F.layer_norm(hidden, (12,))))
        assert inner.shape[-1] == 20
        hidden = hidden + block.down_projection(inner)
    assert_close(model(input_ids=tokens).last_hidden_state, F.layer_norm(hidden, (12,)))


@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_changes_no_real_token_and_no_state(build, tokens, padding):
    model, mask = build(), torch.tensor(PADDINGS[padding]).bool()
    outputs = model(input_ids=tokens, attention_mask=mask)
    states = states_from_cache(outputs.past_key_values)
    for row, real in enumerate(mask):
        if real.any():
            alone = model(input_ids=tokens[row, real][None])
            assert_close(outputs.logits[row, real], alone.logits[0])
            for state, expected in zip(states, states_from_cache(alone.past_key_values), strict=True):
                assert_close(state.hidden[row], expected.hidden[0])
        else:
            assert all(state.hidden[row].count_nonzero() == 0 for state in states)


@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_changes_no_real_token_read_both_ways(build, tokens, padding):
    model, mask = build("Model", bidirectional=True), torch.tensor(PADDINGS[padding]).bool()
    outputs = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    for row, real in enumerate(mask):
        if real.any():
            assert_close(outputs[row, real], model(input_ids=tokens[row, real][None]).last_hidden_state[0])


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("growing", [True, False])
def test_padding_fed_one_token_at_a_time_leaves_the_state(build, tokens, padding, growing):
    model, mask = build(), torch.tensor(PADDINGS[padding])
    whole, cache = model(input_ids=tokens, attention_mask=mask), None
    for t in range(tokens.shape[1]):
        columns = mask[:, : t + 1] if growing else mask[:, t : t + 1]
        step = model(input_ids=tokens[:, t : t + 1], attention_mask=columns, past_key_values=cache)
        cache = step.past_key_values
        assert_close(step.logits[mask[:, t] == 1, 0], whole.logits[mask[:, t] == 1, t])
    for state, expected in zip(states_from_cache(cache), states_from_cache(whole.past_key_values), strict=True):
        assert_close(state.hidden, expected.hidden)


@pytest.mark.parametrize("lengths", [[4, 5], [1, 1, 7], [8, 1], [1] * 9])
def test_windows_with_carried_state_are_the_whole(build, tokens, lengths):
    model, cache, pieces = build(), None, []
    for window in tokens.split(lengths, dim=1):
        outputs = model(input_ids=window, past_key_values=cache)
        cache = outputs.past_key_values
        pieces.append(outputs.logits)
    assert_close(torch.cat(pieces, 1), model(input_ids=tokens, use_cache=False).logits)
    assert cache.get_seq_length() == 9


def test_gradients_flow_through_windows_until_detached(build, tokens):
    model = build().train()

    def gradients(between):
        model.zero_grad()
        first = model(input_ids=tokens[:, :5], use_cache=True)
        second = model(input_ids=tokens[:, 5:], past_key_values=between(first.past_key_values))
        torch.cat([first.logits, second.logits], 1).square().sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    model(input_ids=tokens).logits.square().sum().backward()
    whole = [parameter.grad.clone() for parameter in model.parameters()]
    for gradient, expected in zip(gradients(lambda cache: cache), whole, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
    assert any((gradient - expected).abs().max() > 1e-3 for gradient, expected in zip(gradients(detach_cache), whole, strict=True))


def test_a_reset_begins_a_new_text(build, tokens):
    model, resets = build(), torch.zeros(3, 9, dtype=torch.bool)
    resets[0, 4] = resets[1, 0] = resets[1, 7] = True
    before = model(input_ids=tokens[:, :3]).past_key_values
    outputs = model(input_ids=tokens, state_resets=resets, past_key_values=before)
    assert_close(outputs.logits[0, 4:], model(input_ids=tokens[:1, 4:]).logits[0])
    assert_close(outputs.logits[1, :7], model(input_ids=tokens[1:2, :7]).logits[0])
    assert_close(outputs.logits[1, 7:], model(input_ids=tokens[1:2, 7:]).logits[0])
    last = states_from_cache(model(input_ids=tokens[1:2, 7:]).past_key_values)
    assert_close(states_from_cache(outputs.past_key_values)[1].hidden[1], last[1].hidden[0])
    unbroken = model(input_ids=tokens, past_key_values=model(input_ids=tokens[:, :3]).past_key_values)
    assert_close(outputs.logits[2], unbroken.logits[2])
    assert not torch.allclose(outputs.logits[0, 4:], unbroken.logits[0, 4:])


def test_hidden_states_are_recorded(build, tokens):
    model = build("Model")
    outputs = model(input_ids=tokens, output_hidden_states=True)
    assert len(outputs.hidden_states) == 3
    assert outputs.hidden_states[-1] is outputs.last_hidden_state
    assert_close(outputs.hidden_states[0], model.embed_tokens(tokens))
    assert_close(outputs.hidden_states[1], model.layers[0](outputs.hidden_states[0])[0])
    assert model(input_ids=tokens).hidden_states is None


def test_returns_tuples_on_request(build, tokens):
    model = build()
    logits, cache = model(input_ids=tokens, return_dict=False)
    assert_close(logits, model(input_ids=tokens).logits)
    assert isinstance(cache, DynamicCache)


def test_logits_to_keep(build, tokens):
    model = build()
    logits = model(input_ids=tokens).logits
    assert_close(model(input_ids=tokens, logits_to_keep=2).logits, logits[:, -2:])
    assert_close(model(input_ids=tokens, logits_to_keep=torch.tensor([0, 5])).logits, logits[:, [0, 5]])


def test_embeddings_instead_of_tokens(build, tokens):
    model = build(embedding_size=5)
    assert_close(model(inputs_embeds=model.model.embed_tokens(tokens)).logits, model(input_ids=tokens).logits)


@pytest.mark.parametrize("training", [True, False])
def test_state_is_returned_when_it_is_wanted(build, tokens, training):
    model = build().train(training)
    assert (model(input_ids=tokens).past_key_values is None) == training
    assert model(input_ids=tokens, use_cache=False).past_key_values is None
    cache = model(input_ids=tokens, use_cache=True).past_key_values
    assert model(input_ids=tokens, past_key_values=cache).past_key_values is cache
    assert cache.get_seq_length() == 18


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_moves_between_dtypes(build, tokens, dtype):
    model = build()
    expected = model(input_ids=tokens).logits
    outputs = model.to(dtype)(input_ids=tokens)
    assert outputs.logits.dtype == states_from_cache(outputs.past_key_values)[0].hidden.dtype == dtype
    torch.testing.assert_close(outputs.logits.float(), expected, rtol=0.1, atol=0.1)
    again = model(input_ids=tokens, past_key_values=outputs.past_key_values, labels=tokens)
    again.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, ValueError, ["exactly one"]),
        ({"inputs_embeds": torch.zeros(3, 9, 12)}, ValueError, ["exactly one"]),
        ({"atention_mask": torch.ones(3, 9)}, TypeError, ["atention_mask", "Did you mean 'attention_mask'?"]),
        ({"output_attentions": True}, ValueError, ["output_attentions", "output_hidden_states"]),
        ({"position_ids": torch.arange(9)[None]}, TypeError, ["position_ids", "state_resets"]),
        ({"attention_mask": torch.ones(3, 8)}, ValueError, ["(3, 8)", "(3, 9)"]),
        ({"attention_mask": torch.ones(3, 1, 9, 9)}, ValueError, ["(3, 1, 9, 9)", "(3, 9)"]),
        ({"state_resets": torch.ones(3, 1).bool()}, ValueError, ["(3, 1)", "(3, 9)"]),
        ({"past_key_values": DynamicCache()}, ValueError, ["2 recurrent layers", "DynamicCache(config=model.config)"]),
        ({"past_key_values": DynamicCache(config=RecurrentConfig(num_hidden_layers=3))}, ValueError, ["2 recurrent layers"]),
    ],
)
def test_mistakes_are_named(tokens, arguments, error, words):
    model = RecurrentModel(RecurrentConfig(vocab_size=23, hidden_size=12, num_hidden_layers=2))
    given = {} if arguments == {} else {"input_ids": tokens}
    with pytest.raises(error) as caught:
        model(**given, **arguments)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_cache_of_other_rows_is_refused(build, tokens):
    model = build()
    with pytest.raises(ValueError, match="states of 3 rows, but the inputs have 2"):
        model(input_ids=tokens[:2], past_key_values=model(input_ids=tokens).past_key_values)


def test_bidirectional_models_refuse_what_reads_one_way(build, tokens):
    with pytest.raises(ValueError, match=r"bidirectional=False, or use RecurrentModel"):
        build("ForCausalLM", bidirectional=True)
    model = build("Model", bidirectional=True)
    assert model(input_ids=tokens).past_key_values is None
    with pytest.raises(ValueError, match="no state to carry"):
        model(input_ids=tokens, use_cache=True)
    with pytest.raises(ValueError, match="each text a row of its own"):
        model(input_ids=tokens, state_resets=torch.ones(3, 9).bool())


def test_all_blocks_and_cells_were_seen(build):
    model = build()
    assert isinstance(model, RecurrentForCausalLM)
    assert type(model.model.layers[0]) is BLOCKS[model.config.block_style]
    assert type(model.model.layers[0].cell) is CELLS[model.config.cell_type]
