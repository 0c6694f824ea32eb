"""
From a dump to a model that stands where the update began.

Dumps may come from anybody: classes are looked up in the lists below and nowhere else. A policy that they do not hold is
taken from a saved model, whose author has to be trusted (loading a zip runs code that it holds, as in SB3).
"""

from __future__ import annotations

import contextlib
import inspect
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common import policies, torch_layers
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.logger import Logger
from torch import optim
from torch.nn.modules import activation

from sb3_trpo_ext.monitoring.describe import CLASS, UNKNOWN
from sb3_trpo_ext.records.dump import Dump, DumpError
from sb3_trpo_ext.replay.whole import NoLarger, check
from sb3_trpo_ext.sb3.problem.behaviour import BehaviourRecorder
from sb3_trpo_ext.sb3.trpo import TRPO
from sb3_trpo_ext.sb3.update.start import RandomStates

_MODULES = tuple(getattr(activation, name) for name in activation.__all__ if name != "MultiheadAttention")
_EXTRACTORS = (torch_layers.FlattenExtractor, torch_layers.NatureCNN, torch_layers.CombinedExtractor)
_OPTIMIZERS = (optim.Adam, optim.AdamW, optim.SGD, optim.RMSprop)
_POLICIES = (policies.ActorCriticPolicy, policies.ActorCriticCnnPolicy, policies.MultiInputActorCriticPolicy)
KNOWN: dict[str, type] = {
    f"{cls.__module__}.{cls.__qualname__}": cls for cls in (*_MODULES, *_EXTRACTORS, *_OPTIMIZERS, *_POLICIES)
}
"""Classes that a dump may name."""

POLICY_ARGUMENTS = frozenset(
    {
        *("net_arch", "activation_fn", "ortho_init", "use_sde", "log_std_init", "full_std", "use_expln", "squash_output"),
        *("features_extractor_class", "features_extractor_kwargs", "share_features_extractor", "normalize_images"),
        *("optimizer_class", "optimizer_kwargs"),
    }
)
"""Keyword arguments of SB3's own policies, all plain data or one of ``KNOWN``."""

NEEDS_MODEL = "give a model that this run has saved, if you trust its author: --model FILE.zip"
BATCH_NAMES = {"log_probs": "log_prob"}
"""The buffer's names that the batch has other names for."""

DTYPES = frozenset(np.dtype(kind).name for kind in "?bBhHiIqQefd")


class _Recorded(BehaviourRecorder):
    """What the recorder knew then."""

    def __init__(self, phi: torch.Tensor | None, collection: str | None, places: np.ndarray | None):
        super().__init__()
        self._phi = phi
        self._places = places
        self.collection = collection

    def phi(self, n_steps: int, n_envs: int) -> torch.Tensor | None:
        if self._phi is None or self._places is None:
            return self._phi
        whole = self._phi.new_zeros((n_steps * n_envs, self._phi.shape[1]))
        return whole.index_copy_(0, torch.as_tensor(self._places), self._phi)

    def places(self, n_steps: int, n_envs: int) -> np.ndarray | None:
        return self._places


def rebuild(dump: Dump, settings: dict[str, Any], model_file: Path | None = None) -> TRPO:
    """
    Make the model as it was when the update began.

    :param dump: the dump
    :param settings: arguments of ``TRPO`` to change
    :param model_file: a saved model, for its policy's class; None: SB3's own, from the dump alone
    :return: the model; ``train`` does the update
    :raises DumpError: if the dump is not whole, or its policy is unknown here
    """
    try:
        check(dump)
        model = _empty_model(dump, settings, model_file)
        _restore_policy(model, dump)
        _restore_counters(model, dump)
        _restore_rollout(model, dump)
        _restore_random(dump)
    except DumpError:
        raise
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        AssertionError,
        ArithmeticError,
        MemoryError,
    ) as error:
        raise DumpError(f"the dump does not hold together: {type(error).__name__}: {str(error)[:300]}") from error
    return model


