import itertools

import numpy as np
import pytest
import torch

from hflab.data.masked_batches import MaskedBatches, MaskingTokens
from hflab.data.processors import build_tokenizer, with_masked_lm_tokens
from hflab.data.sentences import encode_sentences, from_lists
from hflab.data.sources import Piece
from hflab.errors import UserError
from hflab.recipe import ProcessorSection

CLS, SEP, MASK, PAD, UNK = 0, 1, 2, 3, 4
VOCAB = 10_000
SPECIAL = MaskingTokens(CLS, SEP, MASK, PAD, special_ids=np.arange(5), ordinary_ids=np.arange(5, VOCAB))


def made_documents(num_documents=30, seed=0, longest=25):
    """Documents whose tokens rise by one from the first to the last of the text, so that each names its place."""
    generator = np.random.default_rng(seed)
    place, documents = 5, []
    for _ in range(num_documents):
        lengths = generator.integers(1, longest, generator.integers(1, 12))
        documents.append(
            [list(range(place + start, place + start + length)) for start, length in zip(np.cumsum(lengths) - lengths, lengths, strict=True)]
        )
        place += int(lengths.sum())
    assert place < VOCAB
    return documents


DOCUMENTS = made_documents()


def make(documents=DOCUMENTS, batch_size=8, sequence_length=48, seed=1, **keys):
    return MaskedBatches(from_lists(documents), SPECIAL, batch_size=batch_size, sequence_length=sequence_length, seed=seed, **keys)


def whole(batches, step):
    return batches.batch(step, slice(0, batches.batch_size))


def unmasked(batch):
    """The rows as they were, without padding."""
    original = torch.where(batch.labels == -100, batch.input_ids, batch.labels)
    return [row[mask.bool()].tolist() for row, mask in zip(original, batch.attention_mask, strict=True)]


def rows_of(batches, epochs=1):
    """(tokens of the first segment, of the second, label) of every counted row."""
    for step in range(epochs * batches.steps_per_epoch):
        batch = whole(batches, step)
        for row, types, label in list(zip(unmasked(batch), batch.token_type_ids.tolist(), batch.next_sentence_label.tolist(), strict=True))[
            : batch.num_rows
        ]:
            separator = row.index(SEP)
            assert row[0] == CLS
            assert row[-1] == SEP
            assert types[: len(row)] == [0] * (separator + 1) + [1] * (len(row) - separator - 1)
            yield row[1:separator], row[separator + 1 : -1], label


def test_pairs_are_what_their_label_says():
    document_of = {token: number for number, document in enumerate(DOCUMENTS) for sentence in document for token in sentence}
    seen = {0: 0, 1: 0}
    for first, second, label in rows_of(make(), epochs=3):
        assert first == list(range(first[0], first[-1] + 1))
        assert second == list(range(second[0], second[-1] + 1))
        documents = [{document_of[token] for token in segment} for segment in (first, second)]
        assert [len(found) for found in documents] == [1, 1]
        if label == 0:
            assert documents[0] == documents[1]
            assert second[0] == first[-1] + 1
        else:
            assert documents[0] != documents[1]
        assert len(first) + len(second) + 3 <= 48
        seen[label] += 1
    assert min(seen.values()) > 50


def test_half_of_the_pairs_are_random_and_come_from_all_other_documents():
    document_of = {token: number for number, document in enumerate(DOCUMENTS) for sentence in document for token in sentence}
    rows = list(rows_of(make(), epochs=20))
    assert len(rows) > 1500
    assert 0.46 < np.mean([label for *_, label in rows]) < 0.54
    assert {document_of[second[0]] for _, second, label in rows if label == 1} == set(range(len(DOCUMENTS)))


def test_segments_begin_at_sentences_except_inside_lone_or_long_ones():
    starts = {sentence[0] for document in DOCUMENTS for sentence in document}
    rows = list(rows_of(make(sequence_length=64), epochs=3))
    assert np.mean([first[0] in starts for first, *_ in rows]) > 0.95
    assert np.mean([second[0] in starts for _, second, _ in rows]) > 0.85


