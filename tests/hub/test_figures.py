import numpy as np
import pytest

from hflab.hub.figures import _points, draw_learning_curve, tokens_at

METRICS = [
    {"kind": "train", "step": 10, "tokens": 100, "bits_per_character": 5.0},
    {"kind": "evaluation", "step": 15, "split": "validation", "bits_per_character": 4.5},
    {"kind": "train", "step": 20, "tokens": 300, "bits_per_character": 4.0},
    {"kind": "train", "step": 30, "tokens": 500, "bits_per_character": float("nan")},
    {"kind": "evaluation", "step": 30, "split": "validation", "bits_per_character": 3.5},
]


def test_tokens_between_logged_steps_are_interpolated():
    assert tokens_at(METRICS, [0, 5, 10, 15, 20, 40]) == [0, 50, 100, 200, 300, 500]


def test_training_means_lie_in_the_middle_of_what_they_are_means_of():
    assert _points(METRICS, "train", units_per_token=2.0).tolist() == [[100, 5.0], [400, 4.0]]
    assert _points(METRICS, "evaluation", units_per_token=2.0).tolist() == [[400, 4.5], [1000, 3.5]]


@pytest.mark.parametrize("metrics", [[], METRICS[:1], METRICS[:2]])
def test_nothing_to_draw_leaves_no_picture(tmp_path, metrics):
    path = tmp_path / "curve.png"
    path.write_bytes(b"an earlier one")
    assert not draw_learning_curve(metrics, 1.0, path)
    assert not path.exists()


def test_last_evaluation_on_another_split_is_no_part_of_the_curve(tmp_path):
    pictures = []
    for extra in ([], [{"kind": "evaluation", "step": 30, "split": "test", "bits_per_character": 9.0}]):
        assert draw_learning_curve([*METRICS, *extra], 1.0, tmp_path / "curve.png")
        pictures.append((tmp_path / "curve.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert np.frombuffer(pictures[0][:8], dtype=np.uint8).tolist() == [137, 80, 78, 71, 13, 10, 26, 10]  # a PNG file
