"""How weights begin, load, are shared and are resized."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hflab.models.mini_transformer import HEADS, MiniTransformerConfig, MiniTransformerForCausalLM, MiniTransformerModel

LANGUAGE_HEADS = ["ForCausalLM", "ForMaskedLM", "ForPreTraining", "ForConditionalGeneration"]


def outputs_of(model, tokens):
    inputs = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder and hasattr(model, "decoder") else {}
    return model(input_ids=tokens, **inputs)[0]


@pytest.mark.parametrize("head", list(HEADS))
def test_every_weight_begins_as_it_should(build_transformer, head):
    model = build_transformer(head)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        else:
            assert 0.001 < parameter.std().item() < 0.5, name


@pytest.mark.parametrize(
    ("fields", "std"),
    [({"scale_embedding": True}, 256**-0.5), ({"scale_embedding": False, "initializer_range": 0.05}, 0.05)],
)
def test_token_embeddings_begin_on_the_scale_of_the_positions(fields, std):
    model = MiniTransformerForCausalLM(MiniTransformerConfig(vocab_size=200, hidden_size=256, num_hidden_layers=1, **fields))
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(std, rel=0.03)
    scaled = model.model.scale(model.model.embed_tokens(torch.arange(200)))
    assert scaled.std().item() == pytest.approx(1.0 if fields["scale_embedding"] else 0.05, rel=0.03)


@pytest.mark.parametrize(("norm_position", "num_sublayers"), [("post", 1), ("pre", 6)])
def test_layers_that_write_into_a_pre_norm_stream_begin_smaller(norm_position, num_sublayers):
    config = MiniTransformerConfig(hidden_size=128, num_hidden_layers=3, norm_position=norm_position, initializer_range=0.05)
    for block in MiniTransformerModel(config).layers:
        for projection in (block.self_attention.output_projection, block.feed_forward.down_projection):
            assert projection.weight.std().item() == pytest.approx(0.05 / num_sublayers**0.5, rel=0.05)
        assert block.feed_forward.up_projection.weight.std().item() == pytest.approx(0.05, rel=0.05)


def test_cross_attention_counts_among_the_sublayers():
    config = MiniTransformerConfig(hidden_size=128, num_hidden_layers=1, num_decoder_layers=3, norm_position="pre", initializer_range=0.05)
    for block in HEADS["ForConditionalGeneration"](config).decoder.layers:
        assert block.cross_attention.output_projection.weight.std().item() == pytest.approx(0.05 / 3, rel=0.05)


@pytest.mark.parametrize("head", list(HEADS))
def test_a_checkpoint_without_one_tensor_keeps_all_others(build_transformer, tmp_path, head):
    model = build_transformer(head)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)  # nothing that initialisation could give
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert len(weights) >= 20
    for missing in list(weights)[::6]:
        save_file({name: tensor for name, tensor in weights.items() if name != missing}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loaded = HEADS[head].from_pretrained(tmp_path).state_dict()
        changed = [name for name, tensor in weights.items() if not torch.equal(loaded[name], tensor)]
        assert changed == [missing]
        assert loaded[missing].isfinite().all()


@pytest.mark.parametrize("head", list(HEADS))
def test_a_model_begun_on_no_device_is_initialised_like_any_other(build_transformer, tokens, head):
    with torch.device("meta"):
        model = build_transformer(head)
    model.to_empty(device="cpu")
    model.tie_weights()
    torch.manual_seed(0)
    model.init_weights()
    assert all(tensor.isfinite().all() for tensor in [*model.parameters(), *model.buffers()])
    assert list(model.buffers()) == []  # positions are computed: nothing can be lost
    assert outputs_of(model, tokens).isfinite().all()


@pytest.mark.parametrize("head", list(HEADS))
def test_saves_and_loads(build_transformer, tokens, tmp_path, head):
    model = build_transformer(head)
    model.save_pretrained(tmp_path)
    loaded = HEADS[head].from_pretrained(tmp_path).eval()
    assert torch.equal(outputs_of(loaded, tokens), outputs_of(model, tokens))
    assert not loaded.training


@pytest.mark.parametrize("head", [head for head in HEADS if head != "Model"])
def test_base_weights_move_between_model_and_head(build_transformer, tokens, tmp_path, head):
    """The base model of an encoder-decoder is its encoder."""
    model = build_transformer(head)
    model.save_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path).eval()
    assert type(base) is MiniTransformerModel
    assert base.is_causal == (head == "ForCausalLM")
    assert torch.equal(base(input_ids=tokens).last_hidden_state, model.base_model(input_ids=tokens).last_hidden_state)
    base.save_pretrained(tmp_path / "base")
    again = HEADS[head].from_pretrained(tmp_path / "base")
    for ours, theirs in zip(again.base_model.parameters(), model.base_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("architecture", ["vaswani"], indirect=True)
def test_an_encoder_decoder_can_begin_from_a_masked_language_model(build_transformer, tmp_path):
    model = build_transformer("ForMaskedLM")
    model.save_pretrained(tmp_path)
    translator = HEADS["ForConditionalGeneration"].from_pretrained(tmp_path)
    assert torch.equal(translator.model.embed_tokens.weight, model.model.embed_tokens.weight)
    assert torch.equal(translator.model.layers[1].feed_forward.up_projection.weight, model.model.layers[1].feed_forward.up_projection.weight)
    assert all(parameter.isfinite().all() for parameter in translator.parameters())


@pytest.mark.parametrize("head", LANGUAGE_HEADS)
@pytest.mark.parametrize("tied", [True, False])
def test_tied_head_shares_the_embedding(build_transformer, tokens, tmp_path, head, tied):
    model = build_transformer(head, tie_word_embeddings=tied)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    model.save_pretrained(tmp_path)
    stored = [name for name in load_file(tmp_path / "model.safetensors") if "lm_head.weight" in name or "embed_tokens" in name]
    assert stored == ["model.embed_tokens.weight"] if tied else sorted(stored) == ["lm_head.weight", "model.embed_tokens.weight"]
    loaded = HEADS[head].from_pretrained(tmp_path).eval()
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    assert torch.equal(outputs_of(loaded, tokens), outputs_of(model, tokens))


@pytest.mark.parametrize("head", LANGUAGE_HEADS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [30, 15])
def test_resizing_keeps_the_old_tokens(build_transformer, tokens, head, tied, size):
    model = build_transformer(head, tie_word_embeddings=tied)
    tokens = tokens % 15
    before = outputs_of(model, tokens)
    model.resize_token_embeddings(size)
    assert model.config.vocab_size == model.lm_head.out_features == size
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    torch.testing.assert_close(outputs_of(model, tokens)[..., :15], before[..., :15])
    assert model(input_ids=tokens, labels=tokens).loss.isfinite()


def test_every_architecture_names_its_projections_for_adapters(build_transformer):
    names = {
        name.rsplit(".", 1)[-1] for name, module in build_transformer("ForConditionalGeneration").named_modules() if type(module) is torch.nn.Linear
    }
    projections = {"query_key_value_projection", "query_projection", "key_value_projection", "output_projection", "up_projection", "down_projection"}
    assert projections <= names
