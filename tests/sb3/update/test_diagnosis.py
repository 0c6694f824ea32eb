"""Diagnostics of real updates: what the report says is what a literal look at model and buffer says."""

import warnings
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.distributions import kl_divergence
from torch import nn

from sb3_trpo_ext import UpdateReport
from sb3_trpo_ext.core.status import Diagnostic
from sb3_trpo_ext.records.keys import logged_values
from tests.sb3.spaces import (
    ACTIONS,
    EXTRACTORS,
    OBSERVATIONS,
    Witness,
    collect,
    make_env,
    make_model,
    n_hooks,
    same,
    state_of,
    with_extractor,
)

ALL = tuple(str(name) for name in Diagnostic)
FIELDS = {
    "activity": {
        "activity_samples",
        "layer_names",
        "layer_units",
        "layer_dead",
        "layer_saturated",
        "actor_inactive",
        "critic_inactive",
    },
    "drift": {"drift_kl"},
    "residuals": {"td_mean", "td_rms", "td_z", "td_p", "td_time_starts", "td_time_means", "td_time_z", "td_time_p"},
    "episodes": {"explained_variance_mc", "mc_samples"},
    "tails": {"advantage_kurtosis", "advantage_top_weight"},
}


def computed(report: UpdateReport) -> set[str]:
    known = set().union(*FIELDS.values())
    return {name for name in known if getattr(report, name) not in (None, ())}


def update(model: Any, *names: str, times: int = 1) -> UpdateReport:
    model.subscribe(*names)
    for _ in range(times):
        collect(model).train()
    return model.last_update


@pytest.mark.parametrize("name", ALL)
def test_only_what_is_subscribed_is_computed(name: str) -> None:
    report = update(make_model(n_steps=128), name, times=2)
    # Its episodes are short: there are no two phases to compare.
    assert computed(report) == {field for field in FIELDS[name] if not field.startswith("td_time")}
    keys = dict(logged_values(report))
    assert ("train/drift_kl" in keys) == (name == "drift")
    assert ("train/td_bias_z" in keys) == (name == "residuals")


def test_nothing_is_computed_for_nobody() -> None:
    assert computed(update(make_model(), times=2)) == set()


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_every_space(action: str, observation: str) -> None:
    report = update(make_model(action, observation, target_kl=0.05), *ALL, times=3)
    assert computed(report) >= set().union(*FIELDS.values()) - {"td_time_starts", "td_time_means", "td_time_z", "td_time_p"}
    assert UpdateReport.from_json(report.to_json()) == report
    networks = [name.split()[0] for name in report.layer_names]
    assert {"actor", "critic"} == set(networks)
    convolutions = 3 if observation.startswith("image") else 0
    # NatureCNN has three convolutions and one Linear layer behind them.
    assert networks.count("actor") == 1 + convolutions + (convolutions > 0)
    assert report.layer_units[:3] == ((32, 64, 64) if convolutions else report.layer_units[:3])
    assert report.actor_inactive == pytest.approx(
        max(d + s for n, d, s in zip(networks, report.layer_dead, report.layer_saturated, strict=True) if n == "actor")
    )


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_any_torch_module(extractor: Any) -> None:
    model = with_extractor(extractor)
    report = update(model, *ALL, times=2)
    assert report.activity_samples == 64
    assert n_hooks(model.policy) == 0


def test_activity_is_that_of_the_updated_policy() -> None:
    model = make_model(policy_kwargs={"net_arch": [10], "activation_fn": nn.ReLU}, n_steps=64)
    with torch.no_grad():
        model.policy.mlp_extractor.policy_net[0].bias[:3] = -50.0
        model.policy.mlp_extractor.value_net[0].bias[:5] = -50.0
    report = update(model, "activity")
    inputs = model.session.update_inputs.batch.observations
    for name, dead in zip(report.layer_names, report.layer_dead, strict=True):
        network = {"actor": "policy_net", "critic": "value_net"}[name.split()[0]]
        with torch.no_grad():
            values = getattr(model.policy.mlp_extractor, network)(inputs)
        assert dead == float((values == 0.0).all(dim=0).double().mean()) >= 0.3
        assert name.endswith(f"mlp_extractor.{network}.1")


