"""The structured parts of the old YAML: heads and train_schedule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lsf.compat.arguments import Flags
from lsf.compat.table import names_of
from lsf.errors import did_you_mean


def heads_table(flags: Flags) -> dict[str, Any]:
    """Return the recipe's heads: property = key in the file, by head."""
    heads = flags["heads"]
    if heads is None:
        flags.refuse(
            "heads", "nothing", "the keys of the data file, in the YAML config", "see docs/migration.md"
        )
        return {}
    result: dict[str, Any] = {}
    for head, content in heads.items():
        parts = content if isinstance(content, Mapping) else {}
        unknown = [str(part) for part in parts if part not in ("info_keys", "arrays_keys")]
        if not isinstance(content, Mapping) or unknown:
            found = f"heads.{head} with {', '.join(unknown) or 'no table'}"
            flags.refuse("heads", found, "the two tables info_keys and arrays_keys")
            continue
        result[str(head)] = {
            part: _properties(flags, f"heads.{head}.{part}", mapped or {}) for part, mapped in parts.items()
        }
    return result


def _properties(flags: Flags, where: str, mapped: Mapping[str, Any]) -> dict[str, str]:
    names = names_of("properties")
    result = {}
    for old, key in mapped.items():
        name = names.get(str(old))
        if name is None:
            flags.refuse("heads", f"{where}.{old}", "a property", did_you_mean(str(old), names))
        elif name.drop or name.pending:
            flags.note("heads", f"{where}.{old} has no effect: {name.drop or name.pending}")
        else:
            result[name.becomes] = str(key)
    return result


def stage_tables(flags: Flags) -> list[dict[str, Any]]:
    """Return the recipe's stages; epochs run from each stage's start to its end, both included."""
    schedule = flags["train_schedule"]
    if schedule is None:
        flags.refuse("train_schedule", "nothing", "stages with name, start, end and loss, in the YAML config")
        return []
    stages, expected_start = [], 0
    for number, content in _numbered(schedule):
        where = f"stage {number}"
        if not isinstance(content, Mapping):
            flags.refuse("train_schedule", f"{where}: {content!r}", "a table with name, start, end and loss")
            continue
        missing = [key for key in ("name", "start", "end", "loss") if key not in content]
        if missing:
            flags.refuse(
                "train_schedule", f"{where} without {', '.join(missing)}", "name, start, end and loss"
            )
            continue
        start, end = content["start"], content["end"]
        if not _whole(start) or not _whole(end) or start != expected_start or end < start:
            flags.refuse(
                "train_schedule",
                f"{where} from {start} to {end}",
                f"whole numbers, a start of {expected_start} and an end not before it",
                "the last epoch belongs to the stage; the next one starts at end + 1",
            )
        expected_start = end + 1 if _whole(end) else expected_start
        stages.append(_stage(flags, where, content))
    return stages


def _numbered(schedule: Any) -> Iterable[tuple[Any, Any]]:
    """Return the stages in order; they may be a list, or a table by number."""
    if not isinstance(schedule, Mapping):
        return enumerate(schedule)
    return sorted(schedule.items(), key=lambda item: int(item[0]) if str(item[0]).isdecimal() else 0)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _stage(flags: Flags, where: str, content: Mapping[str, Any]) -> dict[str, Any]:
    epochs = (
        content["end"] - content["start"] + 1 if _whole(content["start"]) and _whole(content["end"]) else 1
    )
    lr = _as_number(flags, where, "lr", content.get("lr", flags["lr"]))
    stage: dict[str, Any] = {"name": str(content["name"]), "epochs": epochs, "lr": lr}
    groups: dict[str, Any] = {}
    names = names_of("stages")
    for key in content:
        name = names.get(str(key))
        if name is None:
            flags.refuse(
                "train_schedule", f"{where}: {key}", "a key of a stage", did_you_mean(str(key), names)
            )
        elif name.refused or name.pending:
            flags.refuse("train_schedule", f"{where}: {key}", "a key lsf knows", name.refused or name.pending)
        elif name.becomes.startswith("lr_groups."):
            groups[name.becomes.partition(".")[2]] = _as_number(flags, where, str(key), content[key])
    if groups:
        stage["lr_groups"] = groups
    stage["loss"] = _losses(flags, where, content["loss"])
    return stage


def _losses(flags: Flags, where: str, content: Any) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        flags.refuse("train_schedule", f"{where}: loss {content!r}", "a table {name: weight}")
        return {}
    names, losses = names_of("losses"), {}
    for key, value in content.items():
        name = names.get(str(key))
        if name is None:
            flags.refuse("train_schedule", f"{where}: loss {key}", "a loss", did_you_mean(str(key), names))
        elif name.refused or name.pending:
            flags.refuse(
                "train_schedule", f"{where}: loss {key}", "a loss lsf has", name.refused or name.pending
            )
        elif isinstance(value, Mapping):
            weight = _as_number(flags, where, f"weight of {key}", value.get("weight", "nothing"))
            options = {str(option): item for option, item in value.items() if option != "weight"}
            losses[name.becomes] = {"weight": weight, **options} if options else weight
        else:
            losses[name.becomes] = _as_number(flags, where, f"weight of {key}", value)
    return losses


def _as_number(flags: Flags, where: str, what: str, value: Any) -> float:
    """Return a number; YAML reads 1e-3 as a text, which is one all the same."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        flags.refuse("train_schedule", f"{where}: {what} = {value!r}", "a number")
        return 0.0
