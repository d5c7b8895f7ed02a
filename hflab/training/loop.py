"""The training loop: the only one. Forward, backward, clip and step stand in `_optimizer_step`, in this order.

    run = train(load_recipe("char_lstm_shakespeare"), name="char_lstm_shakespeare")
    run = resume(Path("runs/bpe_lstm_shakespeare"))

It knows nothing about text or models (task.py and the tasks do), about cards or about the command line. Under `accelerate launch` every process runs
this code; the first one alone writes the run folder.
"""

import math
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from safetensors.torch import load_model, save_model
from torch import Tensor

from ..errors import UserError
from ..evaluation.model_properties import innermost
from ..recipe import Recipe
from ..run_folder import RunFolder
from .checkpoints import load_checkpoint, raise_if_disk_full, save_checkpoint
from .energy import measured_energy
from .facts import git_state, hardware_facts, package_versions
from .gradient_norms import gradient_norms
from .interruption import TrainingInterrupted, catch_interruption
from .model_folder import model_facts, save_model_folder
from .optimization import learning_rate_at
from .session import Session, build_accelerator, open_session, prepare_task, reset_sums
from .tasks import check_recipe

DEFAULT_EVALUATIONS = 10  # over the budget, where training.evaluate_every_steps is not given


def train(recipe: Recipe, *, name: str, output: Path = Path("runs"), run_name: str | None = None, command: str = "") -> RunFolder:
    """Train `recipe` in a new run folder below `output` and return it; see `RunFolder` for what it holds.

    Args:
        recipe: What to train.
        name: Name of the recipe, for the folder and the card.
        output: Folder of all runs.
        run_name: Name of the run's folder; default: `name`, with a number when that is taken.
        command: The command that started the run, for run.json.

    Raises:
        UserError: a choice of the recipe does not exist or does not fit the data; full disk; a loss that is no number.
        TrainingInterrupted: the run was asked to stop (Ctrl-C, SIGTERM); it is saved and can be resumed.
    """
    check_recipe(recipe)
    accelerator = build_accelerator(recipe, output)
    task = prepare_task(recipe, accelerator)
    run = _share_folder(accelerator, lambda: RunFolder.create(output, run_name, name))
    try:
        with run.locked() if accelerator.is_main_process else nullcontext(), catch_interruption() as interruption:
            session = open_session(recipe, run, accelerator, task, interruption)
            if accelerator.is_main_process:
                recipe.save(run.recipe_file)
                _write_first_facts(session, name, command)
            _run(session)
    except UserError:
        if accelerator.is_main_process:
            run.remove_if_empty()  # a mistake in the model section is found when the model is built
        raise
    return run


def resume(path: Path, overrides: dict[str, Any] | None = None) -> RunFolder:
    """Continue an interrupted run exactly where its last checkpoint stands, or from the start when it has none.

    On the CPU the result equals that of an uninterrupted run bit for bit, unless the budget is in seconds. `overrides` may change keys that
    decide only how long the run goes on and what it shows (`checkpoints.RESUMABLE`).

    Raises:
        UserError: `path` is no run, is in use, or is finished; its data changed; or the checkpoint is of another recipe.
        TrainingInterrupted: as for `train`.
    """
    run = RunFolder.open_existing(path)
    recipe = run.read_recipe(overrides)
    check_recipe(recipe)
    accelerator = build_accelerator(recipe, path)
    with run.locked() if accelerator.is_main_process else nullcontext(), catch_interruption() as interruption:
        task = prepare_task(recipe, accelerator)
        _check_same_data(run, task.prepared.facts)
        session = open_session(recipe, run, accelerator, task, interruption)
        restored = load_checkpoint(run.checkpoints, accelerator, recipe)
        if restored is not None:
            session.progress, session.state = restored
            session.state.carried = [task.unpack_carried(session.bare_model, packed) for packed in session.state.carried]
            _restore_gradients(session)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            run.truncate_metrics(session.progress.metrics_size)
            recipe.save(run.recipe_file)
            run.update_facts(status="running")
        _run(session)
    return run