def test_drift_is_the_kl_that_sb3_gives() -> None:
    model = make_model(target_kl=0.05)
    model.subscribe("drift")
    collect(model)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    model.train()
    assert model.last_update.drift_kl is None
    collect(model)
    witness = Witness(model)
    after = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    # The witness holds pi_k; KL(pi_k || pi_{k-1}) needs the other order, and the policy before it.
    model.policy.load_state_dict(before)
    older, _ = witness._view()
    expected = float(kl_divergence(witness.old, older).double().mean())
    model.policy.load_state_dict(after)
    model.train()
    assert model.last_update.drift_kl == pytest.approx(expected, rel=1e-3)
    # On its own batch the step kept the bound; on the next it need not.
    assert model.last_update.drift_kl != pytest.approx(model.last_update.kl, rel=1e-3)


def test_no_drift_after_a_step_that_was_not_taken() -> None:
    model = make_model(min_explained_variance=0.9999)
    assert update(model, "drift", times=3).drift_kl is None


@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (0.9, 1.0), (0.5, 0.0)])
def test_residuals_are_those_of_rewards_and_values(gamma: float, lam: float) -> None:
    """Episodes that end by themselves, by time-outs and not at all, in a buffer that SB3 has filled."""
    model = make_model(n_steps=100, gamma=gamma, gae_lambda=lam)
    model.subscribe("residuals")
    collect(model)
    buffer: RolloutBuffer = model.rollout_buffer
    with torch.no_grad():
        last = model.policy.predict_values(torch.as_tensor(model._last_obs)).flatten().numpy()
    residuals = np.zeros((100, 2))
    for env in range(2):
        for t in range(100):
            # SB3 has put the bootstrapped value of a time-out into its reward.
            final = t == 99
            ended = model._last_episode_starts[env] if final else buffer.episode_starts[t + 1, env]
            following = last[env] if final else buffer.values[t + 1, env]
            residuals[t, env] = buffer.rewards[t, env] - buffer.values[t, env] + (0.0 if ended else gamma * following)
    assert 2 < buffer.episode_starts.sum() < 50
    model.train()
    report = model.last_update
    assert report.td_mean == pytest.approx(residuals.mean(), rel=1e-4)
    assert report.td_rms == pytest.approx(np.sqrt(np.square(residuals).mean()), rel=1e-4)
    assert report.td_z == pytest.approx(residuals.sum() / np.sqrt(np.square(residuals).sum()), rel=1e-4)


def long_episodes(horizon: int) -> Any:
    """Episodes that end by time-out only."""
    env = make_env(horizon=horizon)
    for one in env.unwrapped.envs:
        one.unwrapped.step = lambda action, one=one.unwrapped: _never_ends(one, action)
    return env


def test_time_within_an_episode_goes_on_over_batches() -> None:
    # Episodes of 300 steps in batches of 100.
    model = make_model(n_steps=100, env=long_episodes(300))
    model.subscribe("residuals")
    starts = []
    for _ in range(4):
        collect(model).train()
        starts.append(model.last_update.td_time_starts)
    # Steps 0-99 (two of the bins have fewer than 50 residuals); 100-199; 200-299; a new episode.
    assert starts == [(32, 64), (64, 128), (128, 256), (32, 64)]


def test_a_time_that_is_not_known_is_not_guessed() -> None:
    model = make_model(n_steps=100, env=long_episodes(300))
    collect(model).train()
    model.subscribe("residuals")
    starts = []
    for _ in range(3):
        collect(model).train()
        starts.append(model.last_update.td_time_starts)
    # Nobody counted the first 100 steps; the episode ends with the batch of the third hundred.
    assert starts == [(), (), (32, 64)]
    assert model.last_update.td_z is not None


def _never_ends(env: Any, action: Any) -> Any:
    env.step_count += 1
    return env.observe(), env.reward(action), False, env.step_count >= env.horizon, {}


