from itertools import pairwise

import pytest
import torch

from hflab.speech.ctc_decoding import CtcAlphabet, greedy_decode
from hflab.speech.ctc_greedy_stream import GreedyStream

LETTERS = CtcAlphabet(("", "", "", "a", "b", "c"), blank=0, word_delimiter=2)  # 1 is a special token
CHARACTERS = CtcAlphabet(("", "", "我", "们", "好", "天"), blank=0)


def random_outputs(num_frames, seed):
    """Logarithms (F, 6) of a softmax; neighbours are alike, so that runs are long."""
    scores = torch.randn(num_frames, 6, generator=torch.Generator().manual_seed(seed))
    return (4 * (scores + scores.roll(1, 0))).log_softmax(-1)


def pieces_of(outputs, longest, seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(0, longest + 1, (len(outputs),), generator=generator).tolist()
    ends = [0, *[end for end in torch.tensor(sizes).cumsum(0).tolist() if end < len(outputs)], len(outputs)]
    return [outputs[start:end] for start, end in pairwise(ends)]


def same(words, others):
    assert [word[:3] for word in words] == [word[:3] for word in others]
    assert [word.confidence for word in words] == pytest.approx([word.confidence for word in others], rel=1e-9)


@pytest.mark.parametrize("alphabet", [LETTERS, CHARACTERS], ids=["letters", "characters"])
@pytest.mark.parametrize("longest", [1, 3, 50])
def test_pieces_have_the_words_of_the_whole(alphabet, longest):
    for seed in range(5):
        outputs = random_outputs(80, seed)
        (whole,) = greedy_decode(outputs[None], torch.tensor([80]), alphabet)
        stream = GreedyStream(alphabet)
        for piece in pieces_of(outputs, longest, seed):
            stream.feed(piece)
        same(stream.words, whole.words)
        assert len(whole.words) > 5
        assert stream.num_frames == 80
        assert stream.num_silent_frames == 80 - whole.words[-1].end


@pytest.mark.parametrize("alphabet", [LETTERS, CHARACTERS], ids=["letters", "characters"])
def test_whole_words_can_be_taken_at_any_time(alphabet):
    outputs = random_outputs(120, 7)
    (whole,) = greedy_decode(outputs[None], torch.tensor([120]), alphabet)
    stream, taken, most_left = GreedyStream(alphabet), [], 0
    for frame in outputs:
        stream.feed(frame[None])
        taken += stream.take(len(stream.words) - 1)
        most_left = max(most_left, len(stream.words))
    same(taken + stream.take(1), whole.words)
    assert stream.words == []
    assert most_left == 1


def test_a_word_that_is_taken_is_ended():
    best = torch.tensor([3, 3, 4, 0, 0, 5])
    outputs = torch.where(torch.nn.functional.one_hot(best, 6).bool(), 0.9, 0.02).log()
    stream = GreedyStream(LETTERS)
    stream.feed(outputs[:5])
    assert [word[:3] for word in stream.take(1)] == [("ab", 0, 3)]
    assert stream.num_silent_frames == 2
    stream.feed(outputs[5:])
    assert [word[:3] for word in stream.words] == [("c", 5, 6)]


def test_broken_outputs_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        GreedyStream(LETTERS).feed(torch.full((2, 6), float("nan")))
    with pytest.raises(ValueError, match="outputs"):
        GreedyStream(LETTERS).feed(torch.zeros(2, 9))
