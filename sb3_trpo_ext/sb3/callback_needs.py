"""
What a callback may need of a step before it exists: our loop computes values and log-probabilities after the last step.

A callback's source is read, and what can't be told from it counts as need. Free are SB3's own callbacks and ours, and classes
that use of ``self.locals`` only single names other than these, of the rollout buffer nothing before it is full, and that
hand neither themselves nor their locals on. (What a function does with ``self.model``, if it is given that, is not read.)
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import lru_cache

from stable_baselines3.common import callbacks
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, EventCallback

OUR_MODULES = "sb3_trpo_ext."
"""Ours look at finished updates only."""

LATE_NAMES = frozenset({"values", "log_probs"})
"""Locals of SB3's loop that ours does not have while it runs."""

LATE_ATTRIBUTES = frozenset({"rollout_buffer", "action_dist"})
"""Attributes of model and policy that are incomplete, or not kept up to date, while our loop runs."""

REACHING_ANYTHING = frozenset({"getattr", "hasattr", "vars", "eval", "exec"})

WHEN_FULL = frozenset({"_init_callback", "_on_training_start", "_on_rollout_start", "_on_rollout_end", "_on_training_end"})
"""Methods that no step calls."""

PASSING_LOCALS_ON = frozenset({"on_training_start", "update_locals", "update_child_locals", "on_step"})
"""SB3's own machinery: a class that overrides it may do anything with the locals."""


def what_needs_sb3_loop(callback: BaseCallback) -> str | None:
    """
    Look for a callback that may need values or log-probabilities at each step.

    :param callback: the root of a tree of callbacks
    :return: which one, and what it does, in words; None if there is none
    """
    for part in _tree(callback):
        if isinstance(part, ConvertCallback) and part.callback is not None:
            return "a function is called with all local variables at each step (make it a BaseCallback)"
        for kind in type(part).__mro__:
            if kind.__module__ == callbacks.__name__ or kind.__module__.startswith(OUR_MODULES) or kind is object:
                continue
            need = _need(kind)
            if need is not None:
                return f"callback {kind.__name__} {need}"
    return None


def _tree(callback: BaseCallback) -> Iterator[BaseCallback]:
    """SB3's two ways of holding other callbacks; a class that invents a third overrides its machinery."""
    yield callback
    children = list(callback.callbacks) if isinstance(callback, CallbackList) else []
    if isinstance(callback, EventCallback) and callback.callback is not None:
        children.append(callback.callback)
    after_evaluation = getattr(callback, "callback_on_new_best", None)
    for child in [*children, *([after_evaluation] if isinstance(after_evaluation, BaseCallback) else [])]:
        yield from _tree(child)


@lru_cache(maxsize=256)
def _need(kind: type) -> str | None:
    overridden = PASSING_LOCALS_ON & vars(kind).keys()
    if overridden:
        return f"overrides {sorted(overridden)[0]}"
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError, SyntaxError):
        return "has no source that could be read"
    definition = tree.body[0]
    assert isinstance(definition, ast.ClassDef)
    for statement in definition.body:
        name = getattr(statement, "name", "")
        need = _need_of(statement, at_steps=name not in WHEN_FULL)
        if need is not None:
            return need
    return None


def _need_of(code: ast.AST, at_steps: bool) -> str | None:
    """What a method does that our loop can't serve."""
    late = LATE_NAMES | LATE_ATTRIBUTES if at_steps else LATE_NAMES
    harmless = {id(node) for parent in ast.walk(code) for node in _harmless_parts(parent)}
    for node in ast.walk(code):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in late:
            return f"names {node.value!r}"
        if isinstance(node, ast.Attribute) and node.attr in late - LATE_NAMES:
            return f"looks at {node.attr} while a rollout is collected"
        if isinstance(node, ast.Attribute) and node.attr == "locals" and id(node) not in harmless:
            return "uses its locals as a whole"
        if isinstance(node, ast.Name) and node.id == "self" and id(node) not in harmless:
            return "hands itself on"
        if isinstance(node, ast.Name) and node.id in REACHING_ANYTHING and id(node) not in harmless:
            return f"uses {node.id}, which can reach anything"
    return None


def _harmless_parts(parent: ast.AST) -> Iterator[ast.AST]:
    """What is harmless where it stands: self.x, locals["x"], locals.get("x"), "x" in locals, getattr(self.x, "y")."""
    if isinstance(parent, ast.Attribute) and isinstance(parent.value, ast.Name):
        yield parent.value
    elif isinstance(parent, ast.Subscript) and isinstance(parent.slice, ast.Constant):
        yield parent.value
    elif isinstance(parent, ast.Compare) and isinstance(parent.ops[0], ast.In | ast.NotIn):
        yield parent.comparators[0]
    elif isinstance(parent, ast.Call) and isinstance(parent.func, ast.Attribute) and parent.func.attr == "get":
        yield from [parent.func.value] if parent.args and isinstance(parent.args[0], ast.Constant) else []
    elif isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id in ("getattr", "hasattr"):
        yield from [parent.func] if len(parent.args) > 1 and isinstance(parent.args[1], ast.Constant) else []
