import random
from collections import Counter

import pytest

from hflab.data.example_splits import Example, group_by_source, linked_keys, split_by_hash, take_few

PAIRS = [Example(f"source {number % 700}", f"target {number}") for number in range(1000)]


def test_shares_are_met_nothing_is_lost_and_equal_inputs_stay_together():
    splits = split_by_hash(PAIRS, {"validation": 0.2, "test": 0.1})
    assert Counter(example for examples in splits.values() for example in examples) == Counter(PAIRS)
    inputs = {name: {example.input for example in examples} for name, examples in splits.items()}
    assert not inputs["train"] & inputs["validation"] | inputs["train"] & inputs["test"] | inputs["validation"] & inputs["test"]
    assert 0.16 < len(inputs["validation"]) / 700 < 0.24
    assert 0.07 < len(inputs["test"]) / 700 < 0.13
    assert all(examples == sorted(examples, key=PAIRS.index) for examples in splits.values())


def test_the_split_of_a_row_changes_neither_with_other_rows_nor_with_their_order():
    before = {example: name for name, examples in split_by_hash(PAIRS, {"validation": 0.3}).items() for example in examples}
    fewer = random.Random(0).sample(PAIRS, 300)
    after = {example: name for name, examples in split_by_hash(fewer, {"validation": 0.3}).items() for example in examples}
    assert after == {example: before[example] for example in fewer}


def test_words_are_drawn_as_a_whole_row_and_a_share_of_zero_makes_no_split():
    rows = [Example(["a", "b"], ["X", "Y"]), Example(["a b"], ["X"])]
    assert split_by_hash(rows, {"validation": 0.0}) == {"train": rows}


def test_pairs_that_share_a_text_directly_or_through_others_are_linked():
    pairs = [Example("b", "1"), Example("c", "2"), Example("a", "1"), Example("c", "3"), Example("d", "3"), Example("1", "z")]
    assert linked_keys(pairs) == ["a", "c", "a", "c", "c", "1"]  # a source and a target of one spelling are no link
    shuffled = random.Random(1).sample(pairs, len(pairs))
    assert dict(zip(shuffled, linked_keys(shuffled), strict=True)) == dict(zip(pairs, linked_keys(pairs), strict=True))


def test_links_agree_with_a_plain_search():
    generator = random.Random(2)
    pairs = [Example(f"s{generator.randrange(60)}", f"t{generator.randrange(60)}") for _ in range(50)]
    for first in pairs:
        reached, size = {first}, 0
        while len(reached) > size:
            size = len(reached)
            reached |= {pair for pair in pairs if any(pair.input == other.input or pair.output == other.output for other in reached)}
        keys = dict(zip(pairs, linked_keys(pairs), strict=True))
        assert {pair for pair in pairs if keys[pair] == keys[first]} == reached
        assert keys[first] == min(pair.input for pair in reached)


TEXTS = [Example(f"text {number}", "abc"[min(number % 10, 2)]) for number in range(200)]  # 20 a, 20 b, 160 c


def test_few_labels_are_so_many_of_each_class():
    assert Counter(example.output for example in take_few(TEXTS, seed=1, per_class=30)) == {"a": 20, "b": 20, "c": 30}
    assert Counter(example.output for example in take_few(TEXTS, seed=1, fraction=0.1)) == {"a": 2, "b": 2, "c": 16}
    assert Counter(example.output for example in take_few(TEXTS, seed=1, fraction=0.001)) == {"a": 1, "b": 1, "c": 1}


def test_few_labels_depend_on_seed_and_content_and_fewer_are_a_part_of_more():
    few = take_few(TEXTS, seed=1, per_class=5)
    assert few == [example for example in TEXTS if example in few]
    assert set(take_few(TEXTS[::-1], seed=1, per_class=5)) == set(few)
    assert set(few) < set(take_few(TEXTS, seed=1, per_class=10))
    assert set(take_few(TEXTS, seed=2, per_class=5)) != set(few)
    drawn = Counter(example for seed in range(200) for example in take_few(TEXTS, seed=seed, per_class=5))
    assert min(drawn[example] for example in TEXTS if example.output == "a") > 20  # each of 20 is drawn 50 times of 200


def test_one_way_to_say_how_few():
    with pytest.raises(AssertionError):
        take_few(TEXTS, seed=1)


def test_sources_are_grouped_in_order_with_distinct_targets():
    assert group_by_source([Example("b", "1"), Example("a", "2"), Example("b", "3"), Example("b", "1")]) == [("b", ["1", "3"]), ("a", ["2"])]
