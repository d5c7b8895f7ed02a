"""The same model by others: with copied weights, transformers' GPT-2, GPT-NeoX, StableLM, BERT and BART and torch's Transformer give the same."""

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForPreTraining,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

from hflab.models.mini_transformer import (
    MiniTransformerConfig,
    MiniTransformerForCausalLM,
    MiniTransformerForConditionalGeneration,
    MiniTransformerForPreTraining,
)

V, H, HEADS, LAYERS = 23, 16, 4, 2
NO_DROPOUT = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}
SIZES = {"vocab_size": V, "hidden_size": H, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "max_position_embeddings": 40}
MASK = torch.tensor([[1, 1, 1, 1, 1, 1, 0, 0, 0], [1] * 9, [1] + [0] * 8])


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def assert_same_losses_and_gradients(ours, theirs, our_table, their_table):
    """The losses, and the gradients of the embeddings, to which everything else leads."""
    assert_close(ours.loss, theirs.loss)
    ours.loss.backward()
    theirs.loss.backward()
    assert their_table.grad.abs().max() > 1e-4
    assert_close(our_table.grad, their_table.grad)


def scatter(model):
    """Weights so large that every part matters to the outputs."""
    torch.manual_seed(3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@torch.no_grad()
def copy(target, *sources, transposed=False):
    """Give a linear layer, a norm or an embedding the weights of `sources`, one below the other."""
    weights = [source.weight.T if transposed else source.weight for source in sources]
    target.weight.copy_(torch.cat(weights))
    if target.__dict__["_parameters"].get("bias") is not None:
        target.bias.copy_(torch.cat([source.bias for source in sources]))


def test_gpt2(tokens):
    theirs = scatter(GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=H, n_layer=LAYERS, n_head=HEADS, n_positions=40)))
    config = MiniTransformerConfig(
        norm_position="pre", position_embedding_type="learned", hidden_act="gelu_new", scale_embedding=False, **SIZES, **NO_DROPOUT
    )
    ours = MiniTransformerForCausalLM(config).eval()
    copy(ours.model.embed_tokens, theirs.transformer.wte)
    copy(ours.model.embed_positions, theirs.transformer.wpe)
    copy(ours.model.norm, theirs.transformer.ln_f)
    for block, other in zip(ours.model.layers, theirs.transformer.h, strict=True):
        copy(block.self_attention_norm, other.ln_1)
        copy(block.self_attention.query_key_value_projection, other.attn.c_attn, transposed=True)
        copy(block.self_attention.output_projection, other.attn.c_proj, transposed=True)
        copy(block.feed_forward_norm, other.ln_2)
        copy(block.feed_forward.up_projection, other.mlp.c_fc, transposed=True)
        copy(block.feed_forward.down_projection, other.mlp.c_proj, transposed=True)
    labels = tokens.masked_fill(MASK == 0, -100)
    outputs = [model(input_ids=tokens, attention_mask=MASK, labels=labels) for model in (ours, theirs)]
    assert_close(outputs[0].logits[MASK == 1], outputs[1].logits[MASK == 1])
    assert_same_losses_and_gradients(*outputs, ours.model.embed_tokens.weight, theirs.transformer.wte.weight)
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(ours.generate(tokens, **options), theirs.generate(tokens, **options))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_gpt_neox_has_the_same_rotary_positions(tokens):
    config = GPTNeoXConfig(
        vocab_size=V,
        hidden_size=H,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=40,
        use_parallel_residual=False,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0},
    )
    theirs = scatter(GPTNeoXForCausalLM(config))
    options = {"norm_position": "pre", "position_embedding_type": "rotary", "rotary_base": 500, "hidden_act": "gelu", "intermediate_size": 40}
    ours = MiniTransformerForCausalLM(
        MiniTransformerConfig(**options, scale_embedding=False, tie_word_embeddings=False, **SIZES, **NO_DROPOUT)
    ).eval()
    copy(ours.model.embed_tokens, theirs.gpt_neox.embed_in)
    copy(ours.model.norm, theirs.gpt_neox.final_layer_norm)
    copy(ours.lm_head, theirs.get_output_embeddings())
    for block, other in zip(ours.model.layers, theirs.gpt_neox.layers, strict=True):
        copy(block.self_attention_norm, other.input_layernorm)
        for parameter, source in zip(
            block.self_attention.query_key_value_projection.parameters(), other.attention.query_key_value.parameters(), strict=True
        ):  # theirs lists query, key and value head by head
            by_head = source.detach().view(HEADS, 3, H // HEADS, -1).transpose(0, 1)
            parameter.data.copy_(by_head.reshape(parameter.shape))
        copy(block.self_attention.output_projection, other.attention.dense)
        copy(block.feed_forward_norm, other.post_attention_layernorm)
        copy(block.feed_forward.up_projection, other.mlp.dense_h_to_4h)
        copy(block.feed_forward.down_projection, other.mlp.dense_4h_to_h)
    outputs = [model(input_ids=tokens, labels=tokens) for model in (ours, theirs)]
    assert_close(outputs[0].logits, outputs[1].logits)
    assert_same_losses_and_gradients(*outputs, ours.model.embed_tokens.weight, theirs.gpt_neox.embed_in.weight)


def test_stablelm_has_the_same_gated_feed_forward(tokens):
    config = StableLmConfig(
        vocab_size=V,
        hidden_size=H,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        intermediate_size=40,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
    )
    theirs = scatter(StableLmForCausalLM(config))
    options = {"norm_position": "pre", "position_embedding_type": "rotary", "hidden_act": "swiglu", "intermediate_size": 40}
    biases = {"attention_bias": False, "mlp_bias": False}
    ours = MiniTransformerForCausalLM(
        MiniTransformerConfig(**options, **biases, scale_embedding=False, tie_word_embeddings=False, **SIZES, **NO_DROPOUT)
    ).eval()
    copy(ours.model.embed_tokens, theirs.model.embed_tokens)
    copy(ours.model.norm, theirs.model.norm)
    copy(ours.lm_head, theirs.lm_head)
    for block, other in zip(ours.model.layers, theirs.model.layers, strict=True):
        copy(block.self_attention_norm, other.input_layernorm)
        copy(block.self_attention.query_key_value_projection, other.self_attn.q_proj, other.self_attn.k_proj, other.self_attn.v_proj)
        copy(block.self_attention.output_projection, other.self_attn.o_proj)
        copy(block.feed_forward_norm, other.post_attention_layernorm)
        copy(block.feed_forward.up_projection, other.mlp.up_proj)
        copy(block.feed_forward.gate_projection, other.mlp.gate_proj)
        copy(block.feed_forward.down_projection, other.mlp.down_proj)
    outputs = [model(input_ids=tokens, labels=tokens) for model in (ours, theirs)]
    assert_close(outputs[0].logits, outputs[1].logits)
    assert_same_losses_and_gradients(*outputs, ours.model.embed_tokens.weight, theirs.model.embed_tokens.weight)


def test_bert(tokens):
    config = BertConfig(
        vocab_size=V, hidden_size=H, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=40, max_position_embeddings=40
    )
    theirs = scatter(BertForPreTraining(config))
    options = {"position_embedding_type": "learned", "embedding_norm": True, "hidden_act": "gelu", "type_vocab_size": 2, "intermediate_size": 40}
    ours = MiniTransformerForPreTraining(MiniTransformerConfig(**options, scale_embedding=False, layer_norm_eps=1e-12, **SIZES, **NO_DROPOUT)).eval()
    embeddings = theirs.bert.embeddings
    copy(ours.model.embed_tokens, embeddings.word_embeddings)
    copy(ours.model.embed_positions, embeddings.position_embeddings)
    copy(ours.model.embed_token_types, embeddings.token_type_embeddings)
    copy(ours.model.embedding_norm, embeddings.LayerNorm)
    for block, other in zip(ours.model.layers, theirs.bert.encoder.layer, strict=True):
        attention = other.attention
        copy(block.self_attention.query_key_value_projection, attention.self.query, attention.self.key, attention.self.value)
        copy(block.self_attention.output_projection, attention.output.dense)
        copy(block.self_attention_norm, attention.output.LayerNorm)
        copy(block.feed_forward.up_projection, other.intermediate.dense)
        copy(block.feed_forward.down_projection, other.output.dense)
        copy(block.feed_forward_norm, other.output.LayerNorm)
    copy(ours.transform.dense, theirs.cls.predictions.transform.dense)
    copy(ours.transform.norm, theirs.cls.predictions.transform.LayerNorm)
    copy(ours.lm_head, theirs.cls.predictions.decoder)
    copy(ours.pooler.dense, theirs.bert.pooler.dense)
    copy(ours.next_sentence_classifier, theirs.cls.seq_relationship)
    types = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1]).expand(3, 9)
    labels = tokens.masked_fill(torch.arange(9) % 3 > 0, -100)
    inputs = {"attention_mask": MASK, "token_type_ids": types, "labels": labels, "next_sentence_label": torch.tensor([0, 1, 1])}
    outputs = [model(input_ids=tokens, **inputs) for model in (ours, theirs)]
    assert_close(outputs[0].prediction_logits[MASK == 1], outputs[1].prediction_logits[MASK == 1])
    assert_close(outputs[0].seq_relationship_logits, outputs[1].seq_relationship_logits)
    labels[MASK == 0] = -100  # what hidden tokens at padding would be is anyone's guess: the loss must leave them out
    outputs = [model(input_ids=tokens, **inputs) for model in (ours, theirs)]
    assert_same_losses_and_gradients(*outputs, ours.model.embed_tokens.weight, embeddings.word_embeddings.weight)


