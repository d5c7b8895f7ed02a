"""What is told about gradients, held against what was measured: claim, figures, verdict. Every verdict follows by the rule that stands beside it.

The claims are those of lecture notes on recurrent networks: a plain RNN forgets after about 10 steps; NVSI keeps 50 and more, its gradient falling to
0.4 over 30 steps where the RNN's falls to 0.001; the additive cell path of an LSTM is a gradient highway (Hochreiter and Schmidhuber 1997); attention
links any two positions directly (Vaswani et al. 2017, section 4). Knows numbers alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .gradient_figures import TENTH, ModelGradients, Stage

HOLDS, PARTLY, FAILS, UNDECIDED = "holds", "holds in part", "does not hold", "cannot be judged"
FAR = 30  # steps
FORGETS_WITHIN = (5.0, 20.0)  # "about 10" is taken as from half to twice as many
KEEPS = 50
NVSI_LEFT, RNN_LEFT = 0.4, 0.001
NVSI_FACTOR, RNN_FACTOR = 2.0, 10.0  # by which a figure may differ from what is claimed of it
TIMES_MORE = 10.0


@dataclass(frozen=True)
class Verdict:
    """One claim at one point of training."""

    claim: str
    rule: str
    stage: str
    models: tuple[str, ...]
    measured: str
    verdict: str


@dataclass(frozen=True)
class _Claim:
    text: str
    rule: str
    kinds: tuple[str, ...]
    """Of which kinds of model it speaks."""
    judge: Callable[[dict[str, Stage]], tuple[str, str]]
    """From a stage of each kind that there is, the first of `kinds` at least, to what was measured and the verdict."""


def judge_claims(models: Sequence[ModelGradients]) -> tuple[Verdict, ...]:
    """The verdict on each claim that speaks of one of `models`, at the beginning and at the end of their training.

    Of several models of a kind the first is taken.
    """
    # a model that reads both ways, and a classifier of one loss, have no state or no losses over t that a claim speaks of
    first = {model.kind: model for model in reversed(models) if model.kind == "attention" or model.stages[-1].has("hidden")}
    found = []
    for claim in CLAIMS:
        if claim.kinds[0] not in first:
            continue
        taken = [first[kind] for kind in claim.kinds if kind in first]
        for at, number in (("first", 0), ("last", -1)):
            if at == "last" and all(len(model.stages) == 1 for model in taken):
                continue
            stages = {model.kind: model.stages[number] for model in taken}
            names = dict.fromkeys(stage.name for stage in stages.values())
            measured, verdict = claim.judge(stages)
            found.append(Verdict(claim.text, claim.rule, ", ".join(names), tuple(model.name for model in taken), measured, verdict))
    return tuple(found)


def short(value: float | None, beyond: str = "unknown") -> str:
    """A number as a reader wants it: two digits, powers of ten where it is small."""
    if value is None:
        return beyond
    if value == 0:
        return "0"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.2g}" if abs(value) < 10 else f"{value:,.0f}"


def _steps(value: float | None, most: int) -> str:
    return f"more than {most} steps" if value is None else f"{value:.1f} steps"


def _rnn_forgets(stages: dict[str, Stage]) -> tuple[str, str]:
    curve = stages["rnn"].curve("hidden")
    steps = curve.steps_to(TENTH)
    if steps is None and curve.num_steps < FORGETS_WITHIN[1]:
        return f"more than a tenth is left after {curve.num_steps} steps, the most measured", UNDECIDED
    low, high = FORGETS_WITHIN
    return f"a tenth is left after {_steps(steps, curve.num_steps)}", HOLDS if steps is not None and low <= steps <= high else FAILS


def _nvsi_keeps(stages: dict[str, Stage]) -> tuple[str, str]:
    curve = stages["nvsi"].curve("hidden")
    steps = curve.steps_to(TENTH)
    measured = f"a tenth is left after {_steps(steps, curve.num_steps)}"
    if steps is None:
        return measured, HOLDS if curve.num_steps >= KEEPS else UNDECIDED
    return measured, HOLDS if steps >= KEEPS else FAILS


def _nvsi_beats_rnn(stages: dict[str, Stage]) -> tuple[str, str]:
    left = {kind: stages[kind].curve("hidden").after(FAR) if kind in stages else None for kind in ("nvsi", "rnn")}
    measured = f"NVSI {short(left['nvsi'], 'not measured')}, RNN {short(left['rnn'], 'not measured')} after {FAR} steps"
    if left["nvsi"] is None or left["rnn"] is None:
        return measured, UNDECIDED
    nvsi = NVSI_LEFT / NVSI_FACTOR <= left["nvsi"] <= NVSI_LEFT * NVSI_FACTOR
    rnn = RNN_LEFT / RNN_FACTOR <= left["rnn"] <= RNN_LEFT * RNN_FACTOR
    return measured, HOLDS if nvsi and rnn else PARTLY if nvsi or rnn else FAILS


def _highway(stages: dict[str, Stage]) -> tuple[str, str]:
    lstm = stages["lstm"]
    cell, path, hidden = (lstm.curve(quantity).after(FAR) for quantity in ("cell", "path", "hidden"))
    rnn = stages["rnn"].curve("hidden").after(FAR) if "rnn" in stages else None
    measured = f"∂c_t/∂c_k {short(cell)}, its forget gates alone {short(path)}, ∂h_t/∂h_k {short(hidden)} after {FAR} steps"
    if rnn is not None:
        measured += f"; RNN {short(rnn)}"
    if cell is None:
        return f"fewer than {FAR} steps were measured", UNDECIDED
    if cell >= TENTH:
        return measured, HOLDS
    return measured, PARTLY if rnn is not None and cell >= TIMES_MORE * rnn else FAILS


def _attention_links(stages: dict[str, Stage]) -> tuple[str, str]:
    left = stages["attention"].curve("loss").after(FAR)
    if left is None:
        return f"fewer than {FAR + 1} steps were measured", UNDECIDED
    others = {kind: stage.curve("loss").after(FAR) for kind, stage in stages.items() if kind != "attention"}
    beside = "".join(f", {kind.upper()} {short(value)}" for kind, value in others.items() if value is not None)
    return f"attention {short(left)}{beside} of the gradient at distance 1 is left at distance {FAR + 1}", HOLDS if left >= TENTH else FAILS


CLAIMS = (
    _Claim(
        "A plain RNN forgets after about 10 steps.",
        f"Holds if ∂h_t/∂h_k falls to a tenth within {FORGETS_WITHIN[0]:g} to {FORGETS_WITHIN[1]:g} steps.",
        ("rnn",),
        _rnn_forgets,
    ),
    _Claim("NVSI keeps 50 steps and more.", f"Holds if more than a tenth of ∂h_t/∂h_k is left after {KEEPS} steps.", ("nvsi",), _nvsi_keeps),
    _Claim(
        f"Over {FAR} steps NVSI's gradient falls to {NVSI_LEFT:g}, the RNN's to {RNN_LEFT:g}.",
        f"Holds if NVSI's ∂h_t/∂h_k is within a factor of {NVSI_FACTOR:g}, and the RNN's within one of {RNN_FACTOR:g}; in part if one of the two is.",
        ("nvsi", "rnn"),
        _nvsi_beats_rnn,
    ),
    _Claim(
        "The additive cell path of an LSTM is a gradient highway.",
        f"Holds if a tenth or more of ∂c_t/∂c_k is left after {FAR} steps; in part if less, but {TIMES_MORE:g} times what a plain RNN has left.",
        ("lstm", "rnn"),
        _highway,
    ),
    _Claim(
        "Attention links any two positions directly.",
        f"Holds if ∂loss_t/∂input_k is at distance {FAR + 1} a tenth or more of what it is at distance 1.",
        ("attention", "rnn", "nvsi", "gru", "lstm"),
        _attention_links,
    ),
)