def test_an_epoch_without_pairs_reads_every_token_once():
    batches = make(next_sentence=False)
    tokens = []
    for step in range(batches.steps_per_epoch):
        batch = whole(batches, step)
        assert batch.next_sentence_label is None
        assert not batch.token_type_ids.any()
        for row in unmasked(batch)[: batch.num_rows]:
            assert (row[0], row[-1]) == (CLS, SEP)
            tokens += row[1:-1]
    assert sorted(tokens) == [token for document in DOCUMENTS for sentence in document for token in sentence]


def test_first_segments_and_true_pairs_cover_the_text():
    batches = make()
    read = {token for first, second, label in rows_of(batches, epochs=12) for token in (first + second if label == 0 else first)}
    there = {token for document in DOCUMENTS for sentence in document for token in sentence}
    assert len(read) > 0.97 * len(there)  # all but lone tokens at the ends of documents


def test_proportions_of_masking():
    """15 % of the ordinary tokens are to be predicted: 80 % of them masked, 10 % another token, 10 % as they were."""
    batches = make(sequence_length=128)
    counts = dict.fromkeys(("ordinary", "chosen", "masked", "same", "other"), 0)
    others = []
    for step in range(60 * batches.steps_per_epoch):
        batch = whole(batches, step)
        if batch.num_rows < batches.batch_size:
            continue
        real = batch.attention_mask.bool()
        chosen = batch.labels != -100
        original = torch.where(chosen, batch.labels, batch.input_ids)
        counts["ordinary"] += int((real & (original >= 5)).sum())
        counts["chosen"] += int(chosen.sum())
        counts["masked"] += int((batch.input_ids[chosen] == MASK).sum())
        counts["same"] += int((batch.input_ids[chosen] == batch.labels[chosen]).sum())
        other = chosen & (batch.input_ids != MASK) & (batch.input_ids != batch.labels)
        counts["other"] += int(other.sum())
        others += batch.input_ids[other].tolist()
        assert batch.num_tokens == int(chosen.sum())
    share = {name: count / counts["chosen"] for name, count in counts.items()}
    assert counts["chosen"] > 20_000
    assert 0.145 < 1 / share["ordinary"] < 0.155
    assert 0.79 < share["masked"] < 0.81
    assert 0.09 < share["same"] < 0.11
    assert 0.09 < share["other"] < 0.11
    assert min(others) >= 5  # never a special token
    quarters = np.histogram(others, bins=4, range=(5, VOCAB))[0] / len(others)
    assert (abs(quarters - 0.25) < 0.03).all()  # of the whole vocabulary, not only of the text


@pytest.mark.parametrize("mask_probability", [0.01, 0.15, 0.5, 1.0])
def test_special_tokens_are_never_masked_and_every_row_has_something_to_predict(mask_probability):
    documents = [[[UNK if token % 3 == 0 else token for token in sentence] for sentence in document] for document in DOCUMENTS]
    documents = [[[*sentence, 5] for sentence in document] for document in documents]
    batches = make(documents, mask_probability=mask_probability)
    for step in range(2 * batches.steps_per_epoch):
        batch = whole(batches, step)
        predicted = batch.labels[: batch.num_rows]
        assert predicted[predicted != -100].min() >= 5
        assert ((predicted != -100).sum(dim=1) >= 1).all()
        if mask_probability == 1.0:
            assert (predicted[batch.attention_mask[: batch.num_rows].bool()] != -100).float().mean() > 0.5


def test_masks_and_pairs_are_drawn_anew_every_epoch_and_for_every_seed():
    seen = set()
    for seed in (1, 2):
        batches = make(seed=seed)
        for epoch in (0, 1, 2):
            steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
            rows = [row for step in steps for row in whole(batches, step).input_ids.tolist()]
            seen.add(str(rows))  # in their order
            seen.add(str(sorted(rows)))
    assert len(seen) == 12


def test_a_batch_depends_on_its_step_alone():
    wandering, fresh = make(), make()
    ordered = [whole(fresh, step) for step in range(40)]
    for step in np.random.default_rng(0).permutation(40).tolist():
        assert all(torch.equal(a, b) for a, b in zip(whole(wandering, step)[:5], ordered[step][:5], strict=True))


