"""``python -m sb3_trpo_ext replay DUMP``: the recorded update and the same done again, side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.doctor.bounds import clean
from sb3_trpo_ext.records.dump import Dump, DumpError, read_dump
from sb3_trpo_ext.replay.recompute import Replayed, differences, other_build, recompute

SUMMARY = "compute an update again from a dump of the flight recorder"

SETTINGS: dict[str, type] = {
    "cg_precision": str,
    "cg_preconditioner": str,
    "cg_damping": float,
    "cg_max_steps": int,
    "target_kl": float,
    "sub_sampling_factor": int,
    "n_critic_updates": int,
}
"""What can be tried: arguments of ``TRPO``."""

SHOWN = (
    *("status", "kl", "kl_joint", "kl_max", "target_kl", "surrogate_improvement", "expected_improvement", "reduction_ratio"),
    *("cg_status", "cg_iterations", "cg_residual", "cg_damping", "next_damping", "cg_retries", "cg_precision", "fisher_rung"),
    *("step_scale", "line_search_status", "line_search_backtracks", "entropy", "grad_norm", "behaviour_kl"),
    *("critic_status", "critic_epochs", "value_loss_before", "value_loss_after", "explained_variance"),
)


def main(arguments: list[str]) -> int:
    """
    Replay a dump.

    :param arguments: the command line behind ``replay``
    :return: 0; 1 if an update that should come out the same does not; 2 if there is nothing to replay
    """
    args = _parse(arguments)
    settings = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    if "cg_damping" in settings:
        # Else the damping that earlier updates have left would be used.
        settings |= {"adaptive_damping": False, "cg_damping_range": None}
    try:
        dump = read_dump(args.dump)
        replayed = recompute(dump, settings, args.model)
    except (DumpError, ValueError) as error:
        print(f"sb3_trpo_ext replay: {error}", file=sys.stderr)
        return 2
    console = Console(highlight=False)
    _show(dump, replayed, settings, console)
    return _judge(dump, replayed, settings, console)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sb3_trpo_ext replay", description=f"{SUMMARY.capitalize()}.")
    parser.add_argument("dump", type=Path, help="update_….json of a run's folder dumps/, or its .npz")
    for name, kind in SETTINGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"try another {name}")
    parser.add_argument("--model", type=Path, help="a saved model, for a policy that is not SB3's (its author is trusted)")
    return parser.parse_args(arguments)


def _show(dump: Dump, replayed: Replayed, settings: dict[str, Any], console: Console) -> None:
    header = dump.header
    why = clean(", ".join(map(str, header["reasons"])))
    console.print(f"Update {header['n_updates']}, {header['num_timesteps']:,} steps, dumped because of: {why}", markup=False)
    if header["error"]:
        console.print(f"The run ended with {clean(header['error'])}", markup=False)
    changed = ", ".join(f"{name}={value}" for name, value in settings.items())
    table = Table(title=f"Replayed with {changed}" if changed else "Replayed", title_justify="left")
    for column in ("", "recorded", "replayed"):
        table.add_column(column, justify="left" if not column else "right", overflow="fold")
    recorded = header["report"] or {}
    for name in SHOWN:
        then, now = recorded.get(name), _value(replayed.report, name)
        style = "" if recorded and then == now else "bold"
        table.add_row(Text(name), Text(_text(then)), Text(_text(now), style=style))
    console.print(table)
    for message in (*replayed.messages, *([replayed.error] if replayed.error else [])):
        console.print(message, markup=False)


def _judge(dump: Dump, replayed: Replayed, settings: dict[str, Any], console: Console) -> int:
    found = differences(dump, replayed)
    if found is None:
        console.print("The dump holds no parameters to compare with: the update, or the run, ended before them.")
        return 0
    if not found:
        console.print(f"Parameters: the same as recorded, bit for bit ({len(dump.part('after'))} tensors).")
        return 0
    worst = max(found, key=lambda name: found[name])
    console.print(
        f"Parameters: {len(found)} tensors differ from those recorded, most {worst}: by {found[worst]:.3g}.", markup=False
    )
    if settings:
        return 0
    elsewhere = other_build(dump)
    if elsewhere:
        console.print(
            "Bits are promised on the same build only, and this is another:", *map(clean, elsewhere), sep="\n  ", markup=False
        )
        return 0
    console.print("The build is the same, so they should not differ: please report this, with the dump.")
    return 1


def _value(report: UpdateReport | None, name: str) -> Any:
    return None if report is None else getattr(report, name)


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else clean(value)
