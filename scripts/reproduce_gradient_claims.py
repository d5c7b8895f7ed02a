"""What is told about gradients through time, measured: plain RNN, NVSI, GRU, LSTM and mini-Transformer, at initialisation and after training.

python scripts/reproduce_gradient_claims.py --output gradient_claims      # 8 minutes of processor time, 23 on two cores with much else to do

Trains each on the characters of Shakespeare's plays with several seeds, measures ∂h_t/∂h_k and ∂loss_t/∂input_k on held-out text before and after,
and writes a page, pictures and numbers; prints the summary and the claims as a table. Needs: pip install 'hflab[shakespeare]'
"""

import argparse
import time
from pathlib import Path

import hflab
from hflab.laboratory.gradient_claims import judge_claims
from hflab.laboratory.gradient_files import check_folder, describe_gradients, write_gradients
from hflab.laboratory.gradients import GradientOptions, GradientReport, measure_runs_together
from hflab.recipe import parse_recipe

RECURRENT = {"family": "recurrent", "hidden_size": 128, "embedding_size": 64}
TRANSFORMER = {"family": "mini_transformer", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "norm_position": "pre"}
MODELS = {cell: {**RECURRENT, "cell_type": cell} for cell in ("rnn", "nvsi", "gru", "lstm")} | {"mini_transformer": TRANSFORMER}
TRAINING = {"batch_size": 32, "learning_rate": 3e-3, "warmup_steps": 50, "optimizer_arguments": {"betas": [0.9, 0.99]}, "device": "cpu"}


def train(name: str, seed: int, num_steps: int, folder: Path) -> Path:
    """Train one model, unless an earlier call has; return its run folder."""
    run = folder / "runs" / f"{name}-{seed}"
    if (run / "model").is_dir():
        return run
    recipe = {
        "description": f"{name} on the characters of Shakespeare's plays.",
        "data": {"source": "shakespeare", "sequence_length": 64, "layout": "windows" if name == "mini_transformer" else "lanes"},
        "model": MODELS[name],
        "training": {**TRAINING, "seed": seed, "num_steps": num_steps, "evaluate_every_steps": 10**9},
        "evaluation": {"max_tokens": 50_000, "sample_tokens": 0},
    }
    return hflab.train(parse_recipe(recipe), output=run.parent, run_name=run.name).path


def main() -> None:
    """Train, measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gradient_claims"), help="folder for page, pictures, numbers and runs")
    parser.add_argument("--num-steps", type=int, default=400, help="optimizer steps of each training")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each model")
    parser.add_argument("--steps", type=int, default=64, help="tokens that gradients go back over")
    options = parser.parse_args()
    check_folder(options.output)
    started, chosen, models = time.perf_counter(), GradientOptions(steps=options.steps, seeds=options.seeds), []
    for name in MODELS:
        runs = [train(name, seed, options.num_steps, options.output) for seed in range(1, options.seeds + 1)]
        models.append(measure_runs_together(name, runs, chosen))
        print(f"{name}: {time.perf_counter() - started:,.0f} s", flush=True)
    report = GradientReport(tuple(models), judge_claims(models), chosen)
    written = write_gradients(report, options.output)
    print(f"\n{describe_gradients(models, ())}\n\n| claim | when | measured | verdict |\n|---|---|---|---|")
    for verdict in report.verdicts:
        print(f"| {verdict.claim} | {verdict.stage} | {verdict.measured} | {verdict.verdict} |")
    print(f"\n{written.page}, after {time.perf_counter() - started:,.0f} s")


if __name__ == "__main__":
    main()
