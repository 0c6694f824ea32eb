"""Large batches: chunks and recomputation change nothing but rounding, and nothing in an update sees more than a chunk."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from sb3_trpo_ext.core.fisher import Curvature, FisherOperator, Rung, RungChoice
from sb3_trpo_ext.core.flat import flatten
from sb3_trpo_ext.core.ladder import LADDER, PROBE_SAMPLES
from sb3_trpo_ext.core.reduce import WeightedMean, chunked
from sb3_trpo_ext.core.status import Diagnostic
from sb3_trpo_ext.sb3 import hyperparameters
from sb3_trpo_ext.sb3.problem import critic as critic_module
from sb3_trpo_ext.sb3.problem import reading
from sb3_trpo_ext.sb3.problem.batch import read_batch
from sb3_trpo_ext.sb3.problem.evaluation import evaluate_batch
from tests.sb3.spaces import BatchNormed, collect, make_model, same, state_of, with_extractor

N = 24
KINDS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "mlp_general": {"policy_kwargs": {"activation_fn": nn.SiLU}},
    "mlp_gsde": {"action": "sde"},
    "dict": {"observation": "dict"},
    "cnn_shared": {"observation": "image"},
    "cnn_separate": {"observation": "image_separate", "action": "discrete"},
}
SIZES = {"one": 1, "uneven": 7, "larger": 1000}
EXACT = 1e-10


def small(**kwargs: Any) -> Any:
    return collect(make_model(**{"n_steps": N // 2, **kwargs}))


def evaluated(model: Any, size: int | None) -> Any:
    model.policy.set_training_mode(False)
    return evaluate_batch(model.policy, read_batch(model.rollout_buffer, model.session.recorder), 0.5, size)


def close(found: Tensor, reference: Tensor) -> bool:
    return float((found - reference).norm()) <= EXACT * float(reference.norm())


def weights_with_zeros() -> Tensor:
    """A whole chunk of seven has no weight, and others in part."""
    weights = torch.rand(N, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights[7:14] = 0.0
    weights[[0, 20, 23]] = 0.0
    return weights


def in_chunks(curvature: Curvature, size: int) -> Curvature:
    return replace(curvature, mean=WeightedMean(weights_with_zeros().to(curvature.theta[0].device), chunked(N, size)))


def choices_of(curvature: Curvature) -> list[RungChoice]:
    return [choice for choice in LADDER if choice.rung is not Rung.CLOSED_FORM or curvature.mlp is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_change_nothing_on_any_rung(kind: str) -> None:
    """Products, gradients and evaluations, also where samples of weight zero fill a chunk."""
    problem = evaluated(small(**KINDS[kind]), None).problem
    curvature, surrogate = problem.linearised.curvature, problem.surrogate
    plain = FisherOperator(in_chunks(curvature, N), LADDER[-1])
    vector = torch.randn(len(flatten(curvature.theta)), dtype=torch.float64)
    product, gradient = plain.product(vector), plain.gradient(surrogate.slopes)
    theta = tuple(part + 0.01 * torch.randn_like(part) for part in curvature.theta)
    judged = replace(surrogate, mean=plain.curvature.mean).evaluate(theta)
    for name, size in SIZES.items():
        cut = in_chunks(curvature, size)
        for choice in choices_of(cut):
            operator = FisherOperator(cut, choice)
            assert close(operator.product(vector), product), (name, choice.name)
            assert close(operator.gradient(surrogate.slopes), gradient), (name, choice.name)
            assert close(operator.phi(), surrogate.phi), (name, choice.name)
        again = replace(surrogate, mean=cut.mean).evaluate(theta)
        assert vars(again) == pytest.approx(vars(judged), rel=EXACT), name


class Deep(BaseFeaturesExtractor):
    """A stack that is hard to run in segments: stacks within, layers that overwrite, one weight in two places, batch norm."""

    def __init__(self, observation_space: Any):
        super().__init__(observation_space, features_dim=8)
        tied = nn.Linear(8, 8)
        inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8))
        self.net = nn.Sequential(
            nn.Linear(6, 8),
            nn.ReLU(inplace=True),
            tied,
            nn.Tanh(),
            inner,
            nn.BatchNorm1d(8),
            nn.ReLU(inplace=True),
            tied,
            nn.Sequential(nn.Linear(8, 8), nn.SiLU()),
        )
        self.net[5].running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class BeginsInPlace(Deep):
    def forward(self, x: Tensor) -> Tensor:
        return self.net[1:](self.net[0](x))


RECOMPUTED = {**KINDS, "deep": Deep, "begins_in_place": BeginsInPlace}


def model_of(kind: str) -> Any:
    made = RECOMPUTED[kind]
    return collect(with_extractor(made, n_steps=N // 2)) if isinstance(made, type) else small(**made)


@pytest.mark.parametrize("kind", RECOMPUTED)
def test_recomputation_changes_nothing(kind: str) -> None:
    """On any rung: what is recomputed runs with theta in float64, not with what the policy holds by then."""
    found = evaluated(model_of(kind), 10)
    curvature, slopes = replace(found.problem.linearised.curvature, mlp=None), found.problem.surrogate.slopes
    vector = torch.randn(len(flatten(curvature.theta)), dtype=torch.float64)
    for choice in choices_of(curvature):
        operator = FisherOperator(curvature, choice)
        results = []
        for recomputes in (False, True):
            found.function.recomputes = recomputes
            operator.release()
            results += [operator.product(vector), operator.product(vector), operator.gradient(slopes)]
        for plain, recomputed in zip(results[:3], results[3:], strict=True):
            assert close(recomputed, plain), choice.name
    assert all("forward" not in vars(module) for module in found.function.policy.modules())


def kept_by(function: Any, theta: Any) -> int:
    """Bytes that autograd keeps of one evaluation, parameters apart."""
    leaves = tuple(part.requires_grad_() for part in theta)
    own, kept = {part.data_ptr() for part in leaves}, {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function(leaves, slice(0, N)).sum()
    return sum(kept.values())


def test_recomputation_keeps_less() -> None:
    deep = {"net_arch": [32] * 16, "activation_fn": nn.SiLU}
    function = evaluated(small(policy_kwargs=deep), None).function
    whole = kept_by(function, function.theta(torch.float64))
    function.recomputes = True
    assert kept_by(function, function.theta(torch.float64)) < whole / 3


def test_recomputation_begins_where_one_sample_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(observation="image", cg_precision="float64", batch_size=N, cg_max_steps=3)
    before = state_of(model)
    model.train()
    ordinary, inputs = state_of(model), model.session.update_inputs.evaluated
    assert (inputs.function.recomputes, len(inputs.chunks)) == (False, 1)
    monkeypatch.setattr(reading, "MEMORY_LIMIT", 1)
    again = small(observation="image", cg_precision="float64", batch_size=N, cg_max_steps=3)
    assert same(state_of(again), before)
    again.train()
    inputs = again.session.update_inputs.evaluated
    assert (inputs.function.recomputes, len(inputs.chunks)) == (True, N)
    assert again.last_update.fisher_rung == "forward_reverse/recomputed"
    for name, tensor in again.policy.state_dict().items():
        torch.testing.assert_close(tensor, ordinary["policy"][name], rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------- nothing sees more than a chunk

SEEN = {
    "mlp": {"policy_kwargs": {"activation_fn": nn.SiLU}},
    "cnn": {"observation": "image"},
    "cnn_separate": {"observation": "image_separate", "action": "discrete"},
    "dict": {"observation": "dict", "policy_kwargs": {"activation_fn": nn.SiLU}},
}
VARIANTS = {
    "default": {},
    "kfac": {"cg_preconditioner": "kfac"},
    "full_batch_critic": {"batch_size": 80},
    "sub_sample": {"sub_sampling_factor": 2},
}


@contextmanager
def rows_seen(policy: nn.Module) -> Iterator[list[int]]:
    """How many samples went through a module that has parameters, each time."""
    seen: list[int] = []

    def note(_: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(len(args[0]))

    handles = [m.register_forward_pre_hook(note) for m in policy.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def most_rows_seen(kind: str, variant: str) -> int:
    model = collect(
        make_model(**SEEN[kind], n_steps=40, n_critic_updates=1, cg_max_steps=2, fisher_chunk_size=10, **VARIANTS[variant])
    )
    model.subscribe(*(name for name in Diagnostic if name is not Diagnostic.ACTIVITY))
    with rows_seen(model.policy) as seen:
        model.train()
        model.session.diagnosis._drift(model.session.update_inputs.evaluated.problem, True)
    assert model.last_update.accepted
    return max(seen)


SEEN_CASES = [(kind, "default") for kind in SEEN] + [("cnn", variant) for variant in VARIANTS if variant != "default"]


@pytest.mark.parametrize(("kind", "variant"), SEEN_CASES)
def test_nothing_in_an_update_sees_more_than_a_chunk(kind: str, variant: str) -> None:
    """Save for probes of a fixed size, and the critic's minibatches: three chunks, or what was asked for."""
    parts = 3 * 10 if variant == "full_batch_critic" else 32
    assert most_rows_seen(kind, variant) <= max(PROBE_SAMPLES, parts)


