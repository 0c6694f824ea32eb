"""
What a callback may need of a step before it exists: our loop computes values and log-probabilities after the last step.

The source of each function that a callback runs is read, and what can't be told from it counts as need. Free are SB3's own
callbacks and ours, and those that use of ``self.locals`` only single names that our loop has, look at the rollout buffer only
when it is full, and hand neither themselves nor their locals on. (What a function does with ``self.model``, if it is given
that, is not read.)
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from types import FunctionType, MethodType
from typing import Any

from stable_baselines3.common import callbacks
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback

OUR_MODULES = "sb3_trpo_ext."
"""Ours look at finished updates only."""

LATE_LOCALS = frozenset({"values", "log_probs", "terminal_value", "terminal_obs", "rollout_buffer"})
"""Locals of SB3's loop that ours has not, or not complete, while it runs."""

LATE_ATTRIBUTES = frozenset({"rollout_buffer", "action_dist", "values", "log_probs"})
"""Attributes of models, policies and buffers that are incomplete, or not kept up to date, while our loop runs."""

WHEN_FULL = frozenset(
    {"__init__", "_init_callback", "_on_training_start", "_on_rollout_start", "_on_rollout_end", "_on_training_end"}
)
"""Methods that no step calls."""

MACHINERY = frozenset({"on_training_start", "update_locals", "update_child_locals", "on_step"})
"""SB3's own machinery: who overrides it may do anything with the locals."""

BUILTIN_REACH = frozenset({"getattr", "hasattr", "setattr"})
REACHING_ANYTHING = BUILTIN_REACH | {"vars", "eval", "exec", "locals", "globals"}


def what_needs_sb3_loop(callback: BaseCallback) -> str | None:
    """
    Look for a callback that may need values or log-probabilities at each step.

    :param callback: the root of a tree of callbacks
    :return: which one, and what it does, in words; None if there is none
    """
    for part in callbacks_of(callback):
        if isinstance(part, ConvertCallback):
            if part.callback is not None:
                return "a function is called with all local variables at each step (make it a BaseCallback)"
            continue
        need = _need(type(part)) or _need_of_methods(_patched(part))
        if need is not None:
            return f"callback {type(part).__name__} {need}"
    return None


def callbacks_of(callback: BaseCallback, seen: set[int] | None = None) -> Iterator[BaseCallback]:
    """
    Walk a tree of callbacks.

    :param callback: its root
    :param seen: those that have been met
    :yields: it and those that it holds, in whatever attribute
    """
    seen = set() if seen is None else seen
    if id(callback) in seen:
        return
    seen.add(id(callback))
    yield callback
    for held in vars(callback).values():
        candidates = held.values() if isinstance(held, dict) else held if isinstance(held, list | tuple) else [held]
        for child in candidates:
            if isinstance(child, BaseCallback):
                yield from callbacks_of(child, seen)


def _patched(callback: BaseCallback) -> dict[str, Any]:
    """What was put over an instance's methods."""
    return {name: value for name, value in vars(callback).items() if callable(getattr(type(callback), name, None))}


@lru_cache(maxsize=256)
def _need(kind: type) -> str | None:
    methods: dict[str, Any] = {}
    for cls in reversed(kind.__mro__):
        if cls.__module__ != callbacks.__name__ and not cls.__module__.startswith(OUR_MODULES) and cls is not object:
            methods |= {name: value for name, value in vars(cls).items() if callable(_function(value))}
    return _need_of_methods(methods)


def _function(value: Any) -> Any:
    """What runs when an attribute of a class is called or read."""
    if isinstance(value, staticmethod | classmethod):
        return value.__func__
    if isinstance(value, property):
        return value.fget
    return value.__func__ if isinstance(value, MethodType) else value


def _need_of_methods(methods: dict[str, Any]) -> str | None:
    overridden = sorted(MACHINERY & methods.keys())
    if overridden:
        return f"overrides {overridden[0]}"
    read: dict[str, _Read] = {}
    for name, value in methods.items():
        function = _function(value)
        if isinstance(function, type):
            continue
        code = _source(function) if isinstance(function, FunctionType) else None
        if code is None:
            return f"has a {name} whose source can't be read"
        read[name] = _Read(code, function.__code__.co_varnames[:1])
    at_steps = _run_at_steps(read)
    needs = (method.need(at_step=name in at_steps) for name, method in read.items())
    return next((need for need in needs if need is not None), None)


