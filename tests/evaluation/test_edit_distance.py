import random
from functools import cache

import pytest

from hflab.evaluation.edit_distance import edit_distance, edits_to_nearest


def by_definition(a, b):
    """The recursion of the definition, remembered."""

    @cache
    def distance(i, j):
        if i == 0 or j == 0:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return distance(len(a), len(b))


@pytest.mark.parametrize("num_symbols", [1, 2, 3, 10])
@pytest.mark.parametrize("longest", [1, 3, 8, 40, 130])  # 130: beyond one and two machine words
def test_distance_is_that_of_the_definition(num_symbols, longest):
    generator = random.Random(num_symbols * 1000 + longest)
    for _ in range(40):
        a, b = (tuple(generator.choices(range(num_symbols), k=generator.randint(0, longest))) for _ in range(2))
        assert edit_distance(a, b) == by_definition(a, b)


def test_texts_and_lists_of_symbols():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3
    assert edit_distance("", "") == 0
    assert edit_distance(["AE", "B", "IY"], ["AH", "B"]) == 2
    assert edit_distance("我爱机器", "我爱机") == 1


def test_nearest_reference_is_the_one_of_fewest_edits_and_of_several_the_longest():
    assert edits_to_nearest("abc", ["xyz", "abd", "abcdefgh"]) == (1, 3)
    assert edits_to_nearest("abc", ["ab", "abcd"]) == edits_to_nearest("abc", ["abcd", "ab"]) == (1, 4)
    with pytest.raises(ValueError, match="empty"):
        edits_to_nearest("abc", [])
