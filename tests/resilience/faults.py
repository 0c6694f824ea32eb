"""
Faults: what can go wrong around an update, each a small function with a name and a sentence.

``@before`` faults are there when the model collects; ``@between`` ones come after collection and before ``train``;
``@around`` ones are contexts around ``train`` (or all of it). They know nothing of whose TRPO it is: sb3-contrib's gets the
same. ``run`` puts one into a model and says what happened and which invariants do not hold.
"""

import re
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback

from sb3_trpo_ext import TRPO
from tests.resilience.invariants import Before
from tests.resilience.networks import DEFAULT, Config
from tests.sb3.spaces import collect


class Interrupted(KeyboardInterrupt):
    """Somebody presses Ctrl-C."""


class OutOfMemory(RuntimeError):
    """As torch's."""


@dataclass(frozen=True)
class Fault:
    """
    A fault.

    :param do: the function
    :param stage: "before", "between", "around" (train) or "throughout" (collection and train)
    :param group: heading in the table
    :param tells: what our error, warning or report must say of it, a regular expression; None: it is no more than a strange
        but sound input
    :param theirs: a kind of exception that is the user's, and passes
    :param settings: of the model
    :param extractor: features extractor that is part of the fault
    :param at: where it happens unless another configuration is asked for
    :param fresh: it happens to a model that has had no update (as with every extractor of the fault's own)
    """

    do: Callable[[Any], Any]
    stage: str
    group: str
    tells: str | None
    theirs: type[BaseException] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    extractor: type | None = None
    at: Config = DEFAULT
    fresh: bool = False

    @property
    def name(self) -> str:
        return self.do.__name__

    @property
    def sentence(self) -> str:
        return " ".join((self.do.__doc__ or "").split())

    def model(self, cls: Any = TRPO, config: Config | None = None, **settings: Any) -> Any:
        """Give the model that it happens to; an extractor of its own takes the place of the configuration's."""
        settings = {"n_envs": 2, "n_steps": 32, **self.settings, **settings}
        if self.extractor is not None:
            settings["policy_kwargs"] = {**settings.get("policy_kwargs", {}), "features_extractor_class": self.extractor}
        return (config or self.at).model(cls, **settings)


FAULTS: dict[str, Fault] = {}
_group = ""


def group(name: str) -> None:
    global _group
    _group = name


def _declare(stage: str) -> Callable[..., Callable[[Callable[[Any], Any]], Callable[[Any], Any]]]:
    def declare(tells: str | None = None, *, action: str = "box", **how: Any) -> Any:
        known = {name: how.pop(name) for name in ("theirs", "extractor", "fresh") if name in how}

        def keep(do: Callable[[Any], Any]) -> Callable[[Any], Any]:
            assert do.__name__ not in FAULTS, do.__name__
            FAULTS[do.__name__] = Fault(do, stage, _group, tells, settings=how, at=Config(action), **known)
            return do

        return keep

    return declare


before, between, around, throughout = map(_declare, ("before", "between", "around", "throughout"))


class DuringCollection(BaseCallback):
    """Calls a function once, half-way."""

    def __init__(self, do: Callable[[Any], Any]):
        super().__init__()
        self.do: Callable[[Any], Any] | None = do

    def _on_step(self) -> bool:
        if self.do is not None and self.n_calls >= 16:
            self.do(self.model)
            self.do = None
        return True


during = _declare("during")


@dataclass
class Outcome:
    """
    What happened.

    :param model: the model afterwards
    :param error: what was raised
    :param said: error, warnings and report as one text
    :param broken: which invariants don't hold
    :param warned: warnings
    """

    model: Any
    error: BaseException | None
    said: str
    broken: list[str]
    warned: list[str]

    def failures(self, fault: Fault) -> list[str]:
        """What is broken, and what was not told."""
        if fault.tells is None:
            return self.broken if self.error is None else [*self.broken, f"a sound input was refused: {self.said}"]
        return self.broken if re.search(fault.tells, self.said) else [*self.broken, f"not told: {self.said}"]


def run(
    fault: Fault, cls: Any = TRPO, config: Config | None = None, plant: Callable[[], None] = lambda: None, **settings: Any
) -> Outcome:
    """
    Let it happen to a model that has had a sound update.

    :param fault: the fault
    :param cls: TRPO, ours or sb3-contrib's
    :param config: kind of model; None: the fault's own
    :param plant: plants a bug after the sound update
    :param settings: of the model
    :return: what happened
    """
    model = fault.model(cls, config, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if not (fault.fresh or fault.extractor):
            with suppress(ValueError):  # in some configurations it is refused: then that is what is looked at
                collect(model).train()
        caught.clear()
        plant()
        witness, error = _happen(fault, model)
    warned = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    return Outcome(model, error, _said(model, error, warned), witness.broken(error, fault.theirs), warned)


def _happen(fault: Fault, model: Any) -> tuple[Before, BaseException | None]:
    callback = DuringCollection(fault.do) if fault.stage == "during" else None
    context: AbstractContextManager[Any] = fault.do(model) if fault.stage == "throughout" else nullcontext()
    if fault.stage == "before":
        fault.do(model)
    witness = Before(model, collected=False)
    try:
        with context:
            collect(model, callback)
            if fault.stage == "between":
                fault.do(model)
            witness = Before(model)
            with fault.do(model) if fault.stage == "around" else nullcontext():
                model.train()
    except BaseException as error:  # whatever it is: that is what is looked at
        return witness, error
    return witness, None


def _said(model: Any, error: BaseException | None, warned: list[str]) -> str:
    if error is not None:
        text = f"{type(error).__name__}: {error}"
    elif isinstance(model, TRPO):
        report = model.last_update
        parts = [report.status, f"critic {report.critic_status}", f"cg {report.cg_status}", f"direction {report.direction}"]
        parts += [f"dropped {report.samples_dropped} samples"] if report.samples_dropped else []
        text = "; ".join([*parts, *report.notes])
    else:
        text = "accepted" if model.logger.name_to_value.get("train/is_line_search_success") else "rejected"
    return " | ".join([text, *warned])


@between()
def nothing(model: Any) -> None:
    """Nothing at all."""


def poison(model: Any, field_name: str, value: float, at: Any = (9, 1)) -> None:
    """Put a value into the buffer, and what a reward poisons after it."""
    array = getattr(model.rollout_buffer, field_name)
    if array.dtype.kind == "f":  # numbers of discrete actions can't be NaN
        array[at] = value
    if field_name in ("rewards", "values"):
        buffer = model.rollout_buffer
        buffer.compute_returns_and_advantage(torch.zeros(buffer.n_envs), model._last_episode_starts)
