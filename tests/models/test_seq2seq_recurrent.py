"""The encoder-decoder: what it computes, padding, its cache, embeddings that are one, outputs, errors."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForSeq2SeqLM, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from hflab.models.recurrent import ATTENTIONS, HEADS, RecurrentConfig, RecurrentForConditionalGeneration, states_from_cache
from hflab.models.recurrent.encoder_recurrent import StateBridge

PADDINGS = {
    "left": [[0, 0, 0, 1, 1, 1, 1, 1, 1], [1] * 9, [0] * 8 + [1]],
    "right": [[1, 1, 1, 1, 1, 1, 0, 0, 0], [1] * 9, [1] + [0] * 8],
    "interior": [[0, 1, 0, 0, 1, 1, 1, 0, 1], [1] * 9, [1, 0, 1, 0, 1, 0, 1, 0, 1]],
}
ATTENTION = pytest.mark.parametrize("attention_type", [*ATTENTIONS, "none"])
ONE_CELL = pytest.mark.parametrize("cell_type", ["lstm"], indirect=True)
DIRECTIONS = pytest.mark.parametrize("bidirectional", [False, True])


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def make(build):
    """Builds an encoder-decoder; keyword arguments are config fields."""
    return lambda **fields: build("ForConditionalGeneration", bos_token_id=1, eos_token_id=2, **({"bidirectional": True} | fields))


@pytest.fixture
def target():
    """Three rows of five target tokens (B, T)."""
    return torch.randint(3, 23, (3, 5), generator=torch.Generator().manual_seed(2))


def empty_cache(model):
    return EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))


@ONE_CELL
@pytest.mark.parametrize("block_style", ["stacked"], indirect=True)
@ATTENTION
def test_is_torchs_lstm_with_attention_written_out(make, tokens, target, attention_type):
    """One row, everything by hand: torch's networks, the bridge, the scores one by one, Luong's attentional state."""
    model = make(attention_type=attention_type, num_decoder_layers=1)
    encoder, decoder = nn.LSTM(12, 12, 2, batch_first=True, bidirectional=True), nn.LSTM(12, 12, batch_first=True)
    for layer, block in enumerate(model.model.layers):
        block.cell.load_torch_weights(encoder, layer=layer)
        block.backward_cell.load_torch_weights(encoder, layer=layer, reverse=True)
    model.decoder.layers[0].cell.load_torch_weights(decoder)
    source_states, (hidden, cell) = encoder(model.model.embed_tokens(tokens[:1]))
    start = [
        torch.tanh(projection[0](torch.cat([part[2], part[3]], -1)))[None]
        for part, projection in ((hidden, model.bridge.hidden_projections), (cell, model.bridge.cell_projections))
    ]
    outputs, _ = decoder(model.decoder.embed_tokens(target[:1]), tuple(start))
    expected = []
    for h in outputs[0]:
        if attention_type == "none":
            expected.append(h)
            continue
        keys = [model.attention.key_projection(s) for s in source_states[0]]
        weights = torch.stack([model.attention.score_one(h, key) for key in keys]).softmax(0)
        context = sum(weight * s for weight, s in zip(weights, source_states[0], strict=True))
        expected.append(torch.tanh(model.head_projection.weight @ torch.cat([context, h])))
    logits = F.linear(torch.stack(expected), model.lm_head.weight, model.lm_head.bias)
    assert_close(model(input_ids=tokens[:1], decoder_input_ids=target[:1]).logits[0], logits)


@DIRECTIONS
def test_final_states_are_those_after_the_last_token_read(build, tokens, bidirectional):
    model = build("ForConditionalGeneration", bidirectional=bidirectional)
    mask = torch.tensor(PADDINGS["right"])
    outputs = model.get_encoder()(input_ids=tokens, attention_mask=mask)
    assert outputs.final_hidden.shape == (3, 2, 24 if bidirectional else 12)
    assert (outputs.final_cell is not None) == (model.config.cell_type == "lstm")
    if model.config.block_style == "stacked":  # there the outputs are the hidden states
        assert_close(outputs.final_hidden[0, 1, :12], outputs.last_hidden_state[0, 5, :12])
        if bidirectional:
            assert_close(outputs.final_hidden[0, 1, 12:], outputs.last_hidden_state[0, 0, 12:])
    if not bidirectional:
        plain = HEADS["Model"](model.model.config).eval()
        plain.load_state_dict(model.model.state_dict())
        states = states_from_cache(plain(input_ids=tokens, attention_mask=mask).past_key_values)
        assert_close(outputs.final_hidden, torch.stack([state.hidden for state in states], 1))
        if outputs.final_cell is not None:
            assert_close(outputs.final_cell, torch.stack([state.cell for state in states], 1))


@pytest.mark.parametrize(
    ("num_layers", "num_decoder_layers", "source_layers"), [(2, None, [0, 1]), (3, 2, [1, 2]), (1, 3, [0, 0, 0]), (2, 3, [0, 0, 1])]
)
def test_each_decoder_layer_begins_from_one_of_the_encoder(num_layers, num_decoder_layers, source_layers):
    config = RecurrentConfig(hidden_size=4, num_hidden_layers=num_layers, num_decoder_layers=num_decoder_layers)
    bridge = StateBridge(config)
    assert bridge.source_layers == source_layers
    hidden, cell = torch.randn(2, num_layers, 4), torch.randn(2, num_layers, 4)
    states = bridge(hidden, cell)
    assert len(states) == len(source_layers)
    for layer, state in enumerate(states):
        assert_close(state.hidden, torch.tanh(bridge.hidden_projections[layer](hidden[:, source_layers[layer]])))
        assert_close(state.cell, torch.tanh(bridge.cell_projections[layer](cell[:, source_layers[layer]])))


@ATTENTION
@DIRECTIONS
@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_of_the_source_changes_nothing(make, tokens, target, attention_type, bidirectional, padding):
    model, mask = make(attention_type=attention_type, bidirectional=bidirectional), torch.tensor(PADDINGS[padding]).bool()
    logits = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=target).logits
    for row, real in enumerate(mask):
        assert_close(logits[row], model(input_ids=tokens[row, real][None], decoder_input_ids=target[row][None]).logits[0])


@ATTENTION
@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_of_the_target_changes_nothing(make, tokens, attention_type, padding):
    model, mask = make(attention_type=attention_type), torch.tensor(PADDINGS[padding]).bool()
    logits = model(input_ids=tokens, decoder_input_ids=tokens.flip(1), decoder_attention_mask=mask).logits
    for row, real in enumerate(mask):
        alone = model(input_ids=tokens[row][None], decoder_input_ids=tokens.flip(1)[row, real][None]).logits
        assert_close(logits[row, real], alone[0])


@ATTENTION
def test_a_source_of_padding_is_a_source_of_padding_alone(make, tokens, target, attention_type):
    model, mask = make(attention_type=attention_type), torch.ones(3, 9)
    mask[1] = 0
    outputs = model(input_ids=tokens, attention_mask=mask, labels=target)
    alone = model(input_ids=tokens[1:2, :1], attention_mask=mask[1:2, :1], labels=target[1:2])
    assert_close(outputs.logits[1], alone.logits[0])
    outputs.loss.backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@ATTENTION
@pytest.mark.parametrize("lengths", [[2, 3], [1] * 5, [4, 1]])
def test_the_target_in_windows_is_the_whole(make, tokens, target, attention_type, lengths):
    model, mask, cache, pieces = make(attention_type=attention_type), torch.tensor(PADDINGS["right"]), None, []
    whole = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=target)
    for number, window in enumerate(target.split(lengths, 1)):
        source = {} if number else {"input_ids": tokens}  # the cache knows it from then on
        outputs = model(**source, attention_mask=mask, decoder_input_ids=window, past_key_values=cache)
        cache = outputs.past_key_values
        pieces.append(outputs.logits)
    assert_close(torch.cat(pieces, 1), whole.logits)
    assert cache.get_seq_length() == 5
    assert (outputs.encoder_last_hidden_state is None) == (len(lengths) > 1)


@ATTENTION
def test_rows_of_the_cache_are_repeated_selected_and_reordered(make, tokens, target, attention_type):
    model = make(attention_type=attention_type).requires_grad_(False)  # a graph could not be copied
    cache = model(input_ids=tokens, decoder_input_ids=target[:, :2]).past_key_values
    expected = model(input_ids=tokens, decoder_input_ids=target).logits[:, 2:]

    def go_on(change, rows):
        changed = copy.deepcopy(cache)
        change(changed)
        assert_close(model(decoder_input_ids=target[rows, 2:], past_key_values=changed).logits, expected[rows])

    go_on(lambda cache: cache.reorder_cache(torch.tensor([2, 0, 2])), [2, 0, 2])
    go_on(lambda cache: cache.batch_select_indices(torch.tensor([1])), [1])
    go_on(lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2])


@ATTENTION
def test_a_cache_reset_begins_with_the_next_source(make, tokens, target, attention_type):
    model = make(attention_type=attention_type)
    cache = empty_cache(model)
    model(input_ids=tokens.flip(1), decoder_input_ids=target, past_key_values=cache)
    cache.reset()
    again = model(input_ids=tokens[:2], decoder_input_ids=target[:2], past_key_values=cache)
    assert again.past_key_values is cache
    assert_close(again.logits, model(input_ids=tokens[:2], decoder_input_ids=target[:2]).logits)


@ATTENTION
def test_a_cache_put_together_again_goes_on(make, tokens, target, attention_type):
    """Whether a cache has begun is seen from its parts, not only from a flag."""
    model = make(attention_type=attention_type)
    whole = model(input_ids=tokens, decoder_input_ids=target).logits
    cache = model(input_ids=tokens, decoder_input_ids=target[:, :3]).past_key_values
    rebuilt = EncoderDecoderCache(cache.self_attention_cache, cache.cross_attention_cache)
    assert_close(model(decoder_input_ids=target[:, 3:], past_key_values=rebuilt).logits, whole[:, 3:])


def test_encoder_outputs_may_be_handed_in(make, tokens, target):
    model, mask = make(), torch.tensor(PADDINGS["left"])
    expected = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=target)
    encoder_outputs = model.get_encoder()(input_ids=tokens, attention_mask=mask)
    outputs = model(encoder_outputs=encoder_outputs, attention_mask=mask, decoder_input_ids=target)
    assert_close(outputs.logits, expected.logits)
    assert_close(outputs.encoder_last_hidden_state, expected.encoder_last_hidden_state)


@pytest.mark.parametrize("attention_type", list(ATTENTIONS))
def test_attentions_and_hidden_states_are_recorded(make, tokens, target, attention_type):
    model, mask = make(attention_type=attention_type, num_decoder_layers=1), torch.tensor(PADDINGS["right"])
    outputs = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=target, output_attentions=True, output_hidden_states=True)
    (weights,) = outputs.cross_attentions
    assert weights.shape == (3, 1, 5, 9)
    assert_close(weights.sum(-1), torch.ones(3, 1, 5))
    assert weights[0, ..., 6:].count_nonzero() == 0
    assert len(outputs.encoder_hidden_states) == 3
    assert outputs.encoder_hidden_states[-1] is outputs.encoder_last_hidden_state
    assert len(outputs.decoder_hidden_states) == 2
    assert_close(outputs.decoder_hidden_states[0], model.decoder.embed_tokens(target))
    plain = model(input_ids=tokens, decoder_input_ids=target)
    assert plain.cross_attentions is plain.encoder_hidden_states is plain.decoder_hidden_states is None
    model.config.output_hidden_states = True
    assert model(input_ids=tokens, decoder_input_ids=target).decoder_hidden_states is not None


def test_embeddings_positions_and_tuples(make, tokens, target):
    model = make(embedding_size=5)
    outputs = model(input_ids=tokens, decoder_input_ids=target)
    embeds = {"inputs_embeds": model.model.embed_tokens(tokens), "decoder_inputs_embeds": model.decoder.embed_tokens(target)}
    assert_close(model(**embeds).logits, outputs.logits)
    assert_close(model(input_ids=tokens, decoder_input_ids=target, logits_to_keep=2).logits, outputs.logits[:, -2:])
    assert_close(model(input_ids=tokens, decoder_input_ids=target, logits_to_keep=torch.tensor([0, 3])).logits, outputs.logits[:, [0, 3]])
    logits, cache, encoded = model(input_ids=tokens, decoder_input_ids=target, return_dict=False)
    assert_close(logits, outputs.logits)
    assert isinstance(cache, EncoderDecoderCache)
    assert_close(encoded, outputs.encoder_last_hidden_state)


def test_cache_is_returned_when_it_is_wanted(make, tokens, target):
    model = make()
    assert model(input_ids=tokens, decoder_input_ids=target).past_key_values is not None
    assert model(input_ids=tokens, decoder_input_ids=target, use_cache=False).past_key_values is None
    assert model.train()(input_ids=tokens, decoder_input_ids=target).past_key_values is None
    assert model(input_ids=tokens, decoder_input_ids=target, use_cache=True).past_key_values.get_seq_length() == 5


def test_labels_are_shifted_once(make, tokens, target):
    model, labels = make(decoder_start_token_id=7), target.clone()
    labels[0, 2:] = -100
    outputs = model(input_ids=tokens, labels=labels)
    decoder_input_ids = torch.cat([torch.full((3, 1), 7), target[:, :-1]], 1)
    decoder_input_ids[0, 3:] = 0
    assert torch.equal(model.prepare_decoder_input_ids_from_labels(labels), decoder_input_ids)
    expected = model(input_ids=tokens, decoder_input_ids=decoder_input_ids)
    assert_close(outputs.logits, expected.logits)
    assert_close(outputs.loss, F.cross_entropy(expected.logits[labels != -100], labels[labels != -100]))
    assert_close(model(input_ids=tokens, decoder_input_ids=decoder_input_ids, labels=labels).loss, outputs.loss)
    assert make().prepare_decoder_input_ids_from_labels(target)[:, 0].tolist() == [1, 1, 1]  # bos_token_id


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("embedding_size", [12, 8])
def test_weights_that_are_one(make, tokens, target, tmp_path, tied, shared, embedding_size):
    model = make(tie_word_embeddings=tied, share_embeddings=shared, embedding_size=embedding_size)
    model.save_pretrained(tmp_path)
    loaded = RecurrentForConditionalGeneration.from_pretrained(tmp_path).eval()
    for one in (model, loaded):
        encoder, decoder, output = one.model.embed_tokens.weight, one.decoder.embed_tokens.weight, one.lm_head.weight
        assert (encoder is decoder) == shared
        assert (output is decoder) == tied
    names = [name for name in load_file(tmp_path / "model.safetensors") if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    assert len(names) == 3 - tied - shared
    arguments = {"input_ids": tokens, "decoder_input_ids": target}
    assert torch.equal(loaded(**arguments).logits, model(**arguments).logits)
    before = model(input_ids=tokens % 15, decoder_input_ids=target % 15).logits
    for size in (30, 15):
        model.resize_token_embeddings(size)
        assert (model.model.embed_tokens.weight is model.decoder.embed_tokens.weight) == shared
        assert (model.lm_head.weight is model.decoder.embed_tokens.weight) == tied
        sizes = {
            model.config.vocab_size,
            model.model.embed_tokens.num_embeddings,
            model.decoder.embed_tokens.num_embeddings,
            model.lm_head.out_features,
        }
        assert sizes == {size}
        assert_close(model(input_ids=tokens % 15, decoder_input_ids=target % 15).logits[..., :15], before[..., :15])
        assert model(input_ids=tokens % 15, labels=target % 15).loss.isfinite()


@pytest.mark.parametrize("attention_type", ["additive", "none"])
def test_a_checkpoint_without_one_tensor_keeps_all_others(make, tmp_path, attention_type):
    model = make(attention_type=attention_type)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)  # nothing that initialisation could give
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    own = [name for name in weights if ".layers." not in name]
    assert len(own) >= 8
    for missing in own:
        save_file({name: tensor for name, tensor in weights.items() if name != missing}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loaded = RecurrentForConditionalGeneration.from_pretrained(tmp_path).state_dict()
        assert [name for name, tensor in weights.items() if not torch.equal(loaded[name], tensor)] == [missing]
        assert loaded[missing].isfinite().all()


def test_begun_on_no_device_it_is_initialised_like_any_other(make):
    with torch.device("meta"):
        model = make(attention_type="additive")
    model.to_empty(device="cpu")
    model.init_weights()
    assert all(tensor.isfinite().all() for tensor in [*model.parameters(), *model.buffers()])
    weight = model.bridge.hidden_projections[0].weight
    assert 0.1 < weight.abs().max() * 24**0.5 <= 1


def test_the_encoder_is_the_model_of_every_other_head(build, make, tokens, target, tmp_path):
    base = build("Model", bidirectional=True)
    base.save_pretrained(tmp_path)
    model, information = RecurrentForConditionalGeneration.from_pretrained(tmp_path, bos_token_id=1, output_loading_info=True)
    assert not [name for name in information["missing_keys"] if name.startswith("model.")]
    assert_close(model.eval()(input_ids=tokens, decoder_input_ids=target).encoder_last_hidden_state, base(input_ids=tokens).last_hidden_state)
    model.save_pretrained(tmp_path / "whole")
    for head in ("Model", "ForSequenceClassification", "ForTokenClassification"):
        other = HEADS[head].from_pretrained(tmp_path / "whole").eval()
        assert not other.config.is_encoder_decoder
        encoder = other if head == "Model" else other.model
        assert_close(encoder(input_ids=tokens).last_hidden_state, base(input_ids=tokens).last_hidden_state)


def test_is_an_encoder_decoder_whatever_the_config_says(tmp_path):
    config = RecurrentConfig(vocab_size=9, hidden_size=4, bos_token_id=1)
    model = RecurrentForConditionalGeneration(config)
    assert model.config.is_encoder_decoder
    assert not config.is_encoder_decoder  # the caller's
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(loaded) is RecurrentForConditionalGeneration
    assert loaded.config.is_encoder_decoder
    assert type(AutoModelForSeq2SeqLM.from_config(config)) is RecurrentForConditionalGeneration
    assert loaded.get_decoder() is loaded.decoder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@ATTENTION
def test_moves_between_dtypes(make, tokens, target, attention_type, dtype):
    model, mask = make(attention_type=attention_type), torch.tensor(PADDINGS["right"])
    expected = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=target).logits
    outputs = model.to(dtype)(input_ids=tokens, attention_mask=mask, decoder_input_ids=target, labels=target)
    assert outputs.logits.dtype == dtype
    torch.testing.assert_close(outputs.logits.float(), expected, rtol=0.1, atol=0.1)
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@ATTENTION
@DIRECTIONS
def test_every_weight_is_trained(make, tokens, target, attention_type, bidirectional):
    """All but what comes after the last recurrence of a residual encoder of which only the state is read."""
    model = make(attention_type=attention_type, bidirectional=bidirectional).train()
    model(input_ids=tokens, labels=target).loss.backward()
    untrained = {name.rsplit(".", 1)[0] for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    unread = {"feed_forward_norm", "up_projection", "down_projection"} | ({"direction_projection"} if bidirectional else set())
    only_state = attention_type == "none" and model.config.block_style == "residual"
    assert untrained == ({f"model.layers.1.{name}" for name in unread} | {"model.norm"} if only_state else set())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"decoder_inputs_ids": torch.ones(3, 5)}, TypeError, ["decoder_inputs_ids", "Did you mean 'decoder_input_ids'?"]),
        ({"position_ids": torch.ones(3, 5)}, TypeError, ["position_ids"]),
        ({"decoder_input_ids": None}, ValueError, ["exactly one"]),
        ({"input_ids": None}, ValueError, ["exactly one"]),
        ({"past_key_values": DynamicCache()}, ValueError, ["EncoderDecoderCache(DynamicCache(config=model.config)"]),
        ({"past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache())}, ValueError, ["2 recurrent layers"]),
        ({"encoder_outputs": BaseModelOutput(last_hidden_state=torch.zeros(3, 9, 24))}, ValueError, ["final_hidden", "get_encoder()"]),
        ({"encoder_outputs": (torch.zeros(3, 9, 24),)}, ValueError, ["tuple", "get_encoder()"]),
        ({"attention_mask": torch.ones(3, 8)}, ValueError, ["(3, 8)", "(3, 9)"]),
        ({"decoder_attention_mask": torch.ones(2, 5)}, ValueError, ["(2, 5)", "(3, 5)"]),
    ],
)
def test_mistakes_are_named(tokens, target, arguments, error, words):
    model = RecurrentForConditionalGeneration(RecurrentConfig(vocab_size=23, hidden_size=12, num_hidden_layers=2, bidirectional=True))
    with pytest.raises(error) as caught:
        model(**({"input_ids": tokens, "decoder_input_ids": target} | arguments))
    assert [word for word in words if word not in str(caught.value)] == []


def test_labels_that_cannot_be_shifted_are_refused(tokens, target):
    model = RecurrentForConditionalGeneration(RecurrentConfig(vocab_size=23, hidden_size=12))
    with pytest.raises(ValueError, match="decoder_start_token_id and bos_token_id are None"):
        model(input_ids=tokens, labels=target)
    model.config.decoder_start_token_id = 1
    assert model(input_ids=tokens, labels=target).loss.isfinite()
    with pytest.raises(ValueError, match="pad_token_id is None"):
        model(input_ids=tokens, labels=target.masked_fill(target > 10, -100))


def test_attentions_are_refused_where_there_are_none(make, tokens, target):
    with pytest.raises(ValueError, match="attention_type='multiplicative'"):
        make(attention_type="none")(input_ids=tokens, decoder_input_ids=target, output_attentions=True)
