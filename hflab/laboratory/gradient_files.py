"""A gradient report as files: numbers as JSON and Parquet, pictures, an animation and a page. Knows nothing about models.

gradients.html · gradients.json · gradients.parquet · decay_QUANTITY.png · map_MODEL.png · singular_values.png · training_MODEL.gif
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import UserError
from .gradient_claims import Verdict, short
from .gradient_figures import MARKED_STEPS, QUANTITIES, TENTH, ModelGradients, Stage, as_json, map_rows
from .gradient_page import Pictures, steps_text, write_gradient_page
from .gradient_pictures import DARK, LIGHT, draw_decay, draw_maps, draw_singular_values, draw_training
from .gradients import GradientOptions, GradientReport

DRAWN = ("hidden", "cell", "loss")


@dataclass(frozen=True)
class WrittenGradients:
    """What was found, and the files that hold it."""

    models: tuple[ModelGradients, ...]
    verdicts: tuple[Verdict, ...]
    options: GradientOptions
    page: Path
    files: tuple[Path, ...]
    """All but the page: pictures and numbers."""


def check_folder(folder: Path) -> None:
    """Make the folder and see that it can be written to, before any work. Raises `UserError` if not."""
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _not_writable(folder, error) from None


def _not_writable(folder: Path, error: OSError) -> UserError:
    return UserError(f"Nothing can be written into {folder}: {error.strerror or error}; choose another folder with --output.")


def write_gradients(report: GradientReport, folder: Path) -> WrittenGradients:
    """Write everything into `folder`; only files of the same names are replaced. Raises `UserError` when it cannot be written to."""
    models, verdicts = report.models, report.verdicts
    pictures = draw_pictures(models)
    page = write_gradient_page(models, verdicts, report.options, pictures)
    files = {f"decay_{quantity}.png": both[0] for quantity, both in pictures.decays.items()}
    files |= {f"map_{_slug(name)}.png": both[0] for name, both in pictures.maps.items()}
    files |= {} if pictures.spectrum is None else {"singular_values.png": pictures.spectrum[0]}
    files |= {f"training_{_slug(name)}.gif": animation[0] for name, animation in pictures.animations.items()}
    files["gradients.json"] = json.dumps(_numbers(report), indent=1, ensure_ascii=False).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        _write_parquet(models, folder / "gradients.parquet")
        (folder / "gradients.html").write_text(page, encoding="utf-8")
    except OSError as error:
        raise _not_writable(folder, error) from None
    paths = tuple(folder / name for name in (*files, "gradients.parquet"))
    return WrittenGradients(models, verdicts, report.options, folder / "gradients.html", paths)


def draw_pictures(models: Sequence[ModelGradients]) -> Pictures:
    """All pictures, for a light and a dark page."""
    decays = {}
    for quantity in DRAWN:
        light, dark = draw_decay(models, quantity, LIGHT), draw_decay(models, quantity, DARK)
        if light is not None and dark is not None:
            decays[quantity] = (light, dark)
    animations = {}
    for model in models:
        in_light, in_dark = draw_training(model, LIGHT), draw_training(model, DARK)
        if in_light is not None and in_dark is not None:
            animations[model.name] = (in_light[0], in_dark[0], in_light[1], in_dark[1])
    light, dark = draw_singular_values(models, LIGHT), draw_singular_values(models, DARK)
    return Pictures(
        decays=decays,
        maps={model.name: (draw_maps(model, LIGHT), draw_maps(model, DARK)) for model in models},
        spectrum=None if light is None or dark is None else (light, dark),
        animations=animations,
    )


def _slug(name: str) -> str:
    """A name as part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_.") or "model"


def _numbers(report: GradientReport) -> dict[str, Any]:
    return {
        "hflab": __version__,
        "options": asdict(report.options),
        "claims": [asdict(verdict) for verdict in report.verdicts],
        "quantities": {name: asdict(quantity) for name, quantity in QUANTITIES.items()},
        "models": [as_json(model) for model in report.models],
    }


def _write_parquet(models: Sequence[ModelGradients], path: Path) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    whole, text, number = arrow.int32(), arrow.string(), arrow.float64()
    kinds = {"model": text, "stage": text, "quantity": text, "value": number, "standard_error": number}
    columns = {name: arrow.array(values, kinds.get(name, whole)) for name, values in map_rows(models).items()}
    parquet.write_table(arrow.table(columns), path)


def describe_gradients(models: Sequence[ModelGradients], verdicts: Sequence[Verdict]) -> str:
    """A plain summary for a terminal."""
    parts = ["\n".join([f"{model.name}: {model.description}", *_stage_lines(model), *(f"  {note}" for note in model.notes)]) for model in models]
    parts += [f"{verdict.claim} ({verdict.stage}) {verdict.verdict.upper()}: {verdict.measured}." for verdict in verdicts]
    return "\n\n".join(parts)


def _stage_lines(model: ModelGradients) -> list[str]:
    heads = ["half-life", "to a tenth", *(f"after {steps}" for steps in MARKED_STEPS)]
    lines = [f"  {'':34}" + "".join(f"{head:>12}" for head in heads)]
    for stage in model.stages:
        lines.append(f"  {stage.name}")
        lines += [f"    {line}" for line in _curve_lines(stage)]
        for layer in stage.layers:
            gates = ", ".join(f"{name} {gate.nearly_shut:.0%}/{gate.nearly_open:.0%}" for name, gate in layer.gates.items())
            told = f"; gates nearly shut/open: {gates}" if gates else ""
            lines.append(f"    layer {layer.layer}: spectral radius of one step {layer.spectral_radius:.3f}{told}")
    return lines


def _curve_lines(stage: Stage) -> list[str]:
    lines = []
    for quantity in QUANTITIES:
        if not stage.has(quantity):
            continue
        curve = stage.curve(quantity)
        layer = f" (layer {curve.layer})" if len(stage.layers) > 1 and curve.layer else ""
        mark = "" if curve.relative_error is None else "≈"
        figures = [steps_text(curve, 0.5), steps_text(curve, TENTH), *(mark + short(curve.after(steps), "-") for steps in MARKED_STEPS)]
        lines.append(f"{QUANTITIES[quantity].sign + layer:32}" + "".join(f"{figure:>12}" for figure in figures))
    return lines