def _share_folder(accelerator: Accelerator, create: Any) -> RunFolder:
    """Let the first process choose the folder; its mistake is everybody's."""
    answer: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            answer = [create().path]
        except UserError as error:
            answer = [error]
    chosen = broadcast_object_list(answer)[0] if accelerator.num_processes > 1 else answer[0]
    if isinstance(chosen, UserError):
        raise chosen
    return RunFolder(chosen)


def _write_first_facts(session: Session, name: str, command: str) -> None:
    accelerator = session.accelerator
    session.run.update_facts(
        name=session.run.path.name,
        recipe=name,
        command=command,
        status="running",
        seed=session.recipe.training.seed,
        versions=package_versions(),
        git=git_state(Path.cwd()),
        hardware=hardware_facts(accelerator.device, accelerator.num_processes),
        data=session.task.prepared.facts,
    )


def _check_same_data(run: RunFolder, facts: dict[str, Any]) -> None:
    before = run.read_facts().get("data", {}).get("fingerprint", facts["fingerprint"])
    if before != facts["fingerprint"]:
        raise UserError(
            f"The data of {run.path} have changed since it began (fingerprint {before[:12]} then, {facts['fingerprint'][:12]} now); "
            "restore them, or start a new run."
        )


def _run(session: Session) -> None:
    """Train to the end of the budget and write the result, or save and raise when asked to stop."""
    accelerator, run = session.accelerator, session.run
    if session.recipe.tracking.trackers:
        accelerator.project_configuration.logging_dir = str(run.path)
        accelerator.init_trackers(session.recipe.tracking.project, config={}, init_kwargs={"trackio": {"name": run.path.name}})
    session.reporter.start(run.path.name, session.budget_used())
    try:
        country = session.recipe.tracking.country if accelerator.is_main_process else None
        with measured_energy(run, country, num_processes=accelerator.num_processes):
            stopped_by = _train_to_the_end(session)
    except UserError:
        if accelerator.is_main_process:
            run.update_facts(status="failed")
        raise
    except OSError as error:
        raise_if_disk_full(run.path, 0, error)
        raise
    finally:
        session.reporter.close()
    if stopped_by == "interruption":
        _save(session)
        if accelerator.is_main_process:
            run.update_facts(status="interrupted")
        raise TrainingInterrupted(run.path)
    _finish(session, stopped_by)


def _train_to_the_end(session: Session) -> str:
    """Steps, logging, evaluations and checkpoints until the budget ends; returns what ended it."""
    training, progress = session.recipe.training, session.progress
    while session.budget_used() < 1.0:
        used_before = session.budget_used()
        started = time.perf_counter()
        if not _optimizer_step(session):
            return "interruption"
        progress.seconds += time.perf_counter() - started
        session.agree_on_seconds()
        ended = session.budget_used() >= 1.0
        if ended or progress.step % training.log_every_steps == 0:
            _log(session)
        if not ended and _evaluation_is_due(session, used_before):
            _evaluate(session)
            if _patience_is_over(session):
                return "early stopping"
            if training.checkpoint_every_steps is None:
                _save(session)
        if training.checkpoint_every_steps and progress.step % training.checkpoint_every_steps == 0:
            _save(session)
        if session.agreed_to_stop():
            return "interruption"
    _save(session)
    return "budget"


def _optimizer_step(session: Session) -> bool:
    """One optimizer step, or what is left of it after a resume. Returns False when interrupted between two passes."""
    training, progress, state = session.recipe.training, session.progress, session.state
    accelerator, passes = session.accelerator, session.recipe.training.gradient_accumulation_steps
    learning_rate = learning_rate_at(training, progress.step, session.budget_used())
    for group in session.optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_scale", 1.0)
    if session.unfreezing is not None:
        session.unfreezing.before_step(progress.step)
    if not session.model.training:  # an evaluation came between; setting the mode of every module takes time
        session.model.train()

    for micro_step in range(progress.micro_step, passes):
        batch = session.batches.batch(progress.step, session.lanes(micro_step))
        with _gradients_stay_local(session, micro_step < passes - 1):
            loss, state.carried[micro_step] = session.task.loss(session.model, batch, state.carried[micro_step])
            # DDP takes the mean over processes, while each share is already divided by the tokens of all
            accelerator.backward(loss * accelerator.num_processes)
        state.loss_sum += loss.detach() * batch.num_tokens
        progress.micro_step = micro_step + 1
        if progress.micro_step < passes and session.agreed_to_stop():
            return False

    if session.unfreezing is not None:
        session.unfreezing.drop_frozen_gradients(progress.step)
    norm = _clip_gradients(session)
    state.gradient_norm_sum += norm
    if training.gradient_norms_every_steps and (progress.step + 1) % training.gradient_norms_every_steps == 0:
        _log_gradient_norms(session, norm)
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    if session.averaged is not None and session.budget_used() >= training.averaging_start:
        session.averaged.update_parameters(session.bare_model)

    progress.step, progress.micro_step = progress.step + 1, 0
    progress.tokens += batch.num_tokens
    state.loss_tokens += batch.num_tokens
    state.steps_since_log += 1
    return True


