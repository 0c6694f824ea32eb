"""What is shipped, with one part of the hardening taken away or put in."""

from __future__ import annotations

from dataclasses import dataclass

from evidence.configurations import Entry
from evidence.runs import OURS, PLAIN_CG

SHIPPED = "shipped"
"""Name of the variant with nothing changed."""


@dataclass(frozen=True)
class Variant:
    """
    What is shipped, with one thing changed.

    :param what: was changed, for people
    :param overrides: of the entry
    :param implementation: that trains
    """

    what: str
    overrides: Entry
    implementation: str = OURS


def variants_of(entry: Entry) -> dict[str, Variant]:
    """
    List what is compared with an entry.

    :param entry: the shipped settings of a task
    :return: variants by name, what is shipped first
    """
    epochs = entry.get("n_critic_updates", 10)
    kfac = entry.get("cg_preconditioner", "none") == "kfac"
    bare = {"adaptive_damping": False, "max_critic_updates": epochs, "cg_precision": "float32", "cg_preconditioner": "none"}
    return {
        SHIPPED: Variant("as shipped", {}),
        "float32": Variant("products and recurrence of CG in float32", {"cg_precision": "float32"}),
        "float64": Variant("all products of CG in float64", {"cg_precision": "float64"}),
        "plain-cg": Variant("CG re-orthogonalises nothing", {}, PLAIN_CG),
        "fixed-damping": Variant("damping does not adapt, failed solves are not retried", {"adaptive_damping": False}),
        "critic-epochs": Variant("no extra epochs while the value loss has not fallen", {"max_critic_updates": epochs}),
        "critic-gate": Variant("no policy step while the critic explains nothing", {"min_explained_variance": 0.0}),
        "preconditioner": Variant(
            f"{'no preconditioner' if kfac else 'K-FAC'}", {"cg_preconditioner": "none" if kfac else "kfac"}
        ),
        "bare": Variant("float32, plain CG, fixed damping, no extra epochs: all of it away", bare, PLAIN_CG),
    }


NAMES = tuple(variants_of({}))