def _empty_model(dump: Dump, settings: dict[str, Any], model_file: Path | None) -> TRPO:
    header = dump.header
    if not header["ordered"]:
        raise DumpError("this batch came from a custom buffer, whose order of samples only it knows: it can't be replayed")
    arguments = inspect.signature(TRPO).parameters
    chosen = {n: decode(value) for n, value in header["settings"].items() if n in arguments and not _has_unknown(value)}
    then = {"learning_rate": decode(header["learning_rate"])}
    if chosen.get("final_target_kl") is not None:
        then |= {"target_kl": header["max_kl"], "final_target_kl": None}
    chosen |= {**then, **settings, "warn_on_risky": False}
    kwargs = chosen.pop("rollout_buffer_kwargs", None)
    if kwargs:
        raise DumpError(f"the buffer has arguments of its own ({', '.join(kwargs)}): it can't be replayed")
    if model_file is not None:
        policy_class, policy_kwargs = _from_model(model_file)
    else:
        policy_class, policy_kwargs = _policy_of(header["policy"])
        # Its weights are put in anyway.
        policy_kwargs["ortho_init"] = False
    with warnings.catch_warnings(), contextlib.nullcontext() if model_file else NoLarger(dump.part("before")):
        warnings.simplefilter("ignore")
        model = TRPO(policy_class, None, policy_kwargs=policy_kwargs, device="cpu", _init_setup_model=False, **chosen)  # type: ignore[arg-type]
        model.observation_space = _space(header["spaces"]["observation"], "space/observation", dump.arrays)
        model.action_space = _space(header["spaces"]["action"], "space/action", dump.arrays)
        model.n_envs = int(header["n_envs"])
        model._setup_model()
    # Nothing is written anywhere: no output, no folder.
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _from_model(file: Path) -> tuple[Any, dict[str, Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = TRPO.load(file, device="cpu")
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise DumpError(f"{file}: can't be loaded as a model ({error})") from error
    return loaded.policy_class, loaded.policy_kwargs


def _policy_of(described: dict[str, Any]) -> tuple[type, dict[str, Any]]:
    policy_class = decode(described["class"])
    if policy_class not in _POLICIES:
        raise DumpError(f"the policy is a {described['class']!r}; {NEEDS_MODEL}")
    unknown = described["kwargs"].keys() - POLICY_ARGUMENTS
    if unknown:
        raise DumpError(f"the policy has arguments that are not known here ({', '.join(sorted(unknown))}); {NEEDS_MODEL}")
    return policy_class, {name: decode(value) for name, value in described["kwargs"].items()}


def decode(value: Any) -> Any:
    """
    Turn plain data back into values.

    :param value: of ``monitoring.describe.plain``
    :return: the value
    :raises DumpError: for a class that is not in ``KNOWN``, and for what had no plain form
    """
    if isinstance(value, list):
        return [decode(part) for part in value]
    if not isinstance(value, dict):
        return value
    if "$float" in value:
        return float(value["$float"])
    if CLASS in value or UNKNOWN in value:
        name = value.get(CLASS, value.get(UNKNOWN))
        if CLASS not in value or name not in KNOWN:
            raise DumpError(f"{name!r} is not known here; {NEEDS_MODEL}")
        return KNOWN[name]
    return {key: decode(part) for key, part in value.items()}


def _has_unknown(value: Any) -> bool:
    if isinstance(value, dict):
        return UNKNOWN in value or CLASS in value or any(map(_has_unknown, value.values()))
    return isinstance(value, list) and any(map(_has_unknown, value))


def _space(described: dict[str, Any], name: str, arrays: dict[str, np.ndarray]) -> spaces.Space:
    kind = described["space"]
    if kind == "Dict":
        return spaces.Dict({key: _space(part, f"{name}/{key}", arrays) for key, part in described["spaces"].items()})
    if kind in ("Box", "MultiDiscrete") and described["dtype"] not in DTYPES:
        raise DumpError(f"a space of dtype {described['dtype']!r} is not known here")
    if kind == "Box":
        return spaces.Box(arrays[f"{name}/low"], arrays[f"{name}/high"], dtype=np.dtype(described["dtype"]).type)
    if kind == "Discrete":
        return spaces.Discrete(int(described["n"]), start=int(described["start"]))
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(described["nvec"], dtype=np.dtype(described["dtype"]).type)
    if kind == "MultiBinary":
        return spaces.MultiBinary(described["n"])
    raise DumpError(f"a {kind!r} space is not known here")


def _restore_policy(model: TRPO, dump: Dump) -> None:
    held, live = dump.part("before"), dict(model.policy.named_parameters()) | dict(model.policy.named_buffers())
    if held.keys() != live.keys():
        odd = sorted(held.keys() ^ live.keys())
        raise DumpError(f"the policy has other parameters than the dump's: {', '.join(odd[:5])}; {NEEDS_MODEL}")
    with torch.no_grad():
        for name, tensor in live.items():
            if tensor.shape != held[name].shape:
                raise DumpError(f"{name} has shape {tuple(tensor.shape)}, in the dump {held[name].shape}; {NEEDS_MODEL}")
            tensor.copy_(torch.from_numpy(held[name]))
    described = dump.header["optimizer"]
    state: dict[int, dict[str, Any]] = {int(index): dict(numbers) for index, numbers in described["numbers"].items()}
    for name, array in dump.part("optimizer").items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = torch.from_numpy(np.array(array))
    model.policy.optimizer.load_state_dict({"state": state, "param_groups": decode(described["groups"])})


def _restore_counters(model: TRPO, dump: Dump) -> None:
    header = dump.header
    model._n_updates, model.num_timesteps = int(header["n_updates"]) - 1, int(header["num_timesteps"])
    model._updates_skipped = int(header["updates_skipped"])
    model._adapted_damping, model._adapted_damping_unit = header["adapted_damping"], header["adapted_damping_unit"]


def _restore_rollout(model: TRPO, dump: Dump) -> None:
    buffer, arrays = model.rollout_buffer, dump.part("batch")
    assert type(buffer) in (RolloutBuffer, DictRolloutBuffer)

    places = arrays.get("places")

    def by_step(flat: np.ndarray, like: np.ndarray) -> np.ndarray:
        """Undo SB3's flattening, environment by environment."""
        if places is not None:
            kept, flat = flat, np.zeros((buffer.buffer_size * buffer.n_envs, *flat.shape[1:]), flat.dtype)
            flat[places] = kept
        return flat.reshape(like.shape[1], like.shape[0], *like.shape[2:]).swapaxes(0, 1).astype(like.dtype)

    if isinstance(buffer.observations, dict):
        for key, like in buffer.observations.items():
            buffer.observations[key] = by_step(arrays[f"observations/{key}"], like)
    else:
        buffer.observations = by_step(arrays["observations"], buffer.observations)
    for name in ("actions", "values", "log_probs", "advantages", "returns"):
        setattr(buffer, name, by_step(arrays[BATCH_NAMES.get(name, name)], getattr(buffer, name)))
    for name in ("rewards", "episode_starts"):
        setattr(buffer, name, arrays[name].reshape(buffer.buffer_size, buffer.n_envs))
    buffer.pos, buffer.full = buffer.buffer_size, True
    report = dump.header["report"] or {}
    phi = torch.from_numpy(arrays["phi"]) if "phi" in arrays else None
    model.session.recorder = _Recorded(phi, report.get("collection"), places)


def _restore_random(dump: Dump) -> None:
    name, position, has_gauss, cached = dump.header["random"]["numpy"]
    state = (name, dump.arrays["random/numpy"], position, has_gauss, cached)
    RandomStates(random.getstate(), state, torch.from_numpy(dump.arrays["random/torch"])).restore()
