"""``torchrun … -m sb3_trpo_ext train``: what the ranks agree on before anything is made."""

from __future__ import annotations

import os
import sys

from sb3_trpo_ext.sb3.ranks.group import Ranks
from sb3_trpo_ext.sb3.ranks.launch import place
from sb3_trpo_ext.zoo.plan import Plan, make_plan

RESTARTS_VARIABLE = "TORCHELASTIC_RESTART_COUNT"
"""How often torchrun has started all of them again (``--max-restarts``)."""

SEARCH_FLAGS = frozenset({"-optimize", "--optimize-hyperparameters"})


def common_plan(arguments: list[str]) -> tuple[Plan, list[str]]:
    """
    Make rank 0's plan everybody's: it alone looks for a run to resume, and takes its lock.

    :param arguments: of ``train``
    :return: what our own flags ask for, and the arguments for the Zoo
    :raises ValueError: if a flag is impossible, and for a search
    :raises RanksError: if rank 0 has found no plan
    """
    rank, size = place()
    if size == 1:
        return make_plan(arguments)
    if SEARCH_FLAGS & set(arguments):
        raise ValueError("torchrun spreads no search: start as many processes with one --storage (docs/many_machines.md)")
    if rank > 0:
        os.environ["WANDB_MODE"] = "disabled"
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    ranks = Ranks.join()
    try:
        # Each host counts failures of its own.
        restarts = max(ranks.gather(int(os.environ.get(RESTARTS_VARIABLE, "0"))))
        if restarts > 0 and not any(each.startswith("--resume") for each in arguments):
            arguments = ["--resume", *arguments]
        found: tuple[Plan, list[str]] = Plan(), []
        with ranks.together("reading the command line"):
            if rank == 0:
                found = make_plan(arguments)
        return ranks.from_first(found)
    finally:
        ranks.leave()
