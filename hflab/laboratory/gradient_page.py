"""What was found about gradients as one HTML page that needs nothing else: no network, no other file, no script.

Knows the numbers and the pictures, nothing of models. Its look is that of the page about a recognizer, by the same style sheet.
"""

import base64
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from .gradient_claims import FAILS, HOLDS, PARTLY, Verdict, short
from .gradient_figures import MARKED_STEPS, QUANTITIES, TENTH, Curve, ModelGradients, Stage

STYLES = {HOLDS: "holds", PARTLY: "part", FAILS: "fails"}
SIGNS = {
    "hidden": "∂h<sub>t</sub>/∂h<sub>k</sub>",
    "cell": "∂c<sub>t</sub>/∂c<sub>k</sub>",
    "path": "∏ f<sub>j</sub>",
    "loss": "∂loss<sub>t</sub>/∂input<sub>k</sub>",
}


@dataclass(frozen=True)
class Pictures:
    """The pictures of a page, for a light and a dark one; still ones as PNG, the animations as GIF. Keys are quantities or names of models."""

    decays: dict[str, tuple[bytes, bytes]]
    maps: dict[str, tuple[bytes, bytes]]
    spectrum: tuple[bytes, bytes] | None
    animations: dict[str, tuple[bytes, bytes, bytes, bytes]]
    """Moving and still, each light and dark."""


def write_gradient_page(models: Sequence[ModelGradients], verdicts: Sequence[Verdict], options: Any, pictures: Pictures) -> str:
    """Return the page about `models`; `options` are the `GradientOptions` that they were measured with."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["subscripts"] = _subscripts
    own, shared = resources.files(__package__), resources.files("hflab.evaluation")
    template = environment.from_string((own / "gradient_page.html").read_text(encoding="utf-8"))
    style = (shared / "speech_report_style.css").read_text(encoding="utf-8") + (own / "gradient_page.css").read_text(encoding="utf-8")
    return template.render(
        title=", ".join(model.name for model in models),
        models=models,
        options=options,
        notes=[note for model in models for note in model.notes],
        probed=_largest_error(models),
        verdicts=_claims(verdicts),
        tables=[table for quantity in QUANTITIES if (table := _table(models, quantity))["lines"]],
        marked=MARKED_STEPS,
        stages_left_out=any(len(_shown_stages(model, models)) < len(model.stages) for model in models),
        decays=[_picture(files, _decay_alt(models, quantity)) for quantity, files in pictures.decays.items()],
        maps=[_picture(files, f"Maps of the gradients of {name} over t and k") | {"name": name} for name, files in pictures.maps.items()],
        animations=[_animation(files, name) for name, files in pictures.animations.items()],
        steps=_steps(models),
        spectrum=None if pictures.spectrum is None else _picture(pictures.spectrum, "Singular values of one step, the largest first"),
        style=style,
    )


def _subscripts(text: str) -> Markup:
    """`text` as HTML, with t of h_t below the line."""
    return Markup(re.sub(r"_(\w)", r"<sub>\1</sub>", str(escape(text))))


def _shown_stages(model: ModelGradients, models: Sequence[ModelGradients]) -> Sequence[Stage]:
    """The stages in a table: all of one model, the beginning and the end of several."""
    return model.stages if len(models) == 1 or len(model.stages) == 1 else (model.stages[0], model.stages[-1])


def _picture(files: tuple[bytes, bytes], alt: str) -> dict[str, str]:
    return {"light": _embedded(files[0]), "dark": _embedded(files[1]), "alt": alt}


def _animation(files: tuple[bytes, bytes, bytes, bytes], name: str) -> dict[str, str]:
    moving, still = _picture(files[:2], f"How the decay of the gradients of {name} changes in training"), _picture(files[2:], "")
    return moving | {"still": still["light"], "still_dark": still["dark"]}


def _embedded(file: bytes) -> str:
    kind = "gif" if file.startswith(b"GIF") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(file).decode('ascii')}"


def _largest_error(models: Sequence[ModelGradients]) -> str:
    """The largest standard error of an estimate by random vectors, as a share; empty where all is exact."""
    errors = [_probe_error(curve) for model in models for stage in model.stages for curve in stage.curves]
    known = [error for error in errors if error is not None]
    return f"{100 * max(known):.1f} %" if known else ""


def _probe_error(curve: Curve) -> float | None:
    return None if curve.relative_error is None else float(curve.relative_error.max())


def _claims(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """The claims in their order, each with its verdicts."""
    return [
        {
            "text": text,
            "rule": rule,
            "verdicts": [
                {"stage": one.stage, "verdict": one.verdict, "measured": one.measured, "style": STYLES.get(one.verdict, "unknown")} for one in group
            ],
        }
        for (text, rule), group in itertools.groupby(verdicts, key=lambda one: (one.claim, one.rule))
    ]


def _table(models: Sequence[ModelGradients], quantity: str) -> dict[str, Any]:
    lines = [_line(model, stage, stage.curve(quantity)) for model in models for stage in _shown_stages(model, models) if stage.has(quantity)]
    return {"sign": SIGNS[quantity], "words": QUANTITIES[quantity].words, "lines": lines}


def _line(model: ModelGradients, stage: Stage, curve: Curve) -> dict[str, Any]:
    mark = "" if curve.relative_error is None else "≈ "
    left = []
    for steps in MARKED_STEPS:
        interval = curve.interval_after(steps)
        value = curve.after(steps)
        shown = "" if interval is None else f"{short(interval[0])} to {short(interval[1])}"
        left.append({"value": "not measured" if value is None else mark + short(value), "interval": shown})
    layer = f", layer {curve.layer}" if curve.layer is not None and len(stage.layers) > 1 else ""
    return {"model": model.name, "stage": stage.name + layer, "half": steps_text(curve, 0.5), "tenth": steps_text(curve, TENTH), "left": left}


def steps_text(curve: Curve, share: float) -> str:
    """Steps until `share` is left, or that it is more than were measured."""
    steps = curve.steps_to(share)
    return f"over {curve.num_steps:,}" if steps is None else f"{steps:,.1f}"


def _steps(models: Sequence[ModelGradients]) -> list[dict[str, Any]]:
    lines = []
    for model in models:
        for stage in _shown_stages(model, models):
            for layer in stage.layers:
                ends = layer.spectral_radius_interval
                gates = [f"{name} {gate.mean:.2f}, {gate.nearly_shut:.1%}, {gate.nearly_open:.1%}" for name, gate in layer.gates.items()]
                values = layer.singular_values
                lines.append(
                    {
                        "model": model.name,
                        "stage": stage.name,
                        "layer": layer.layer,
                        "radius": f"{layer.spectral_radius:.3f}",
                        "interval": "" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}",
                        "largest": f"{values[0]:.3f}",
                        "median": f"{values[len(values) // 2]:.3f}",
                        "gates": gates,
                    }
                )
    return lines


def _decay_alt(models: Sequence[ModelGradients], quantity: str) -> str:
    """The curves in words, for those who do not see them."""
    parts = []
    for model in models:
        if model.stages[-1].has(quantity):
            curve = model.stages[-1].curve(quantity)
            parts.append(f"{model.name}: half after {steps_text(curve, 0.5)} steps, a tenth after {steps_text(curve, TENTH)}")
    return f"Decay of {QUANTITIES[quantity].sign} with distance. {'; '.join(parts)}."