@pytest.mark.parametrize("bug", ["policy step", "critic"])
def test_what_sees_the_whole_batch_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if bug == "policy step":
        monkeypatch.setattr(reading, "chunked", lambda n_samples, size: (slice(0, n_samples),))
    else:
        monkeypatch.setattr(critic_module, "CHUNKS_AT_ONCE", 100)
    assert most_rows_seen("cnn", "full_batch_critic") == 80


@pytest.mark.parametrize("kind", ["mlp_general", "cnn_shared", "dict"])
def test_a_minibatch_in_parts_leads_to_the_same_critic(kind: str) -> None:
    found = []
    for size in (None, 7):
        model = small(**KINDS[kind], batch_size=N)
        np.random.seed(0)  # noqa: NPY002
        model.fisher_chunk_size = size
        model.train()
        found.append((model.policy.state_dict(), model.last_update))
    (whole, _), (parts, report) = found
    assert report.value_loss_after < report.value_loss_before
    for name, tensor in parts.items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-3, atol=1e-5)


def test_batch_norm_is_trained_on_whole_minibatches() -> None:
    """Its statistics are those of a minibatch, and parts would have others."""
    model = collect(with_extractor(BatchNormed, share=False, n_steps=N // 2, batch_size=N, fisher_chunk_size=7))
    sizes = []
    model.policy.vf_features_extractor.norm.register_forward_pre_hook(
        lambda module, args: sizes.append(len(args[0])) if module.training else None
    )
    model.train()
    assert set(sizes) == {N}


# ---------------------------------------------------------------- residuals


@pytest.mark.parametrize(("preconditioner", "kept"), [("none", 3), ("kfac", 1)])
def test_residuals_are_kept_as_the_memory_bound_allows(
    preconditioner: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three vectors of the actor's size and a bit; with a preconditioner each takes two."""
    model = small(cg_preconditioner=preconditioner)
    model.train()
    n_parameters = sum(part.numel() for part in model.session.update_inputs.evaluated.problem.parameters)
    monkeypatch.setattr(hyperparameters, "RESIDUALS_MEMORY", 3 * 8 * n_parameters + 7)
    collect(model).train()
    assert model.last_update.cg_iterations > kept
    assert model.last_update.cg_kept == kept


def test_25_residuals_of_ten_million_parameters_are_within_the_bound() -> None:
    assert hyperparameters.RESIDUALS_MEMORY >= 25 * 8 * 10**7


# ---------------------------------------------------------------- measured

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
linux = pytest.mark.skipif(not CLEAR.exists(), reason="reads Linux's high-water mark")


def status(field: str) -> int:
    """MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) // 1024


def rise_of(model: Any) -> int:
    """How far an update raises the resident memory, MiB."""
    CLEAR.write_text("5")
    before = status("VmRSS")
    model.train()
    return status("VmHWM") - before


@linux
def test_chunks_bound_the_memory_of_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,096 samples of a net whose graph takes 2 KiB of activations each, and much more in Fisher products."""
    large: dict[str, Any] = {"n_steps": 2048, "n_critic_updates": 1, "batch_size": 256, "cg_max_steps": 2}
    large["policy_kwargs"] = {"net_arch": [256, 256], "activation_fn": nn.SiLU}
    collect(make_model(n_steps=32)).train()
    assert rise_of(collect(make_model(**large, fisher_chunk_size=128))) < 30
    monkeypatch.setattr(reading, "chunked", lambda n_samples, size: (slice(0, n_samples),))
    assert rise_of(collect(make_model(**large, fisher_chunk_size=128))) > 60


LIMIT = reading.MEMORY_LIMIT // 2**20


@linux
@pytest.mark.slow
@pytest.mark.parametrize("size", [None, 4096])
def test_an_update_of_131072_samples(size: int | None) -> None:
    model = collect(make_model(n_envs=64, n_steps=2048, policy_kwargs={"net_arch": [64, 64]}, fisher_chunk_size=size))
    assert rise_of(model) < 2 * LIMIT  # the graphs, and what grows with the batch
    assert model.last_update.accepted


def products_of_frames(n_frames: int, device: torch.device) -> list[Tensor]:
    """One product of SB3's Nature CNN in each precision, in chunks from the memory bound."""
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    torch.manual_seed(0)
    policy = ActorCriticCnnPolicy(space, spaces.Discrete(6), lambda _: 1e-3).to(device)
    frames = torch.randint(0, 256, (n_frames, 4, 84, 84), dtype=torch.uint8).to(device)
    function = reading.PolicyFunction(policy, frames, device)
    chunks = reading._chunks(function, n_frames, None)
    function.own(chunks[:1])
    mean = WeightedMean(torch.ones(n_frames, dtype=torch.float64, device=device), chunks)
    vector = torch.randn(sum(p.numel() for p in function.parameters), dtype=torch.float64).to(device)
    family, choice = reading.action_distribution(policy), RungChoice(Rung.FORWARD_REVERSE, retained=False)
    return [
        FisherOperator(Curvature(function, function.theta(dtype), family, 1.0, mean), choice).product(vector)
        for dtype in (torch.float32, torch.float64)
    ]


@linux
@pytest.mark.slow
def test_products_of_8192_frames() -> None:
    """
    In four times the memory that the graphs may take, and the frames, of 231 MB: un-chunked, 19 GiB. (Graphs are what is
    reckoned; float64 convolutions unfold their inputs beside them on a CPU, and its libraries keep buffers.)
    """
    CLEAR.write_text("5")
    before = status("VmRSS")
    fast, exact = products_of_frames(8192, torch.device("cpu"))
    assert status("VmHWM") - before < 4 * LIMIT + 8192 * 4 * 84 * 84 // 2**20
    assert float((fast - exact).norm()) < 1e-3 * float(exact.norm())


@pytest.mark.gpu
def test_products_of_8192_frames_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.cuda.reset_peak_memory_stats()
    fast, exact = products_of_frames(8192, torch.device("cuda"))
    assert torch.cuda.max_memory_allocated() < 2 * reading.GPU_MEMORY_LIMIT + 8192 * 4 * 84 * 84
    assert float((fast - exact).norm()) < 1e-3 * float(exact.norm())


def test_chunks_and_recomputation_on_any_device(device: torch.device) -> None:
    whole = evaluated(small(observation="image", device=device), None)
    curvature = whole.problem.linearised.curvature
    vector = torch.randn(len(flatten(curvature.theta)), dtype=torch.float64).to(device)
    plain = FisherOperator(in_chunks(curvature, N), LADDER[-1]).product(vector)
    for whole.function.recomputes in (False, True):
        for choice in choices_of(curvature):
            assert close(FisherOperator(in_chunks(curvature, 7), choice).product(vector), plain), choice.name