def test_monte_carlo_returns_of_finished_episodes() -> None:
    model = make_model(n_steps=60, gamma=0.9)
    model.subscribe("episodes")
    collect(model)
    buffer = model.rollout_buffer
    returns, values = [], []
    for env in range(2):
        ends = [*buffer.episode_starts[1:, env], model._last_episode_starts[env]]
        for t in range(60):
            later = [step for step in range(t, 60) if ends[step]]
            if later:
                returns.append(sum(0.9 ** (s - t) * buffer.rewards[s, env] for s in range(t, later[0] + 1)))
                values.append(buffer.values[t, env])
    model.train()
    report = model.last_update
    assert report.mc_samples == len(returns) < 120
    expected = 1.0 - np.var(np.array(returns) - np.array(values)) / np.var(returns)
    assert report.explained_variance_mc == pytest.approx(expected, rel=1e-4)


def test_without_a_finished_episode_there_is_nothing_to_explain() -> None:
    report = update(make_model(env=long_episodes(10_000)), "episodes")
    assert (report.explained_variance_mc, report.mc_samples) == (None, 0)


class OwnAdvantages(RolloutBuffer):
    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: np.ndarray) -> None:
        super().compute_returns_and_advantage(last_values, dones)
        self.advantages **= 3


def test_a_buffer_with_advantages_of_its_own_has_no_residuals() -> None:
    report = update(make_model(rollout_buffer_class=OwnAdvantages), *ALL)
    assert (report.td_mean, report.mc_samples) == (None, None)
    assert report.advantage_kurtosis is not None


def test_a_policy_that_draws_numbers_draws_the_same_with_diagnostics() -> None:
    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0.0 * torch.rand(1)

    draws, states = [], []
    for names in ((), ALL):
        torch.manual_seed(0)
        model = make_model(policy_kwargs={"activation_fn": Noisy})
        update(model, *names, times=2)
        draws.append(float(torch.rand(1)))
        states.append(dict(model.policy.state_dict()))
    assert draws[0] == draws[1]
    assert same(*states)


def test_subscriptions_and_memories_are_not_saved(tmp_path: Path) -> None:
    model = make_model()
    update(model, *ALL)
    model.save(tmp_path / "model.zip")
    with ZipFile(tmp_path / "model.zip") as file:
        assert b'"session"' not in file.read("data")
    assert type(model).load(tmp_path / "model.zip").session.diagnosis.subscribed == set()


class Picky(torch.nn.Module):
    """An activation that takes no other width than its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x.view(len(x), 8))


def test_a_diagnostic_that_a_policy_can_not_bear_ends_no_run() -> None:
    model = make_model(policy_kwargs={"activation_fn": Picky})
    model.subscribe("activity", "tails")
    with pytest.warns(UserWarning, match="the diagnostic 'activity' does not work on this policy, and is left out"):
        model.learn(64)
    assert model.last_update.accepted
    assert model.last_update.actor_inactive is None
    assert model.last_update.advantage_kurtosis is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(64, reset_num_timesteps=False)


def test_dead_units_before_the_first_update_are_counted_once_and_change_nothing() -> None:
    # The critic's steps kill some; the policy is what it is without anybody looking.
    models, reports = [], []
    for names in (("activity",), ()):
        model = make_model(policy_kwargs={"net_arch": [64, 64], "activation_fn": nn.ReLU}, learning_rate=0.3)
        with torch.no_grad():
            model.policy.mlp_extractor.value_net[2].bias[:8] = -100.0
        models.append(model)
        reports.append(update(model, *names))
    assert same(*map(state_of, models))
    looked_at, alone = reports
    share = dict(zip(looked_at.layer_names, looked_at.layer_dead_before, strict=True))
    after = dict(zip(looked_at.layer_names, looked_at.layer_dead, strict=True))
    name = "critic mlp_extractor.value_net.3"
    assert 8 / 64 <= share[name] < after[name]
    assert alone.layer_dead_before == ()
    assert update(models[0], "activity").layer_dead_before == ()
