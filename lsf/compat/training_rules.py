"""What old flags of the training become: batches, stages, optimizer, averaging of the weights, trackers."""

from __future__ import annotations

import os

from lsf.compat.arguments import Assignment, Assignments, Flags
from lsf.compat.schedule import stage_tables
from lsf.compat.table import flag_rows


def batches(flags: Flags) -> Assignments:
    """Count frames per step over all processes; the older trainer counted them per process."""
    processes = int(os.environ.get("WORLD_SIZE", "1")) if flags["distributed"] else 1
    for name in ("batch_size", "valid_batch_size"):
        yield Assignment(name, f"training.{name}", flags[name] * processes)
    if processes > 1:
        flags.note("batch_size", f"{flags['batch_size']} in each of {processes} processes")


def stages(flags: Flags) -> Assignments:
    """Lay out the stages."""
    yield Assignment("train_schedule", "stages", stage_tables(flags))


def optimizer(flags: Flags) -> Assignments:
    """Choose the optimizer and, where it takes one, the scheduler."""
    yield Assignment("optimizer", "training.optimizer.use", flags["optimizer"])
    flag = "beta" if flags.has("beta") or not flags.has("beta_two") else "beta_two"
    yield Assignment(flag, "training.optimizer.betas", [flags["beta"], flags["beta_two"]])
    yield Assignment("weight_decay", "training.optimizer.weight_decay", flags["weight_decay"])
    names = ("scheduler", "lr_factor", "scheduler_patience", "lr_scheduler_gamma")
    if flags["optimizer"] == "schedulefree":
        for name in ("amsgrad", *names):
            if flags.has(name):
                flags.note(name, "no effect with --optimizer schedulefree, the default")
        return
    yield Assignment("amsgrad", "training.optimizer.amsgrad", flags["amsgrad"])
    use = flag_rows()["scheduler"].new_value(flags["scheduler"])
    yield Assignment("scheduler", "training.scheduler.use", use)
    read = {"plateau": names[1:3], "exponential": names[3:]}.get(use, ())
    for name in names[1:]:
        if name in read:
            yield Assignment(name, flag_rows()[name].key, flags[name])
        elif flags.has(name):
            flags.note(name, f"no effect with --scheduler {flags['scheduler']}")


def averaging(flags: Flags) -> Assignments:
    """Average the weights, or do not."""
    if flags["ema"]:
        flag = "ema_decay" if flags.has("ema_decay") else "ema"
        yield Assignment(flag, "training.ema_decay", flags["ema_decay"])
        return
    if flags.has("ema_decay"):
        flags.note("ema_decay", "no effect without --ema")
    yield Assignment("ema", "training.ema_decay", "none")


def trackers(flags: Flags) -> Assignments:
    """Send the metrics to Weights & Biases."""
    names = (
        "wandb_watch",
        "wandb_watch_log_freq",
        "wandb_dir",
        "wandb_project",
        "wandb_entity",
        "wandb_name",
    )
    if not flags["wandb"]:
        for name in names:
            if flags.has(name):
                flags.note(name, "no effect without --wandb")
        return
    rows = flag_rows()
    watch = rows["wandb_watch"].new_value(flags["wandb_watch"])
    yield Assignment("wandb_watch" if flags.has("wandb_watch") else "wandb", "trackers.wandb.watch", watch)
    for name in names[1:]:
        if flags.has(name):
            yield Assignment(name, rows[name].key, flags[name])
