"""Do a dumped update again, and compare."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.records.build import build
from sb3_trpo_ext.records.dump import Dump
from sb3_trpo_ext.replay.rebuild import rebuild
from sb3_trpo_ext.replay.whole import check
from sb3_trpo_ext.sb3.arguments.validation import SETTINGS, refuse_impossible
from sb3_trpo_ext.sb3.update.start import RandomStates


@dataclass(frozen=True)
class Replayed:
    """
    What came of an update that was done again.

    :param parameters: parameters and buffers afterwards, by name
    :param report: of the update; None if it raised
    :param error: what it raised; None if nothing
    :param messages: warnings on the way
    """

    parameters: dict[str, np.ndarray]
    report: UpdateReport | None
    error: str | None
    messages: tuple[str, ...]


def recompute(dump: Dump, settings: dict[str, Any] | None = None, model_file: Path | None = None) -> Replayed:
    """
    Do the update again. The threads are those of the dump, and random streams are put back afterwards.

    :param dump: the dump
    :param settings: arguments of ``TRPO`` to change
    :param model_file: a saved model, for a policy that is not SB3's
    :return: what came of it
    :raises ValueError: for an impossible setting
    :raises monitoring.dump.DumpError: if the model can't be rebuilt
    """
    settings = settings or {}
    refuse_impossible(settings, {name: SETTINGS[name] for name in settings if name in SETTINGS})
    check(dump)
    before, threads = RandomStates.now(), torch.get_num_threads()
    then = dump.header["build"].get("threads")
    try:
        torch.set_num_threads(then if isinstance(then, int) and 1 <= then <= (os.cpu_count() or 1) else threads)
        model = rebuild(dump, settings, model_file)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            error = None
            try:
                model.train()
            except Exception as problem:  # what the update then raised, or what a dump that nobody made raises now
                error = f"{type(problem).__name__}: {problem}"
    finally:
        torch.set_num_threads(threads)
        before.restore()
    now = {**dict(model.policy.named_parameters()), **dict(model.policy.named_buffers())}
    parameters = {name: tensor.detach().numpy().copy() for name, tensor in now.items()}
    # Resources that something else in this process has not closed are warned about at any time.
    messages = tuple(str(each.message) for each in caught if issubclass(each.category, UserWarning))
    return Replayed(parameters, model.last_update, error, messages)


def differences(dump: Dump, replayed: Replayed) -> dict[str, float] | None:
    """
    Compare parameters with those that the run got.

    :param dump: the dump
    :param replayed: the update, done again
    :return: largest difference of each parameter that is not the same, bit for bit; None if the dump holds none to compare
        with
    """
    recorded = dump.part("after")
    if not recorded:
        return None
    found = {}
    for name, array in recorded.items():
        again = replayed.parameters.get(name)
        if again is None or again.shape != array.shape or again.dtype != array.dtype:
            found[name] = float("inf")
        elif again.tobytes() != array.tobytes():
            found[name] = float(np.abs(again.astype(np.float64) - array.astype(np.float64)).max())
    return found


def other_build(dump: Dump) -> list[str]:
    """
    Say what is another here than where the dump was made: "bit for bit" means on the same build.

    :param dump: the dump
    :return: a line for each
    """
    then, now = dump.header["build"], build(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
    # The number of threads is put to that of the dump.
    names = [name for name in now if name != "threads" and then.get(name) != now[name]]
    lines = [f"{name}: {then.get(name)} then, {now[name]} now" for name in names]
    return [*lines, *([f"device: {dump.header['device']} then, cpu now"] if dump.header["device"] != "cpu" else [])]