def test_what_becomes_of_a_chunk_does_not_depend_on_the_batch_size():
    few, many = make(batch_size=2), make(batch_size=16)
    assert sorted(map(str, rows_of(few))) == sorted(map(str, rows_of(many)))


@pytest.mark.parametrize("shares", [(4, 4), (2, 2, 2, 2), (1, 3, 4), (8, 0)])
def test_shares_of_processes_and_accumulation_make_up_the_batch(shares):
    batches = make()
    edges = list(itertools.accumulate(shares, initial=0))
    for step in range(batches.steps_per_epoch):
        expected = whole(batches, step)
        parts = [make().batch(step, slice(start, stop)) for start, stop in itertools.pairwise(edges)]
        for name in ("input_ids", "token_type_ids", "attention_mask", "labels", "next_sentence_label"):
            assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(expected, name))
        assert {(part.num_tokens, part.num_rows) for part in parts} == {(expected.num_tokens, expected.num_rows)}


def test_rows_that_fill_the_last_step_are_not_counted():
    batches = make(batch_size=7)
    last = whole(batches, batches.steps_per_epoch - 1)
    assert 0 < last.num_rows < 7
    assert (last.labels[last.num_rows :] == -100).all()
    assert (last.next_sentence_label[last.num_rows :] == -100).all()
    assert (last.attention_mask.sum(dim=1) > 0).all()
    assert sum(whole(batches, step).num_rows for step in range(batches.steps_per_epoch)) == len(list(rows_of(make(batch_size=1))))


def test_lone_sentences_are_cut_in_two():
    rows = list(rows_of(make([[[10, 11, 12, 13]], [[20, 21, 22]], [[30]]], batch_size=1), epochs=30))
    assert {tuple(first) for first, *_ in rows} == {(10, 11), (20,)}
    assert {tuple(second) for *_, second, label in rows if label == 0} == {(12, 13), (21, 22)}
    assert {label for *_, label in rows} == {0, 1}


def test_long_sentences_are_cut_to_fit():
    for first, second, _ in rows_of(make([[list(range(5, 500))], [list(range(500, 900))]], sequence_length=16), epochs=2):
        assert 0 < len(first) <= 13
        assert 0 < len(second) <= 13
        assert len(first) + len(second) <= 13


def test_what_cannot_make_pairs_is_refused():
    with pytest.raises(UserError, match="the text has 1; give a source with more documents"):
        make(DOCUMENTS[:1])
    with pytest.raises(UserError, match=r"data\.sequence_length is 7; .* at least 8"):
        make(sequence_length=7)
    with pytest.raises(UserError, match="no sentence of two tokens"):
        make([[[7]], [[8]]])
    with pytest.raises(UserError, match="has no cls_token, sep_token, mask_token"):
        MaskingTokens.of(build_tokenizer(ProcessorSection(), [Piece(0, "abc")]))


def test_a_batch_moves_to_a_device():
    batch = whole(make(), 0).to("meta")
    assert {getattr(batch, name).device.type for name in batch._fields[:5]} == {"meta"}
    assert batch.num_rows == 8


@pytest.mark.parametrize("kind", ["byte_bpe", "word", "character", "symbols"])
def test_text_of_any_tokenizer_becomes_masked_pairs(kind):
    texts = ["The cat sat here. The dog ran there! All was well. So it went on.", "Rain fell. Nobody came. It was dark. The end came."]
    pieces = [Piece(number, text) for number, text in enumerate(texts)]
    tokenizer = with_masked_lm_tokens(build_tokenizer(ProcessorSection(tokenizer=kind, vocab_size=300), pieces))
    special = MaskingTokens.of(tokenizer)
    batches = MaskedBatches(encode_sentences(pieces, tokenizer), special, batch_size=2, sequence_length=32, seed=0)
    batch = whole(batches, 0)
    assert (batch.input_ids == tokenizer.mask_token_id).any()
    for row, types in zip(unmasked(batch), batch.token_type_ids, strict=True):
        first = tokenizer.decode([token for token, second in zip(row, types.tolist(), strict=False) if not second], skip_special_tokens=True)
        assert any(first.strip() in text for text in texts)
