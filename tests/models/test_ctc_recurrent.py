"""The speech recogniser: torch's own networks, padding, chunks of live audio, dtypes, saving, errors. Losses: test_ctc_loss_recurrent.py."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache

from hflab.models.recurrent import CELLS, RecurrentConfig, RecurrentForCTC, states_from_cache
from hflab.models.recurrent.ctc_recurrent import ConvolutionalSubsampling

MELS = 6
LENGTHS = (29, 16, 5, 1)  # frames of the rows of `speech`
TORCH_CELLS = [name for name, cell in CELLS.items() if cell.torch_class is not None]
DIRECTIONS = pytest.mark.parametrize("bidirectional", [False, True])
KERNELS = pytest.mark.parametrize("conv_kernel_size", [1, 3, 5])
ONE_CELL = pytest.mark.parametrize("cell_type", ["lstm"], indirect=True)
STACKED = pytest.mark.parametrize("block_style", ["stacked"], indirect=True)
RESIDUAL = pytest.mark.parametrize("block_style", ["residual"], indirect=True)


def assert_close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@ONE_CELL
@STACKED
@pytest.mark.parametrize("num_conv_layers", range(5))
def test_each_convolution_halves_the_frames(recogniser, num_conv_layers):
    model = recogniser(num_conv_layers=num_conv_layers)
    for num_frames in (1, 2, 3, 4, 5, 16, 17, 33):
        logits = model(torch.randn(2, num_frames, MELS)).logits
        assert logits.shape == (2, -(-num_frames // 2**num_conv_layers), 23)
        assert model._get_feat_extract_output_lengths(torch.tensor([num_frames])).tolist() == [logits.shape[1]]


@DIRECTIONS
def test_shapes(recogniser, speech, transcripts, bidirectional):
    outputs = recogniser(bidirectional=bidirectional)(**speech, labels=transcripts)
    assert outputs.loss.shape == ()
    assert outputs.logits.shape == (4, 8, 23)
    assert (outputs.past_key_values is None) == bidirectional
    assert outputs.hidden_states is None


@KERNELS
@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_convolutions_are_their_sums(conv_kernel_size, num_frames):
    """Frame by frame: each sees itself and those before it, where there are any. Outputs and gradients."""
    torch.manual_seed(0)
    config = RecurrentConfig(num_mel_bins=MELS, embedding_size=4, num_conv_layers=2, conv_kernel_size=conv_kernel_size, hidden_act="silu")
    module = ConvolutionalSubsampling(config).double()
    features = torch.randn(2, num_frames, MELS, dtype=torch.float64, requires_grad=True)

    def naive(frames):
        for convolution, norm in zip(module.convolutions, module.norms, strict=True):
            outputs = []
            for place in range(0, frames.shape[1], 2):
                total = convolution.bias
                for back in range(min(conv_kernel_size, place + 1)):
                    total = total + frames[:, place - back] @ convolution.weight[:, :, conv_kernel_size - 1 - back].T
                outputs.append(norm(total * total.sigmoid()))
            frames = torch.stack(outputs, dim=1)
        return frames

    weights = torch.randn(2, -(-num_frames // 4), 4, dtype=torch.float64)
    gradients = []
    for subsample in (module, naive):
        outputs = subsample(features)
        gradients.append([outputs, *torch.autograd.grad((outputs * weights).sum(), [features, *module.parameters()])])
    assert len(gradients[0]) == 10
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("cell_type", TORCH_CELLS, indirect=True)
@STACKED
@DIRECTIONS
def test_stacked_blocks_are_the_packed_sequence_of_torch(recogniser, speech, bidirectional):
    """With copied weights torch's network over a PackedSequence, which knows the rows' lengths: the same logits, states and gradients."""
    model = recogniser(bidirectional=bidirectional)
    twin = CELLS[model.config.cell_type].torch_class(12, 12, 2, batch_first=True, bidirectional=bidirectional)
    for layer, block in enumerate(model.model.layers):
        block.cell.load_torch_weights(twin, layer=layer)
        if bidirectional:
            block.backward_cell.load_torch_weights(twin, layer=layer, reverse=True)
    ours, theirs = (speech["input_features"].clone().requires_grad_() for _ in range(2))
    lengths = model._get_feat_extract_output_lengths(speech["attention_mask"].sum(1))
    packed = nn.utils.rnn.pack_padded_sequence(model.model.subsampling(theirs), lengths, batch_first=True)
    hidden, state = twin(packed)
    expected = model.lm_head(nn.utils.rnn.pad_packed_sequence(hidden, batch_first=True)[0])
    outputs = model(ours, attention_mask=speech["attention_mask"])
    real = torch.arange(8) < lengths[:, None]
    assert_close(outputs.logits[real], expected[real])
    if not bidirectional:
        states = torch.stack([state.hidden for state in states_from_cache(outputs.past_key_values)])
        assert_close(states, state[0] if isinstance(state, tuple) else state)
    (outputs.logits[real] * torch.linspace(-1, 1, 23)).sum().backward()
    convolution, own = model.model.subsampling.convolutions[0].weight, model.model.layers[0]
    first = convolution.grad.clone()
    convolution.grad = None
    (expected[real] * torch.linspace(-1, 1, 23)).sum().backward()
    assert_close(ours.grad, theirs.grad)
    assert_close(first, convolution.grad)
    assert_close(own.cell.hidden_projection.weight.grad, twin.weight_hh_l0.grad)
    assert_close(own.cell.input_projection.weight.grad, twin.weight_ih_l0.grad)
    if bidirectional:
        assert_close(own.backward_cell.hidden_projection.weight.grad, twin.weight_hh_l0_reverse.grad)
    assert not ours.grad[speech["attention_mask"] == 0].any()


@DIRECTIONS
@pytest.mark.parametrize(("num_conv_layers", "conv_kernel_size"), [(0, 1), (1, 3), (2, 5), (3, 2)])
def test_a_row_of_a_batch_is_the_row_alone(recogniser, speech, bidirectional, num_conv_layers, conv_kernel_size):
    model = recogniser(bidirectional=bidirectional, num_conv_layers=num_conv_layers, conv_kernel_size=conv_kernel_size)
    outputs = model(**speech)
    for row, length in enumerate(LENGTHS):
        alone = model(speech["input_features"][row : row + 1, :length])
        num_frames = model.config.num_output_frames(length)
        assert alone.logits.shape[1] == num_frames
        assert_close(outputs.logits[row, :num_frames], alone.logits[0])
        if not bidirectional:
            for state, expected in zip(states_from_cache(outputs.past_key_values), states_from_cache(alone.past_key_values), strict=True):
                assert_close(state.hidden[row], expected.hidden[0])


@ONE_CELL
@pytest.mark.parametrize(("pad_token_id", "blank"), [(0, 0), (7, 7), (None, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_padding_is_certain_to_be_blank(recogniser, speech, pad_token_id, blank, dtype):
    """So that whoever takes the likeliest token of every frame, padding included, writes what the row alone would give."""
    model = recogniser(pad_token_id=pad_token_id).to(dtype)
    model.lm_head.bias.data[(blank + 1) % 23] += 20.0  # what a model that hardly ever writes a blank would say
    logits = model(**speech).logits
    padding = torch.arange(8) >= model._get_feat_extract_output_lengths(torch.tensor(LENGTHS))[:, None]
    assert padding.sum() == 17
    assert (logits[padding].argmax(-1) == blank).all()
    assert (logits[padding].float().softmax(-1)[:, blank] == 1).all()
    assert (logits[~padding].argmax(-1) != blank).all()
    assert logits.dtype == dtype


def read_in_chunks(model, features, mask, size, num_context_frames):
    """Logits of the whole, read `size` frames at a time with so many of the earlier ones, and the cache."""
    cache, logits = None, []
    for start in range(0, features.shape[1], size):
        first = max(0, start - num_context_frames)
        outputs = model(
            features[:, first : start + size],
            attention_mask=None if mask is None else mask[:, first : start + size],
            past_key_values=cache,
            num_context_frames=start - first,
        )
        cache = outputs.past_key_values
        logits.append(outputs.logits)
    return torch.cat(logits, dim=1), cache


@pytest.mark.parametrize("padded", [False, True])
def test_chunks_are_the_whole(recogniser, speech, padded):
    model, mask = recogniser(), speech["attention_mask"] if padded else None
    whole = model(speech["input_features"], attention_mask=mask)
    for size in (4, 8, 20):
        logits, cache = read_in_chunks(model, speech["input_features"], mask, size, model.config.lookback_frames)
        assert_close(logits, whole.logits)
        assert cache.get_seq_length() == whole.past_key_values.get_seq_length() == 8
        for state, expected in zip(states_from_cache(cache), states_from_cache(whole.past_key_values), strict=True):
            assert_close(state.hidden, expected.hidden)


def test_rows_that_ended_before_a_chunk(recogniser, speech):
    """They have no frames in it: blanks, no change of the state, and nothing in the loss."""
    model = recogniser()
    first = model(speech["input_features"][:, :24], attention_mask=speech["attention_mask"][:, :24])
    before = states_from_cache(first.past_key_values)
    last = {name: values[:, 12:] for name, values in speech.items()}
    labels = torch.tensor([[3], [-100], [-100], [-100]])
    outputs = model(**last, past_key_values=first.past_key_values, num_context_frames=12, labels=labels)
    assert (outputs.logits[1:].argmax(-1) == 0).all()
    for state, earlier in zip(states_from_cache(outputs.past_key_values), before, strict=True):
        assert torch.equal(state.hidden[1:], earlier.hidden[1:])
        assert not torch.equal(state.hidden[0], earlier.hidden[0])
    alone = F.ctc_loss(outputs.logits[:1].log_softmax(-1).transpose(0, 1), labels[:1], torch.tensor([2]), torch.tensor([1]), reduction="sum")
    assert_close(outputs.loss, alone)


@pytest.mark.parametrize("cell_type", ["gru"], indirect=True)
@RESIDUAL
@KERNELS
@pytest.mark.parametrize("num_conv_layers", range(4))
def test_chunks_are_the_whole_with_the_frames_that_the_convolutions_look_back_on(recogniser, conv_kernel_size, num_conv_layers):
    """`lookback_frames` are enough, and no fewer are."""
    model = recogniser(conv_kernel_size=conv_kernel_size, num_conv_layers=num_conv_layers).double()
    features = torch.randn(2, 83, MELS, dtype=torch.float64)
    whole = model(features, use_cache=False).logits
    factor, lookback = model.config.subsampling_factor, model.config.lookback_frames
    for size in {factor, 3 * factor, 40}:  # 83 is no multiple of any but 1: the last chunk is shorter
        logits, _ = read_in_chunks(model, features, None, size, lookback)
        torch.testing.assert_close(logits, whole)
    if lookback:
        assert not torch.allclose(read_in_chunks(model, features, None, 40, lookback - factor)[0], whole, atol=1e-9)


@ONE_CELL
@STACKED
def test_a_model_without_convolutions_reads_the_features(recogniser, speech):
    model = recogniser(num_conv_layers=0)
    expected = model.lm_head(model.model.layers[1](model.model.layers[0](speech["input_features"])[0])[0])
    assert_close(model(speech["input_features"]).logits, expected)
    with pytest.raises(ValueError, match=r"embedding_size is 12; set it to 6, or num_conv_layers to 1"):
        RecurrentForCTC(RecurrentConfig(hidden_size=12, num_mel_bins=6, num_conv_layers=0))


def test_hidden_states_and_tuples(recogniser, speech, transcripts):
    model = recogniser()
    outputs = model(**speech, output_hidden_states=True)
    assert [state.shape for state in outputs.hidden_states] == [(4, 8, 12)] * 3
    assert_close(outputs.hidden_states[0], model.model.subsampling(speech["input_features"]))
    real = torch.arange(8) < torch.tensor([8, 4, 2, 1])[:, None]
    assert_close(model.lm_head(outputs.hidden_states[-1])[real], outputs.logits[real])
    loss, logits, _ = model(**speech, labels=transcripts, return_dict=False)
    assert loss.dim() == 0
    assert_close(logits, outputs.logits)
    late = model(**speech, output_hidden_states=True, num_context_frames=8)
    assert [state.shape for state in late.hidden_states] == [(4, 6, 12)] * 3
    assert late.logits.shape == (4, 6, 23)


@pytest.mark.parametrize("training", [True, False])
def test_state_is_returned_when_it_is_wanted(recogniser, speech, training):
    model = recogniser().train(training)
    assert (model(**speech).past_key_values is None) == training
    assert model(**speech, use_cache=False).past_key_values is None
    cache = model(**speech, use_cache=True).past_key_values
    assert model(**speech, past_key_values=cache).past_key_values is cache
    assert cache.get_seq_length() == 16


@DIRECTIONS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_moves_between_dtypes(recogniser, speech, transcripts, bidirectional, dtype):
    """Features come in float32, whatever the model is in."""
    model = recogniser(bidirectional=bidirectional, mask_time_prob=0.1, mask_time_length=2)
    expected = model(**speech, labels=transcripts)
    outputs = model.to(dtype)(**speech, labels=transcripts)
    assert outputs.logits.dtype == dtype
    real = outputs.logits.abs() < 1000
    torch.testing.assert_close(outputs.logits[real].float(), expected.logits[real], rtol=0.1, atol=0.1)
    torch.testing.assert_close(outputs.loss.float(), expected.loss, rtol=0.05, atol=0.05)
    assert outputs.loss.dtype == torch.float32
    if not bidirectional:
        again = model(**speech, past_key_values=outputs.past_key_values)
        assert states_from_cache(again.past_key_values)[0].hidden.dtype == dtype
    model.train()(**speech, labels=transcripts).loss.backward()
    assert all(parameter.grad.dtype == dtype and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_autocast(recogniser, speech, transcripts):
    model = recogniser()
    expected = model(**speech, labels=transcripts)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(**speech, labels=transcripts)
    torch.testing.assert_close(outputs.loss, expected.loss, rtol=0.05, atol=0.05)
    outputs.loss.backward()
    assert all(parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"input_features": torch.zeros(3, 9)}, ValueError, ["(3, 9)", "(B, T, 6)"]),
        ({"input_features": torch.zeros(3, 9, 80)}, ValueError, ["(3, 9, 80)", "(B, T, 6)"]),
        ({"input_features": torch.zeros(3, 0, 6)}, ValueError, ["(3, 0, 6)", "at least one frame"]),
        ({"attention_mask": torch.ones(3, 8)}, ValueError, ["(3, 8)", "(3, 9)"]),
        ({"attention_mask": torch.ones(9)}, ValueError, ["(9,)", "(3, 9)"]),
        ({"attention_mask": torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1, 1]] * 3)}, ValueError, ["real frames after padding", "on the right"]),
        ({"attention_mask": torch.tensor([[1] * 9, [1, 1, 0, 1, 1, 1, 1, 1, 1], [1] * 9])}, ValueError, ["real frames after padding"]),
        ({"num_context_frames": 3}, ValueError, ["num_context_frames is 3", "a multiple of 4", "(9)"]),
        ({"num_context_frames": -4}, ValueError, ["num_context_frames is -4"]),
        ({"num_context_frames": 12}, ValueError, ["num_context_frames is 12", "below the frames given (9)"]),
        ({"labels": torch.tensor([1, 2, 3])}, ValueError, ["(3,)", "(3, L)"]),
        ({"labels": torch.ones(2, 4, dtype=torch.long)}, ValueError, ["(2, 4)", "(3, L)"]),
        ({"labels": torch.full((3, 2), 23)}, ValueError, ["labels holds 23", "from 0 to 22"]),
        ({"labels": torch.tensor([[4, -1]] * 3)}, ValueError, ["labels holds -1", "-100"]),
        ({"labels": torch.tensor([[4, 0]] * 3)}, ValueError, ["labels holds 0", "without the blank, 0", "-100"]),
        ({"atention_mask": torch.ones(3, 9)}, TypeError, ["atention_mask", "Did you mean 'attention_mask'?"]),
        ({"context_frames": 4}, TypeError, ["context_frames", "Did you mean 'num_context_frames'?"]),
        ({"input_ids": torch.ones(3, 9).long()}, TypeError, ["input_ids", "Did you mean 'input_features'?"]),
        ({"output_attentions": True}, ValueError, ["output_attentions", "output_hidden_states"]),
        ({"past_key_values": DynamicCache()}, ValueError, ["2 recurrent layers", "DynamicCache(config=model.config)"]),
    ],
)
def test_mistakes_are_named(arguments, error, words):
    model = RecurrentForCTC(RecurrentConfig(vocab_size=23, hidden_size=12, num_hidden_layers=2, num_mel_bins=MELS))
    with pytest.raises(error) as caught:
        model(**{"input_features": torch.zeros(3, 9, MELS)} | arguments)
    assert [word for word in words if word not in str(caught.value)] == []


def test_bidirectional_models_refuse_a_state(recogniser, speech):
    model = recogniser(bidirectional=True)
    with pytest.raises(ValueError, match="no state to carry"):
        model(**speech, use_cache=True)
    with pytest.raises(ValueError, match="no state to carry"):
        model(**speech, past_key_values=DynamicCache(config=model.config))


@pytest.mark.parametrize("pad_token_id", [23, -1])
def test_the_blank_is_a_token(pad_token_id):
    with pytest.raises(ValueError, match=f"pad_token_id is {pad_token_id}, but CTC's blank must be one of the 23 tokens"):
        RecurrentForCTC(RecurrentConfig(vocab_size=23, hidden_size=4, pad_token_id=pad_token_id))


@ONE_CELL
@DIRECTIONS
def test_saves_and_loads(recogniser, speech, tmp_path, bidirectional):
    model = recogniser(bidirectional=bidirectional, pad_token_id=3, mask_time_prob=0.25, conv_kernel_size=3)
    model.save_pretrained(tmp_path)
    loaded = RecurrentForCTC.from_pretrained(tmp_path)
    assert not loaded.training
    assert loaded.config.mask_time_prob == 0.25
    assert torch.equal(loaded(**speech).logits, model(**speech).logits)
    assert RecurrentForCTC.from_pretrained(tmp_path, dtype=torch.bfloat16)(**speech).logits.dtype == torch.bfloat16


@ONE_CELL
@RESIDUAL
def test_a_checkpoint_without_one_tensor_keeps_all_others(recogniser, tmp_path):
    model = recogniser(embedding_size=8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)  # nothing that initialisation could give
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert {name.split(".")[1] for name in weights if name.startswith("model.")} >= {"subsampling", "layers"}
    for missing in weights:
        save_file({name: tensor for name, tensor in weights.items() if name != missing}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loaded = RecurrentForCTC.from_pretrained(tmp_path).state_dict()
        assert [name for name, tensor in weights.items() if not torch.equal(loaded[name], tensor)] == [missing]
        assert loaded[missing].isfinite().all()


@ONE_CELL
@RESIDUAL
def test_convolutions_begin_on_the_scale_of_what_they_sum(recogniser, build):
    model = recogniser(embedding_size=64, num_conv_layers=1, conv_kernel_size=4)
    weight = model.model.subsampling.convolutions[0].weight
    assert weight.shape == (64, MELS, 4)
    assert weight.abs().max().item() == pytest.approx((MELS * 4) ** -0.5, rel=0.01)
    assert weight.std().item() == pytest.approx((3 * MELS * 4) ** -0.5, rel=0.05)
    assert not model.model.subsampling.convolutions[0].bias.any()
    with torch.device("meta"):
        empty = recogniser(embedding_size=64, num_conv_layers=1, conv_kernel_size=4)
    empty.to_empty(device="cpu")
    empty.init_weights()
    assert all(tensor.isfinite().all() for tensor in [*empty.parameters(), *empty.buffers()])


@ONE_CELL
@STACKED
def test_another_vocabulary(recogniser, speech, tmp_path):
    """There is no embedding to resize, and the message says what to do instead."""
    model = recogniser()
    with pytest.raises(NotImplementedError, match="ignore_mismatched_sizes=True"):
        model.resize_token_embeddings(30)
    model.save_pretrained(tmp_path)
    loaded = RecurrentForCTC.from_pretrained(tmp_path, vocab_size=30, ignore_mismatched_sizes=True)
    assert loaded(**speech).logits.shape == (4, 8, 30)
    for name, tensor in model.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