def _source(function: FunctionType) -> ast.AST | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    return tree.body[0] if tree.body else None


def _run_at_steps(read: dict[str, _Read]) -> set[str]:
    """Methods that a step may run: all but those that only the others call."""
    by_others = {name for full in WHEN_FULL & read.keys() for name in read[full].mentioned}
    found: set[str] = set()
    pending = [name for name in read if name not in WHEN_FULL and name not in by_others]
    while pending:
        name = pending.pop()
        if name in read and name not in found:
            found.add(name)
            pending += read[name].mentioned
    return found


class _Read:
    """
    A method's source.

    :param code: its definition
    :param first: name of its first argument: the callback; nothing if it has none
    """

    def __init__(self, code: ast.AST, first: tuple[str, ...]):
        self._nodes = list(ast.walk(code))
        self._callback = first[0] if first else ""
        self._harmless = {id(node) for parent in self._nodes for node in self._harmless_parts(parent)}

    @property
    def mentioned(self) -> list[str]:
        """Every attribute that is named in it."""
        return [node.attr for node in self._nodes if isinstance(node, ast.Attribute)]

    def need(self, at_step: bool) -> str | None:
        """
        Look for what our loop can't serve.

        :param at_step: whether a step may run it
        :return: in words; None if there is nothing
        """
        for node in self._nodes:
            found = self._need_of_name(node) if isinstance(node, ast.Name) else None
            if isinstance(node, ast.Attribute):
                found = self._need_of_attribute(node, at_step)
            if found is None and isinstance(node, ast.Assign) and not at_step:
                found = self._need_of_storing(node)
            if found is not None:
                return found
        return None

    def _need_of_name(self, node: ast.Name) -> str | None:
        if id(node) in self._harmless:
            return None
        if node.id == self._callback:
            return "hands itself on"
        return f"uses {node.id}, which can reach anything" if node.id in REACHING_ANYTHING else None

    def _need_of_attribute(self, node: ast.Attribute, at_step: bool) -> str | None:
        if node.attr == "locals" and id(node) not in self._harmless:
            return "uses its locals as a whole, or reads what is not there yet"
        # A dictionary's values() is a call.
        if at_step and node.attr in LATE_ATTRIBUTES and id(node) not in self._harmless:
            return f"looks at {node.attr} while a rollout is collected"
        return None

    def _need_of_storing(self, node: ast.Assign) -> str | None:
        stored = any(isinstance(target, ast.Attribute) for target in node.targets)
        late = isinstance(node.value, ast.Attribute) and node.value.attr in LATE_ATTRIBUTES
        return f"keeps {ast.unparse(node.value)} for later" if stored and late else None

    def _harmless_parts(self, parent: ast.AST) -> Iterator[ast.AST]:
        """
        What is harmless where it stands.

        :param parent: what it stands in: self.x, locals["x"], locals.get("x"), "x" in locals, getattr(self, "x"), values(),
            super(X, self)
        :yields: children of it
        """
        if isinstance(parent, ast.Attribute) and isinstance(parent.value, ast.Name):
            yield parent.value
        elif isinstance(parent, ast.Subscript) and _is_early(parent.slice):
            yield from _locals(parent.value)
        elif isinstance(parent, ast.Compare) and isinstance(parent.ops[0], ast.In | ast.NotIn) and _is_early(parent.left):
            yield from _locals(parent.comparators[0])
        elif isinstance(parent, ast.Call):
            yield from self._harmless_in_call(parent)

    def _harmless_in_call(self, call: ast.Call) -> Iterator[ast.AST]:
        function, arguments = call.func, call.args
        if isinstance(function, ast.Attribute):
            yield from [function] if function.attr in ("values", "log_probs") else []
            yield from _locals(function.value) if function.attr == "get" and arguments and _is_early(arguments[0]) else []
        elif isinstance(function, ast.Name) and function.id == "super":
            yield from arguments
        elif isinstance(function, ast.Name) and function.id in BUILTIN_REACH and len(arguments) > 1:
            name = arguments[1]
            if _is_early(name) and getattr(name, "value", None) not in (*LATE_ATTRIBUTES, "locals"):
                yield from (function, arguments[0])


def _locals(node: ast.AST) -> list[ast.AST]:
    return [node] if isinstance(node, ast.Attribute) and node.attr == "locals" else []


def _is_early(key: ast.AST) -> bool:
    """Whether a key is a name that our loop has at each step."""
    return isinstance(key, ast.Constant) and key.value not in LATE_LOCALS
