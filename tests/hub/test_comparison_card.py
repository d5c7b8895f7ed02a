import pytest
from PIL import Image

from hflab.cli import main
from hflab.errors import UserError
from hflab.hub.comparison_card import write_comparison
from hflab.run_folder import RunFolder


def evaluation(bits):
    return {"split": "test", "loss": bits, "perplexity": 2.0, "nats_per_character": bits, "bits_per_character": bits, "bits_per_byte": bits}


def counted(bits):
    return evaluation(bits) | {"num_tokens": 10_001, "num_characters": 10_000}


def table(text, head):
    """The rows below the line that begins with `head`, as cells."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {head}"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


@pytest.fixture
def compare(tmp_path):
    def compare(*runs):
        return write_comparison(list(runs), tmp_path / "out" / "comparison.md").read_text()

    return compare


def test_runs_that_differ_in_their_seed_are_one_line(make_run, compare):
    sizes = {64: (2.0, 2.4), 128: (1.5, 1.7)}
    text = compare(
        *(
            make_run({"training": {"seed": seed}, "model": {"hidden_size": size}}, seed=seed, evaluation=counted(bits))
            for size, measured in sizes.items()
            for seed, bits in enumerate(measured, 1)
        )
    )
    first, second = table(text, "runs")
    assert first[:2] == ["plays_gru and 1 more", "2"]
    assert first[-2] == "2.2000 (2.0000 to 2.4000)"
    assert second[-2] == "**1.6000** (1.5000 to 1.7000)"
    assert "**plays_gru-3 and 1 more** is best, 0.6000 ahead" in text
    assert "Each of its runs is better than each of the other's (2 and 2 seeds)" in text
    assert table(text, "setting") == [["`model.hidden_size`", "`64`", "`128`"]]
    assert [row[1] for row in table(text, "run |")] == ["1", "2", "1", "2"]


def test_seeds_that_overlap_and_single_runs_are_no_proof(make_run, compare):
    runs = [make_run({"training": {"seed": seed}}, seed=seed, evaluation=counted(bits)) for seed, bits in ((1, 2.0), (2, 2.4))]
    other = make_run({"model": {"hidden_size": 128}}, evaluation=counted(2.1))
    assert "is a single run" in compare(*runs, other)
    second = make_run({"model": {"hidden_size": 128}, "training": {"seed": 9}}, seed=9, evaluation=counted(2.2))
    assert "chance may have decided" in compare(*runs, other, second)
    assert "differ in their seeds alone" in compare(*runs)


def test_figures_of_other_data_are_neither_best_nor_silent(make_run, compare):
    first = make_run(evaluation=counted(2.0))
    facts = RunFolder(first).read_facts()
    other = make_run({"model": {"hidden_size": 8}}, evaluation=counted(1.0), data=facts["data"] | {"fingerprint": "0" * 32})
    text = compare(first, other)
    assert "do not compare" in text
    assert "none can be called the best" in text
    assert [row[-2] for row in table(text, "runs")] == ["**2.0000**", "1.0000"]


def test_the_picture_shows_the_runs(make_run, compare, tmp_path):
    text = compare(make_run(), make_run({"model": {"hidden_size": 8}}))
    assert "](comparison.png)" in text
    colors = {color for _, color in Image.open(tmp_path / "out" / "comparison.png").convert("RGB").getcolors(1 << 20)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colors


def test_mistakes(make_run, compare, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run()
    with pytest.raises(UserError, match="at least two"):
        compare(run)
    with pytest.raises(UserError, match="of one task"):
        compare(run, make_run({"task": "masked_lm", "data": {"source": "text"}}))
    with pytest.raises(UserError, match="not a run folder"):
        compare(run, tmp_path)
    unmeasured = make_run(evaluation=None)
    (unmeasured / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="not evaluated yet"):
        compare(run, unmeasured)
    assert main(["card", str(run), str(run), "--output", "x.txt"]) == 2
    assert "does not end in .md" in capsys.readouterr().err
    assert main(["card", str(run), "--output", "x.md"]) == 2
    (tmp_path / "file").write_text("")
    assert main(["card", str(run), str(run), "--output", "file/x.md"]) == 2
    assert main(["card", str(run), str(run)]) == 0
    assert capsys.readouterr().out == "comparison.md\n"