def _gradients_stay_local(session: Session, local: bool) -> AbstractContextManager[None]:
    """DDP exchanges gradients in the last pass of a step only."""
    return session.accelerator.no_sync(session.model) if local else nullcontext()


def _clip_gradients(session: Session) -> Tensor:
    """Clip the gradient's norm where the recipe says so; returns the norm before."""
    limit = session.recipe.training.max_grad_norm
    norm = session.accelerator.clip_grad_norm_(session.model.parameters(), math.inf if limit is None else limit)
    return norm.detach()


def _log_gradient_norms(session: Session, norm: Tensor) -> None:
    """Write a line with the norm of each group of parameters in the step that is about to be made."""
    norms = gradient_norms(session.bare_model, norm, session.recipe.training.max_grad_norm)
    if session.accelerator.is_main_process:
        session.run.append_metrics({"kind": "gradient_norms", "step": session.progress.step + 1, "norms": norms})
    _track(session, {f"gradient_norm_{name.replace(' ', '_')}": value for name, value in norms.items()})


def _log(session: Session) -> None:
    """Write the mean over the steps since the last line, and show it. Raises `UserError` when the loss is no number."""
    state, progress, task = session.state, session.progress, session.task
    loss = session.accelerator.reduce(state.loss_sum.clone(), reduction="sum").item() / state.loss_tokens
    _check_finite(session, loss)
    line = {
        "kind": "train",
        "step": progress.step,
        "epoch": progress.step / session.batches.steps_per_epoch,
        "tokens": progress.tokens,
        "loss": loss,
        **task.log_figures(loss),
        "learning_rate": session.optimizer.param_groups[0]["lr"],
        "gradient_norm": state.gradient_norm_sum.item() / state.steps_since_log,
        "timing": {"seconds": progress.seconds, "tokens_per_second": progress.tokens / progress.seconds},
    }
    if session.accelerator.is_main_process:
        session.run.append_metrics(line)
    _track(session, line)
    figures = task.describe_progress(loss, progress.tokens / progress.seconds)
    session.reporter.update(session.budget_used(), progress.seconds, figures, step=progress.step)
    reset_sums(session)


def _check_finite(session: Session, loss: float) -> None:
    if not math.isfinite(loss):
        training, kept = session.recipe.training, session.run.checkpoints
        raise UserError(
            f"The loss became {loss} by step {session.progress.step:,}; training stopped, and the checkpoints before that are kept in {kept}. "
            f"Try a lower --training.learning_rate (it is {training.learning_rate:g}), more --training.warmup_steps "
            f"({training.warmup_steps}) or a lower --training.max_grad_norm ({training.max_grad_norm})."
        )


def _evaluation_is_due(session: Session, used_before: float) -> bool:
    every = session.recipe.training.evaluate_every_steps
    if every is not None:
        return session.progress.step % every == 0
    return int(session.budget_used() * DEFAULT_EVALUATIONS) > int(used_before * DEFAULT_EVALUATIONS)


def _evaluate(session: Session) -> dict[str, float]:
    """Evaluate on the validation split, all of it at the end; early stopping keeps the best weights."""
    figures, progress = _evaluate_split(session, "validation", in_full=session.budget_used() >= 1.0), session.progress
    shown = session.task.figures
    watched = figures[shown.watched]
    progress.evaluations_since_best += 1
    if progress.best_watched is None or shown.is_better(watched, progress.best_watched):
        progress.best_watched, progress.evaluations_since_best = watched, 0
        if session.recipe.training.early_stopping_patience is not None and session.accelerator.is_main_process:
            session.best_weights.parent.mkdir(exist_ok=True)
            save_model(innermost(session.evaluated_model), str(session.best_weights))
    return figures


