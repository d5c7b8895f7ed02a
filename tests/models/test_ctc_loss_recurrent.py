"""The loss of the speech recogniser: sums over all alignments, what does not fit, what is silent, masks of every type, slopes."""

import itertools

import pytest
import torch
from torch.nn import functional as F

MELS = 6
DIRECTIONS = pytest.mark.parametrize("bidirectional", [False, True])
ONE_CELL = pytest.mark.parametrize("cell_type", ["lstm"], indirect=True)


def assert_close(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("convert", [torch.Tensor.bool, torch.Tensor.float, torch.Tensor.int, lambda mask: (mask * 255).to(torch.uint8)])
@ONE_CELL
def test_masks_of_every_type(recogniser, speech, transcripts, convert):
    model = recogniser()
    expected = model(**speech, labels=transcripts)
    outputs = model(speech["input_features"], attention_mask=convert(speech["attention_mask"]), labels=transcripts)
    assert_close(outputs.loss, expected.loss)
    assert_close(outputs.logits, expected.logits)


def test_rows_without_frames(recogniser, speech, transcripts):
    """As the fillers of the last batch: silence, and nothing for the loss where the transcript does not fit."""
    model = recogniser().train()
    speech["attention_mask"][1] = 0
    outputs = model(**speech, labels=transcripts)
    assert (outputs.logits[1].argmax(-1) == 0).all()
    rows = [0, 2, 3]
    three = model(speech["input_features"][rows], attention_mask=speech["attention_mask"][rows], labels=transcripts[rows], num_items_in_batch=7)
    assert_close(outputs.loss, three.loss)
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def all_alignments(log_probabilities, transcript, blank):
    """Minus the logarithm of the summed probability of every way to write the transcript: frame by frame, repeats taken together, blanks left out."""
    paths = []
    for path in itertools.product(range(log_probabilities.shape[1]), repeat=len(log_probabilities)):
        written = [token for token, _ in itertools.groupby(path) if token != blank]
        if written == transcript:
            paths.append(sum(log_probabilities[frame, token] for frame, token in enumerate(path)))
    return -torch.stack(paths).logsumexp(0) if paths else log_probabilities.new_tensor(0.0)


@DIRECTIONS
@ONE_CELL
@pytest.mark.parametrize("blank", [0, 2])
def test_loss_is_the_sum_over_all_alignments(recogniser, bidirectional, blank):
    """In nats per label; a transcript that has no alignment counts nothing. Gradients too."""
    torch.manual_seed(0)
    model = recogniser(bidirectional=bidirectional, vocab_size=4, pad_token_id=blank).double().train()
    features = torch.randn(4, 19, MELS, dtype=torch.float64)
    mask = torch.arange(19) < torch.tensor([19, 13, 8, 5])[:, None]  # 5, 4, 2 and 2 frames of logits
    transcripts = [[1, 3], [1, 1], [], [3, 3]]  # the last needs three frames, and the third is silence
    labels = torch.full((4, 2), -100)
    for row, transcript in enumerate(transcripts):
        labels[row, : len(transcript)] = torch.tensor(transcript, dtype=torch.long)
    outputs = model(features, attention_mask=mask, labels=labels)
    nats = [
        all_alignments(model(features[row : row + 1, : mask[row].sum()]).logits[0].log_softmax(-1), transcript, blank)
        for row, transcript in enumerate(transcripts)
    ]
    assert nats[3] == 0
    torch.testing.assert_close(outputs.loss, sum(nats).float() / 6, check_dtype=False, rtol=1e-5, atol=1e-6)
    expected = torch.autograd.grad(sum(nats) / 6, list(model.parameters()))
    for gradient, other in zip(torch.autograd.grad(outputs.loss, list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-6)


def test_loss_is_that_of_torch(recogniser, speech, transcripts):
    model = recogniser()
    outputs = model(**speech, labels=transcripts)
    lengths, counts = torch.tensor([8, 4, 2, 1]), torch.tensor([3, 2, 1, 1])
    filled = transcripts.masked_fill(transcripts < 0, 1)
    expected = F.ctc_loss(outputs.logits.log_softmax(-1).transpose(0, 1), filled, lengths, counts, reduction="none").sum() / 7
    assert_close(outputs.loss, expected)
    assert_close(model(**speech, labels=transcripts, num_items_in_batch=14).loss, expected / 2)
    assert_close(model(**speech, labels=transcripts.int()).loss, expected)


def test_transcripts_without_characters(recogniser, speech):
    """Silence: the loss is what it costs to write blanks."""
    model = recogniser().train()
    outputs = model(**speech, labels=torch.full((4, 3), -100))
    real = torch.arange(8) < torch.tensor([8, 4, 2, 1])[:, None]
    assert_close(outputs.loss, -outputs.logits.log_softmax(-1)[..., 0][real].sum())
    assert_close(outputs.loss, model(**speech, labels=torch.zeros(4, 0, dtype=torch.long)).loss)
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("ctc_zero_infinity", [True, False])
def test_a_transcript_too_long_for_its_frames(recogniser, speech, transcripts, ctc_zero_infinity):
    model = recogniser(ctc_zero_infinity=ctc_zero_infinity).train()
    transcripts[3, :2] = 8  # two of a kind need three frames, and the row has one
    outputs = model(**speech, labels=transcripts)
    if not ctc_zero_infinity:
        assert outputs.loss.isinf()
        return
    first = {name: values[:3] for name, values in speech.items()}
    rest = model(**first, labels=transcripts[:3], num_items_in_batch=8)
    assert_close(outputs.loss, rest.loss)
    expected = torch.autograd.grad(rest.loss, list(model.parameters()))
    for gradient, other in zip(torch.autograd.grad(outputs.loss, list(model.parameters())), expected, strict=True):
        assert_close(gradient, other)


@DIRECTIONS
@pytest.mark.parametrize("num_conv_layers", [0, 2])
def test_gradients_are_the_slopes_of_the_loss(recogniser, speech, transcripts, bidirectional, num_conv_layers):
    """Of features and parameters, along a direction drawn at random."""
    model = recogniser(bidirectional=bidirectional, num_conv_layers=num_conv_layers).double()
    features = speech["input_features"].double()
    tensors = [features, *model.parameters()]
    directions = [torch.randn_like(tensor) for tensor in tensors]

    def loss_at(distance):
        with torch.no_grad():
            for tensor, direction in zip(tensors, directions, strict=True):
                tensor.add_(direction, alpha=distance)
            log_probabilities = model(features, attention_mask=speech["attention_mask"]).logits.log_softmax(-1)
            lengths = model._get_feat_extract_output_lengths(speech["attention_mask"].sum(1))
            real = transcripts != -100  # the model's own loss is in float32
            loss = F.ctc_loss(log_probabilities.transpose(0, 1), transcripts[real], lengths, real.sum(1), reduction="sum") / 7
            for tensor, direction in zip(tensors, directions, strict=True):
                tensor.sub_(direction, alpha=distance)
        return loss

    slope = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6
    features.requires_grad_()
    model(features, attention_mask=speech["attention_mask"], labels=transcripts).loss.backward()
    expected = sum((tensor.grad * direction).sum() for tensor, direction in zip(tensors, directions, strict=True))
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-5)
    assert not features.grad[speech["attention_mask"] == 0].any()