@torch.no_grad()
def copy_bart_layer(block, other, *, is_decoder):
    attention = other.self_attn
    copy(block.self_attention.query_key_value_projection, attention.q_proj, attention.k_proj, attention.v_proj)
    copy(block.self_attention.output_projection, attention.out_proj)
    copy(block.self_attention_norm, other.self_attn_layer_norm)
    if is_decoder:
        copy(block.cross_attention.query_projection, other.encoder_attn.q_proj)
        copy(block.cross_attention.key_value_projection, other.encoder_attn.k_proj, other.encoder_attn.v_proj)
        copy(block.cross_attention.output_projection, other.encoder_attn.out_proj)
        copy(block.cross_attention_norm, other.encoder_attn_layer_norm)
    copy(block.feed_forward.up_projection, other.fc1)
    copy(block.feed_forward.down_projection, other.fc2)
    copy(block.feed_forward_norm, other.final_layer_norm)


def test_bart(tokens):
    config = BartConfig(
        vocab_size=V,
        d_model=H,
        encoder_layers=LAYERS,
        decoder_layers=3,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=40,
        decoder_ffn_dim=40,
        max_position_embeddings=40,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
        scale_embedding=True,
    )
    theirs = scatter(BartForConditionalGeneration(config))
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    options = {"position_embedding_type": "learned", "embedding_norm": True, "hidden_act": "gelu", "num_decoder_layers": 3, "intermediate_size": 40}
    ours = MiniTransformerForConditionalGeneration(MiniTransformerConfig(**options, **special, **SIZES, **NO_DROPOUT)).eval()
    copy(ours.model.embed_tokens, theirs.model.shared)
    for stack, other in ((ours.model, theirs.model.encoder), (ours.decoder, theirs.model.decoder)):
        stack.embed_positions.weight.data.copy_(other.embed_positions.weight[2:])  # BART leaves the first two unused
        copy(stack.embedding_norm, other.layernorm_embedding)
        for block, layer in zip(stack.layers, other.layers, strict=True):
            copy_bart_layer(block, layer, is_decoder=stack is ours.decoder)
    labels = tokens[:, :7].flip(1).clone()
    labels[1, 4:] = -100
    outputs = [model(input_ids=tokens, attention_mask=MASK, labels=labels) for model in (ours, theirs)]
    assert_close(outputs[0].logits, outputs[1].logits)
    assert_close(outputs[0].encoder_last_hidden_state[MASK == 1], outputs[1].encoder_last_hidden_state[MASK == 1])
    assert_same_losses_and_gradients(*outputs, ours.model.embed_tokens.weight, theirs.model.shared.weight)
    for beams in (1, 3):
        options = {"max_new_tokens": 9, "do_sample": False, "num_beams": beams, "attention_mask": MASK, "min_new_tokens": 5}
        assert torch.equal(ours.generate(tokens, **options), theirs.generate(tokens, **options))