def _evaluate_split(session: Session, split: str, *, in_full: bool) -> dict[str, float]:
    started = time.perf_counter()
    figures = session.task.evaluate(session.evaluated_model, session.accelerator, split, in_full=in_full).figures
    seconds = time.perf_counter() - started
    sample = ""
    if session.accelerator.is_main_process:
        if split == "validation":
            sample = session.task.preview(innermost(session.evaluated_model))
        line = {"kind": "evaluation", "step": session.progress.step, "split": split, **figures, "sample": sample, "timing": {"seconds": seconds}}
        session.run.append_metrics(line)
        title = f"step {session.progress.step:,} · {split} {session.task.describe_evaluation(figures)}"
        session.reporter.message("\n".join([title, *(f"    {row}" for row in sample.splitlines())]))
    _track(session, {f"{split}_{key}": value for key, value in figures.items()})
    return figures


def _track(session: Session, line: dict[str, Any]) -> None:
    if session.recipe.tracking.trackers:
        numbers = {key: value for key, value in line.items() if isinstance(value, (int, float)) and key != "step"}
        session.accelerator.log(numbers, step=session.progress.step)


def _patience_is_over(session: Session) -> bool:
    patience = session.recipe.training.early_stopping_patience
    return patience is not None and session.progress.evaluations_since_best >= patience


def _save(session: Session) -> None:
    """Write a checkpoint, unless what was trained since the last logged line is no number."""
    state, progress = session.state, session.progress
    if state.loss_sum.isnan() or state.loss_sum.isinf():
        _check_finite(session, state.loss_sum.item())
    progress.metrics_size = session.run.metrics_size()
    packed = [session.task.pack_carried(carried) for carried in state.carried]
    gradients = [parameter.grad for parameter in session.bare_model.parameters()] if progress.micro_step else []
    saved = type(state)(packed, gradients, state.loss_sum, state.loss_tokens, state.gradient_norm_sum, state.steps_since_log)
    save_checkpoint(session.run.checkpoints, session.accelerator, session.recipe, progress, saved)


def _restore_gradients(session: Session) -> None:
    for parameter, gradient in zip(session.bare_model.parameters(), session.state.gradients, strict=bool(session.state.gradients)):
        parameter.grad = gradient


def _finish(session: Session, stopped_by: str) -> None:
    """Evaluate for the last time, and write the model folder and the last facts."""
    accelerator, run, task = session.accelerator, session.run, session.task
    split, figures = "validation", _evaluate(session)
    if session.progress.evaluations_since_best and session.recipe.training.early_stopping_patience is not None:
        accelerator.wait_for_everyone()
        load_model(innermost(session.evaluated_model), str(session.best_weights))
        figures = _evaluate_split(session, split, in_full=True)
    if "test" in task.prepared.splits:
        split, figures = "test", _evaluate_split(session, "test", in_full=True)
    model = innermost(session.evaluated_model)
    # sharded weights have to be gathered from all processes, by all processes
    sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    weights = accelerator.get_state_dict(session.model) if sharded else None
    if accelerator.is_main_process:
        save_model_folder(run, session.recipe, model, task.save_processor, weights)
        tokenizer = task.tokenizer if task.has_tokenizer else None
        facts = {"model": model_facts(model, tokenizer, run.model), "training": _training_facts(session, stopped_by)}
        run.update_facts(status="finished", prompt=task.prompt, evaluation={"split": split, **figures}, **facts)
    accelerator.wait_for_everyone()
    if session.recipe.tracking.trackers:
        accelerator.end_training()


def _training_facts(session: Session, stopped_by: str) -> dict[str, Any]:
    progress = session.progress
    return {
        "steps": progress.step,
        "tokens": progress.tokens,
        **session.task.training_facts(progress.tokens),
        "epochs": progress.step / session.batches.steps_per_epoch,
        "seconds": progress.seconds,
        "tokens_per_second": progress.tokens / progress.seconds,
        "stopped_by": stopped_by,
    }
