"""What the models compute: padding, windows with a cache, packed rows, outputs on request, the heads, errors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, EncoderDecoderCache

from hflab.models.mini_transformer import HEADS, MiniTransformerConfig, MiniTransformerForCausalLM, MiniTransformerModel
from hflab.models.mini_transformer.pooling_mini_transformer import Pooler

PADDINGS = {
    "left": [[0, 0, 0, 1, 1, 1, 1, 1, 1], [1] * 9, [0] * 8 + [1]],
    "right": [[1, 1, 1, 1, 1, 1, 0, 0, 0], [1] * 9, [1] + [0] * 8],
    "interior": [[0, 1, 0, 0, 1, 1, 1, 0, 1], [1] * 9, [1, 0, 1, 0, 1, 0, 1, 0, 1]],
    "empty row": [[0] * 9, [1] * 9, [1, 1, 1, 0, 0, 0, 0, 0, 0]],
}
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["eager", "sdpa"])
TOKEN_HEADS = ["Model", "ForCausalLM", "ForMaskedLM", "ForPreTraining", "ForTokenClassification"]
LONG_TEXT = torch.arange(1, 61)[None] % 22 + 1


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def first_output(outputs):
    """What a head says of every token or row."""
    return next(outputs[name] for name in ("logits", "prediction_logits", "last_hidden_state") if name in outputs)


@pytest.fixture
def scattered(build_transformer):
    """Builds models whose weights are so large that attention is far from uniform."""

    def build(head="ForCausalLM", **fields):
        model = build_transformer(head, **fields)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.2)
        return model

    return build


@IMPLEMENTATIONS
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("head", TOKEN_HEADS)
def test_padding_changes_no_real_token(scattered, tokens, padding, head, implementation):
    model, mask = scattered(head), torch.tensor(PADDINGS[padding]).bool()
    model.set_attn_implementation(implementation)
    outputs = first_output(model(input_ids=tokens, attention_mask=mask))
    assert outputs.isfinite().all()
    for row, real in enumerate(mask):
        if real.any():
            assert_close(outputs[row, real], first_output(model(input_ids=tokens[row, real][None]))[0])


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("is_decoder", [False, True])
def test_padding_changes_no_class_of_a_row(scattered, tokens, padding, is_decoder):
    model, mask = scattered("ForSequenceClassification", is_decoder=is_decoder), torch.tensor(PADDINGS[padding]).bool()
    logits = model(input_ids=tokens, attention_mask=mask).logits
    for row, real in enumerate(mask):
        if real.any():
            assert_close(logits[row], model(input_ids=tokens[row, real][None]).logits[0])


@pytest.mark.parametrize("padding", PADDINGS)
def test_padding_of_source_and_target_changes_nothing(scattered, tokens, padding):
    model, mask = scattered("ForConditionalGeneration"), torch.tensor(PADDINGS[padding]).bool()
    target, target_mask = tokens.flip(0, 1), mask.flip(0)
    logits = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=target, decoder_attention_mask=target_mask).logits
    for row, (real, target_real) in enumerate(zip(mask, target_mask, strict=True)):
        if real.any() and target_real.any():
            alone = model(input_ids=tokens[row, real][None], decoder_input_ids=target[row, target_real][None])
            assert_close(logits[row, target_real], alone.logits[0])


@pytest.mark.parametrize("padding", ["left", "right", "interior"])
def test_padding_changes_no_gradient(scattered, tokens, padding):
    """Row by row the real tokens alone, or all at once with padding: the same step of training."""
    model, mask = scattered(), torch.tensor(PADDINGS[padding]).bool()
    labels = tokens.masked_fill(~mask, -100)
    count = sum(int(real.sum()) - 1 for real in mask)
    shifted = torch.full_like(tokens, -100)  # the next real token of each real token
    for row, real in enumerate(mask):
        places = real.nonzero().squeeze(1)
        shifted[row, places[:-1]] = labels[row, places[1:]]
    model(input_ids=tokens, attention_mask=mask, shift_labels=shifted).loss.backward()
    together = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for row, real in enumerate(mask):
        text = tokens[row, real][None]
        model(input_ids=text, labels=text, num_items_in_batch=count).loss.backward()
    for gradient, parameter in zip(together, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("lengths", [[4, 5], [1, 1, 7], [8, 1], [1] * 9])
@pytest.mark.parametrize("padding", [None, *PADDINGS])
def test_windows_with_a_cache_are_the_whole(scattered, tokens, lengths, padding):
    model, cache, pieces, read = scattered(), None, [], 0
    mask = torch.ones_like(tokens) if padding is None else torch.tensor(PADDINGS[padding])
    for window in tokens.split(lengths, dim=1):
        read += window.shape[1]
        seen = None if padding is None else mask[:, :read]
        outputs = model(input_ids=window, attention_mask=seen, past_key_values=cache)
        cache = outputs.past_key_values
        pieces.append(outputs.logits)
    whole = model(input_ids=tokens, attention_mask=None if padding is None else mask, use_cache=False).logits
    assert_close(torch.cat(pieces, 1)[mask == 1], whole[mask == 1])
    assert cache.get_seq_length() == 9


@pytest.mark.parametrize("lengths", [[4, 5], [1] * 9])
def test_windows_of_a_decoder_beside_an_encoder_are_the_whole(scattered, tokens, lengths):
    model, mask, cache, pieces = scattered("ForConditionalGeneration", num_decoder_layers=3), torch.tensor(PADDINGS["left"]), None, []
    encoded = model.get_encoder()(input_ids=tokens, attention_mask=mask)
    target = tokens.flip(0, 1)
    for window in target.split(lengths, dim=1):
        outputs = model(encoder_outputs=encoded, attention_mask=mask, decoder_input_ids=window, past_key_values=cache)
        cache = outputs.past_key_values
        pieces.append(outputs.logits)
    assert isinstance(cache, EncoderDecoderCache)
    assert (len(cache.self_attention_cache), len(cache.cross_attention_cache)) == (3, 3)
    assert_close(torch.cat(pieces, 1), model(input_ids=tokens, attention_mask=mask, decoder_input_ids=target).logits)


def test_each_token_sees_what_it_may(scattered, tokens):
    """A change at one place reaches all tokens of a model that reads both ways, and those from there on of one that does not."""
    changed = tokens.clone()
    changed[:, 5] = changed[:, 5] % 22 + 1
    for is_decoder in (False, True):
        model = scattered("Model", is_decoder=is_decoder)
        difference = (model(input_ids=tokens).last_hidden_state - model(input_ids=changed).last_hidden_state).abs().amax((0, 2))
        assert (difference[5:] > 1e-4).all()
        assert (difference[:5] > 1e-4).all() != is_decoder
        assert (difference[:5] < 1e-6).all() == is_decoder


def test_order_matters(scattered, tokens, architecture):
    model = scattered("Model")
    same = torch.allclose(model(input_ids=tokens).last_hidden_state.flip(1), model(input_ids=tokens.flip(1)).last_hidden_state, atol=1e-5)
    assert same == (architecture == "nope")  # without positions nor a causal mask, a row is a bag of tokens


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "vaswani"], indirect=True)
@IMPLEMENTATIONS
def test_texts_packed_into_a_row_do_not_see_each_other(scattered, tokens, implementation):
    model = scattered()
    model.set_attn_implementation(implementation)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 0, 1, 2]]).expand(3, 9)
    logits = model(input_ids=tokens, position_ids=positions).logits  # with a cache, which eval mode makes by itself
    for text in (slice(0, 4), slice(4, 6), slice(6, 9)):
        assert_close(logits[:, text], model(input_ids=tokens[:, text]).logits)


def test_own_masks_of_four_dimensions(scattered, tokens):
    model = scattered()
    causal = torch.ones(3, 1, 9, 9, dtype=torch.bool).tril()
    assert_close(model(input_ids=tokens, attention_mask=causal).logits, model(input_ids=tokens).logits)
    local = causal & ~causal.tril(-3)
    assert not torch.allclose(model(input_ids=tokens, attention_mask=local).logits, model(input_ids=tokens).logits, atol=1e-3)


@pytest.mark.parametrize("head", list(HEADS))
def test_implementations_agree_on_outputs_and_gradients(scattered, tokens, head):
    model, mask = scattered(head), torch.tensor(PADDINGS["right"])
    mask[0] = 0
    inputs = {"decoder_input_ids": tokens[:, :4]} if head == "ForConditionalGeneration" else {}
    found = []
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        outputs = first_output(model(input_ids=tokens, attention_mask=mask, **inputs))
        (outputs * torch.linspace(-1, 1, outputs.shape[-1])).sum().backward()
        found.append([outputs.detach(), *(parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None)])
    assert len(found[0]) > 20
    for ours, others in zip(*found, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, others, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("is_decoder", [False, True])
def test_hidden_states_and_attentions_are_recorded(scattered, tokens, is_decoder):
    model, mask = scattered("Model", is_decoder=is_decoder), torch.tensor(PADDINGS["right"])
    plain = model(input_ids=tokens, attention_mask=mask)
    assert plain.hidden_states is plain.attentions is None
    model.set_attn_implementation("eager")
    outputs = model(input_ids=tokens, attention_mask=mask, output_hidden_states=True, output_attentions=True)
    assert (len(outputs.hidden_states), len(outputs.attentions)) == (3, 2)
    assert outputs.hidden_states[-1] is outputs.last_hidden_state
    assert_close(outputs.last_hidden_state[mask == 1], plain.last_hidden_state[mask == 1])
    for attention in outputs.attentions:
        assert attention.shape == (3, 4, 9, 9)
        assert_close(attention.sum(-1), torch.ones(3, 4, 9))
        assert attention[0, :, :, 6:].count_nonzero() == 0  # padding
        assert (attention[1].triu(1).count_nonzero() == 0) == is_decoder


def test_attentions_of_an_encoder_and_a_decoder_are_recorded(scattered, tokens):
    model, mask = scattered("ForConditionalGeneration", num_decoder_layers=3), torch.tensor(PADDINGS["right"])
    model.set_attn_implementation("eager")
    options = {"output_hidden_states": True, "output_attentions": True}
    outputs = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=tokens[:, :5], **options)
    assert [len(outputs[name]) for name in ("encoder_attentions", "decoder_attentions", "cross_attentions")] == [2, 3, 3]
    assert (len(outputs.encoder_hidden_states), len(outputs.decoder_hidden_states)) == (3, 4)
    assert {attention.shape for attention in outputs.decoder_attentions} == {(3, 4, 5, 5)}
    for attention in outputs.cross_attentions:
        assert attention.shape == (3, 4, 5, 9)
        assert_close(attention.sum(-1), torch.ones(3, 4, 5))
        assert attention[0, ..., 6:].count_nonzero() == 0


@pytest.mark.parametrize("architecture", ["gpt2"], indirect=True)
def test_attentions_without_eager_are_warned_of(scattered, tokens, monkeypatch):
    said = []
    monkeypatch.setattr("transformers.integrations.sdpa_attention.logger.warning_once", said.append)
    assert scattered("Model")(input_ids=tokens, output_attentions=True).attentions == ()
    assert "eager" in said[0]


def test_returns_tuples_on_request(build_transformer, tokens):
    model = build_transformer()
    logits, cache = model(input_ids=tokens, return_dict=False)
    assert_close(logits, model(input_ids=tokens).logits)
    assert isinstance(cache, DynamicCache)


@pytest.mark.parametrize("head", ["ForCausalLM", "ForConditionalGeneration"])
def test_logits_to_keep(build_transformer, tokens, head):
    model = build_transformer(head)
    inputs = {"input_ids": tokens} | ({"decoder_input_ids": tokens} if head == "ForConditionalGeneration" else {})
    logits = model(**inputs).logits
    assert_close(model(**inputs, logits_to_keep=2).logits, logits[:, -2:])
    assert_close(model(**inputs, logits_to_keep=torch.tensor([0, 5])).logits, logits[:, [0, 5]])


@pytest.mark.parametrize("head", list(HEADS))
def test_embeddings_instead_of_tokens(build_transformer, tokens, head):
    model = build_transformer(head)
    embed = model.get_input_embeddings()
    if head == "ForConditionalGeneration":
        outputs = model(inputs_embeds=embed(tokens), decoder_inputs_embeds=embed(tokens[:, :4]))
        assert_close(outputs.logits, model(input_ids=tokens, decoder_input_ids=tokens[:, :4]).logits)
    else:
        assert_close(first_output(model(inputs_embeds=embed(tokens))), first_output(model(input_ids=tokens)))


@pytest.mark.parametrize("architecture", ["bert"], indirect=True)
def test_segments_count(scattered, tokens):
    model, segments = scattered("Model"), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1]).expand(3, 9)
    assert_close(model(input_ids=tokens, token_type_ids=torch.zeros_like(tokens)).last_hidden_state, model(input_ids=tokens).last_hidden_state)
    assert not torch.allclose(
        model(input_ids=tokens, token_type_ids=segments).last_hidden_state, model(input_ids=tokens).last_hidden_state, atol=1e-3
    )


def test_the_start_token_leads_and_labels_are_moved_once(scattered, tokens):
    model, labels = scattered("ForConditionalGeneration"), tokens[:, :5].clone()
    labels[1, 3:], labels[2, 1] = -100, -100
    read = model.prepare_decoder_input_ids_from_labels(labels)
    assert read[:, 0].tolist() == [2, 2, 2]  # bos_token_id
    assert read[0, 1:].tolist() == labels[0, :-1].tolist()
    assert read[1, 4].item() == read[2, 2].item() == 0  # pad_token_id
    outputs = model(input_ids=tokens, labels=labels)
    assert_close(outputs.logits, model(input_ids=tokens, decoder_input_ids=read).logits)
    assert_close(outputs.loss, F.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten()))
    assert outputs.past_key_values is None
    assert scattered("ForConditionalGeneration", decoder_start_token_id=7).prepare_decoder_input_ids_from_labels(labels)[0, 0] == 7


def test_poolers_read_the_first_or_the_last_real_token():
    states, mask = torch.randn(4, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1, 0], [1] * 5])
    for last, places in ((False, [0, 2, 1, 0]), (True, [2, 4, 3, 4])):
        pooler = Pooler(MiniTransformerConfig(hidden_size=8, is_decoder=last))
        assert torch.equal(pooler(states, mask), torch.tanh(pooler.dense(states[torch.arange(4), places])))
        assert torch.equal(pooler(states, None), torch.tanh(pooler.dense(states[:, -1 if last else 0])))


def test_poolers_take_the_mean_of_real_tokens():
    states, mask = torch.randn(3, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [0, 1, 0, 1, 0], [0] * 5])
    pooler = Pooler(MiniTransformerConfig(hidden_size=8, pooling="mean"))
    states[mask == 0] = float("nan")
    means = torch.stack([states[0, :3].mean(0), states[1, [1, 3]].mean(0), torch.zeros(8)])
    assert_close(pooler(states, mask), torch.tanh(pooler.dense(means)))
    assert_close(pooler(states[:, :3], None)[0], torch.tanh(pooler.dense(states[0, :3].mean(0))))


@pytest.mark.parametrize("training", [True, False])
def test_cache_is_returned_when_it_is_wanted(build_transformer, tokens, training):
    model = build_transformer().train(training)
    assert (model(input_ids=tokens).past_key_values is None) == training
    assert model(input_ids=tokens, use_cache=False).past_key_values is None
    cache = model(input_ids=tokens, use_cache=True).past_key_values
    assert model(input_ids=tokens, past_key_values=cache).past_key_values is cache
    assert cache.get_seq_length() == 18


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("head", ["ForCausalLM", "ForConditionalGeneration"])
def test_moves_between_dtypes(build_transformer, tokens, dtype, head):
    model = build_transformer(head)
    expected = model(input_ids=tokens, labels=tokens)
    outputs = model.to(dtype)(input_ids=tokens, labels=tokens, use_cache=True)
    assert outputs.logits.dtype == dtype
    assert next(iter(outputs.past_key_values))[0].dtype == dtype
    torch.testing.assert_close(outputs.logits.float(), expected.logits, rtol=0.1, atol=0.1)
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("head", list(HEADS))
def test_runs_under_autocast(build_transformer, tokens, head):
    model = build_transformer(head)
    inputs = {"input_ids": tokens, "attention_mask": torch.tensor(PADDINGS["right"])}
    inputs |= {"decoder_input_ids": tokens} if head == "ForConditionalGeneration" else {}
    expected = first_output(model(**inputs))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(first_output(model(**inputs)).float(), expected, rtol=0.1, atol=0.1)


def test_only_learned_positions_end(architecture, build_transformer):
    model = build_transformer()
    if architecture in ("bert", "gpt2"):
        with pytest.raises(ValueError, match=r"Position 59 .* max_position_embeddings is 40 .*'rotary'"):
            model(input_ids=LONG_TEXT)
        assert model(input_ids=LONG_TEXT[:, :40]).logits.isfinite().all()
    else:
        assert model(input_ids=LONG_TEXT).logits.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, ValueError, ["exactly one"]),
        ({"inputs_embeds": torch.zeros(3, 9, 16)}, ValueError, ["exactly one"]),
        ({"atention_mask": torch.ones(3, 9)}, TypeError, ["atention_mask", "Did you mean 'attention_mask'?"]),
        ({"attention_mask": torch.ones(3, 8)}, ValueError, ["(3, 8)", "(3, 9)"]),
        ({"attention_mask": torch.ones(3, 9, 9)}, ValueError, ["(3, 9, 9)", "(3, 9)"]),
        ({"token_type_ids": torch.ones(3, 9, dtype=torch.long)}, ValueError, ["token_type_ids", "type_vocab_size=2"]),
        ({"use_cache": True}, ValueError, ["is_decoder=True"]),
        ({"past_key_values": DynamicCache()}, ValueError, ["is_decoder=True"]),
    ],
)
def test_mistakes_are_named(tokens, arguments, error, words):
    model = MiniTransformerModel(MiniTransformerConfig(vocab_size=23, hidden_size=16, num_hidden_layers=2))
    given = {} if arguments == {} else {"input_ids": tokens}
    with pytest.raises(error) as caught:
        model(**given, **arguments)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("head", "fields", "words"),
    [
        ("ForCausalLM", {"is_encoder_decoder": True}, ["is_encoder_decoder", "ForConditionalGeneration"]),
        ("ForConditionalGeneration", {"is_decoder": True}, ["is_decoder", "ForCausalLM"]),
        ("ForMaskedLM", {"is_decoder": True}, ["is_decoder=False", "ForCausalLM"]),
        ("ForPreTraining", {"is_decoder": True}, ["is_decoder=False", "ForCausalLM"]),
    ],
)
def test_heads_refuse_configs_of_other_heads(head, fields, words):
    with pytest.raises(ValueError, match="True") as caught:
        HEADS[head](MiniTransformerConfig(**fields))
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize("architecture", ["vaswani"], indirect=True)
def test_an_encoder_decoder_names_what_it_lacks(build_transformer, tokens):
    model = build_transformer("ForConditionalGeneration", bos_token_id=None)
    with pytest.raises(ValueError, match="decoder_start_token_id or bos_token_id"):
        model(input_ids=tokens, labels=tokens)
    with pytest.raises(ValueError, match="exactly one"):
        model(input_ids=tokens)
    with pytest.raises(ValueError, match="EncoderDecoderCache"):
        model(input_ids=tokens, decoder_input_ids=tokens, past_key_values=DynamicCache())
    classifier = build_transformer("ForSequenceClassification")
    with pytest.raises(ValueError, match=r"\(B, T\), 1 at real tokens"):
        classifier(input_ids=tokens, attention_mask=torch.ones(3, 1, 9, 9, dtype=torch.bool))


def test_the_callers_config_stays_as_it_was():
    config = MiniTransformerConfig(vocab_size=11, hidden_size=8, num_hidden_layers=1)
    assert MiniTransformerForCausalLM(config).config.is_decoder
    assert HEADS["ForConditionalGeneration"](config).config.is_encoder_decoder
    assert not config.is_decoder
    assert not config.is_encoder_decoder