@torch.no_grad()
def copy_torch_layer(block, other):
    block.self_attention.query_key_value_projection.weight.copy_(other.self_attn.in_proj_weight)
    block.self_attention.query_key_value_projection.bias.copy_(other.self_attn.in_proj_bias)
    copy(block.self_attention.output_projection, other.self_attn.out_proj)
    copy(block.self_attention_norm, other.norm1)
    if block.cross_attention is not None:
        cross, source = block.cross_attention, other.multihead_attn
        for layer, rows in ((cross.query_projection, slice(H)), (cross.key_value_projection, slice(H, None))):
            layer.weight.copy_(source.in_proj_weight[rows])
            layer.bias.copy_(source.in_proj_bias[rows])
        copy(cross.output_projection, source.out_proj)
        copy(block.cross_attention_norm, other.norm2)
    copy(block.feed_forward.up_projection, other.linear1)
    copy(block.feed_forward.down_projection, other.linear2)
    copy(block.feed_forward_norm, other.norm3 if block.cross_attention is not None else other.norm2)


@pytest.mark.parametrize("norm_position", ["post", "pre"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_transformer_of_torch(norm_position, activation):
    options = {"dim_feedforward": 40, "dropout": 0.0, "activation": activation, "batch_first": True, "norm_first": norm_position == "pre"}
    final_norm = [nn.LayerNorm(H) if norm_position == "pre" else None for _ in range(2)]
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(H, HEADS, **options), LAYERS, norm=final_norm[0], enable_nested_tensor=False)
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(H, HEADS, **options), 3, norm=final_norm[1])
    theirs = scatter(nn.Transformer(H, HEADS, custom_encoder=encoder, custom_decoder=decoder, batch_first=True)).train()
    config = MiniTransformerConfig(
        norm_position=norm_position, position_embedding_type="none", hidden_act=activation, num_decoder_layers=3, intermediate_size=40,
        scale_embedding=False, **SIZES, **NO_DROPOUT,
    )  # fmt: skip
    ours = MiniTransformerForConditionalGeneration(config).train()
    for stack, other in ((ours.model, theirs.encoder), (ours.decoder, theirs.decoder)):
        for block, layer in zip(stack.layers, other.layers, strict=True):
            copy_torch_layer(block, layer)
        if other.norm is not None:
            copy(stack.norm, other.norm)
    torch.manual_seed(4)
    source, target = torch.randn(3, 9, H), torch.randn(3, 5, H)
    inputs = [(source.clone().requires_grad_(), target.clone().requires_grad_()) for _ in range(2)]
    outputs = ours(inputs_embeds=inputs[0][0], attention_mask=MASK, decoder_inputs_embeds=inputs[0][1], output_hidden_states=True)
    causal = nn.Transformer.generate_square_subsequent_mask(5)
    expected = theirs(*inputs[1], tgt_mask=causal, src_key_padding_mask=MASK == 0, memory_key_padding_mask=MASK == 0, tgt_is_causal=True)
    assert_close(outputs.decoder_hidden_states[-1], expected)
    slope = torch.linspace(-1, 1, H)
    (outputs.decoder_hidden_states[-1] * slope).sum().backward()
    (expected * slope).sum().backward()
    for mine, other in zip(*inputs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        ours.model.layers[0].self_attention.query_key_value_projection.weight.grad,
        encoder.layers[0].self_attn.in_proj_weight.grad,
        rtol=1e-4,
        atol=1e-5,
    )
