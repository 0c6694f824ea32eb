"""Writing a policy as ONNX, TorchScript or a program of ``torch.export``, and reading it back to see that it acts the same."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecNormalize
from torch.distributions import Distribution

from sb3_trpo_ext.export.check import Act, dtype_of, largest_difference, sample
from sb3_trpo_ext.export.policy import DeployedPolicy, ExportError, reason
from sb3_trpo_ext.records.atomic import atomic

CARD = "policy.json"
"""What the inputs and the action are, inside of each file: ONNX's metadata, or an extra file of torch's."""


@dataclass(frozen=True)
class Exported:
    """
    A file that acts as the policy does.

    :param path: where it is
    :param inputs: shape, without the batch, and type of each observation that it is given, by name and in order
    :param difference: largest difference to ``predict`` on random observations: of Box actions; of others, the largest loss of
        log-probability (0.0 where every choice was the same)
    """

    path: Path
    inputs: dict[str, tuple[tuple[int, ...], str]]
    difference: float


def export_policy(
    model: OnPolicyAlgorithm, path: str | Path, vec_normalize: VecNormalize | None = None, channels_last: bool = False
) -> Exported:
    """
    Write the deterministic policy to one file, from raw observations to actions that can be carried out.

    Normalisation, features extractor, the distribution's mode, and clipping (or unscaling of squashed actions) are all in
    it. The file is read back and compared with ``model.predict`` before it gets its name; if they differ, none is left.

    :param model: a trained model
    :param path: ``.onnx`` (ONNX), ``.pt`` (TorchScript) or ``.pt2`` (``torch.export``)
    :param vec_normalize: statistics of the observations; None takes those of the model's environment, if it has some
    :param channels_last: images come as (height, width, channels), as cameras give them; else as the policy takes them
    :return: where it is, what it is given, and how close it comes
    :raises ExportError: if it can't be exported, or does not act as the policy does
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise ExportError(f"{path.name}: the suffix names the format: {', '.join(WRITERS)}")
    if not isinstance(model.policy, ActorCriticPolicy):
        raise ExportError(f"{type(model.policy).__name__} is no ActorCriticPolicy: only such can be exported")
    if isinstance(model.policy, RecurrentActorCriticPolicy):
        raise ExportError(f"{type(model.policy).__name__} keeps a state between steps, which a file can't")
    vec_normalize = vec_normalize or model.get_vec_normalize_env()
    if vec_normalize is None and model._last_original_obs is not None:
        raise ExportError("the model was trained behind VecNormalize: give its statistics (vec_normalize= or --normalize)")
    deployed = DeployedPolicy(model.policy, vec_normalize, channels_last)
    try:
        with atomic(path, path.suffix) as part:
            act = WRITERS[path.suffix](deployed, part)
            difference = largest_difference(act, model, vec_normalize, deployed.spaces)
    except OSError as error:
        raise ExportError(f"the policy can't be written: {reason(error)}") from error
    inputs = {name: (tuple(space.shape or ()), str(dtype_of(space))) for name, space in deployed.spaces.items()}
    return Exported(path, inputs, difference)


def _examples(deployed: DeployedPolicy) -> tuple[torch.Tensor, ...]:
    """Two of each raw observation: torch takes a batch of one for a constant."""
    generator = np.random.default_rng(1)
    return tuple(torch.as_tensor(sample(space, None, 2, generator)) for space in deployed.spaces.values())


def _card(deployed: DeployedPolicy) -> str:
    """Describe inputs and output, for whoever has nothing but the file."""
    inputs = [
        {"name": name, "shape": ["batch", *(space.shape or ())], "dtype": str(dtype_of(space)), "space": str(space)}
        for name, space in deployed.spaces.items()
    ]
    return json.dumps({"inputs": inputs, "action": str(deployed.policy.action_space), "torch": torch.__version__}, indent=1)


@contextlib.contextmanager
def _as_torch_exports() -> Iterator[None]:
    """
    Keep torch's notices about itself away, and its checks of distributions out of the file.

    A warning that a trace holds for its own input only is an error.
    """
    checks, silenced = Distribution._validate_args, logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", torch.jit.TracerWarning)
        logging.disable(logging.CRITICAL)
        Distribution.set_default_validate_args(False)
        try:
            yield
        finally:
            Distribution.set_default_validate_args(checks)
            logging.disable(silenced)


@contextlib.contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    try:
        with _as_torch_exports():
            yield
    except ImportError as error:
        raise ExportError(f"{what} needs {error.name}: pip install 'sb3-trpo-ext[export]'") from error
    except Exception as error:
        raise ExportError(f"the policy can't be written as {what}: {reason(error)}") from error


def _program(deployed: DeployedPolicy) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    each: Any = tuple({0: batch} for _ in deployed.spaces)
    return torch.export.export(deployed, _examples(deployed), dynamic_shapes=(each,))


def _write_onnx(deployed: DeployedPolicy, path: Path) -> Act:
    """
    Write ONNX, and read it with onnxruntime.

    :param deployed: the policy
    :param path: of the file
    :return: the file, as a function
    """
    with _in_one_line("ONNX"):
        import onnxruntime

        names = list(deployed.spaces)
        output = "next_action" if "action" in names else "action"  # of one graph no two values have the same name
        program = torch.onnx.export(_program(deployed), input_names=names, output_names=[output], dynamo=True, verbose=False)
        assert program is not None
        program.model.metadata_props[CARD] = _card(deployed)
        program.save(path, external_data=False)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda raw: session.run([output], dict(zip(names, raw, strict=True)))[0]


def _write_torchscript(deployed: DeployedPolicy, path: Path) -> Act:
    """
    Write TorchScript, frozen: no critic, no optimiser.

    :param deployed: the policy
    :param path: of the file
    :return: the file, as a function
    """
    with _in_one_line("TorchScript"):
        traced = torch.jit.freeze(torch.jit.trace(deployed, _examples(deployed)))
        torch.jit.save(traced, str(path), _extra_files={CARD: _card(deployed)})
        return _of_torch(torch.jit.load(str(path)))


def _write_program(deployed: DeployedPolicy, path: Path) -> Act:
    """
    Write what ``torch.export`` makes.

    :param deployed: the policy
    :param path: of the file
    :return: the file, as a function
    """
    with _in_one_line("a program of torch.export"):
        torch.export.save(_program(deployed), path, extra_files={CARD: _card(deployed)})
        return _of_torch(torch.export.load(path).module())


def _of_torch(module: Callable[..., torch.Tensor]) -> Act:
    def act(raw: list[np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            actions: np.ndarray = module(*(torch.as_tensor(each) for each in raw)).numpy()
        return actions

    return act


WRITERS: dict[str, Callable[[DeployedPolicy, Path], Act]] = {
    ".onnx": _write_onnx,
    ".pt": _write_torchscript,
    ".pt2": _write_program,
}
"""How a policy is written, by suffix."""
