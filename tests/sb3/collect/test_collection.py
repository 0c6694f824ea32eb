"""Our loop against SB3's: the same actions bit for bit, the rest to rounding; and who is left to SB3's loop, and why."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecNormalize, VecTransposeImage

from sb3_trpo_ext import NonFiniteError
from sb3_trpo_ext.sb3.trpo import ACTOR_ALONE
from tests.sb3.spaces import (
    ACTIONS,
    BOX,
    EXTRACTORS,
    OBSERVATIONS,
    BatchNormed,
    Nothing,
    RandomEnv,
    collect,
    make_env,
    make_model,
    same,
    with_extractor,
)

EXACT = ("actions", "episode_starts")
ROUNDED = ("rewards", "values", "log_probs", "advantages", "returns")
TOLERANCE = 1e-5


def sb3_loop(_: dict[str, Any], __: dict[str, Any]) -> bool:
    """A callback of the old kind gets all local variables: SB3's loop must run."""
    return True


def differences(ours: RolloutBuffer, theirs: RolloutBuffer) -> list[str]:
    found = [name for name in EXACT if not np.array_equal(getattr(ours, name), getattr(theirs, name))]
    if not same(_as_tensors(ours.observations), _as_tensors(theirs.observations)):
        found.append("observations")
    for name in ROUNDED:
        a, b = getattr(ours, name), getattr(theirs, name)
        if not np.abs(a - b).max() <= TOLERANCE * np.abs(b).max():
            found.append(f"{name}: {np.abs(a - b).max()} of {np.abs(b).max()}")
    return found


def _as_tensors(observations: Any) -> Any:
    if isinstance(observations, dict):
        return {key: torch.as_tensor(value) for key, value in observations.items()}
    return torch.as_tensor(observations)


def both_loops(make: Any) -> tuple[Any, Any]:
    ours, theirs = collect(make()), collect(make(), sb3_loop)
    assert ours.session.recorder.collection == ACTOR_ALONE
    assert theirs.session.recorder.collection.startswith("SB3's loop: ")
    return ours, theirs


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_space_is_collected_as_by_sb3(action: str, observation: str) -> None:
    ours, theirs = both_loops(lambda: make_model(action, observation))
    assert differences(ours.rollout_buffer, theirs.rollout_buffer) == []
    assert (ours.rollout_buffer.pos, ours.rollout_buffer.full) == (ours.n_steps, True)
    assert ours.num_timesteps == theirs.num_timesteps
    assert [dict(e, t=0) for e in ours.ep_info_buffer] == [dict(e, t=0) for e in theirs.ep_info_buffer]
    # What is to come is the same as well: the last observations, and torch's stream of random numbers.
    assert same(_as_tensors(ours._last_obs), _as_tensors(theirs._last_obs))


@pytest.mark.parametrize("action", ["box", "sde_squashed", "multidiscrete"])
def test_no_random_number_is_drawn_more_or_less(action: str) -> None:
    drawn = []
    for callback in (None, sb3_loop):
        torch.manual_seed(0)
        model = make_model(action)
        for _ in range(3):
            collect(model, callback)
        drawn.append(torch.rand(4))
    assert same(drawn[0], drawn[1])


def test_an_action_space_of_two_axes_and_a_discrete_observation() -> None:
    def make() -> Any:
        env = DummyVecEnv([lambda: RandomEnv(spaces.Discrete(5), spaces.Box(-1.0, 1.0, (2, 3))) for _ in range(3)])
        env.seed(0)
        return make_model(env=env)

    ours, theirs = both_loops(make)
    assert differences(ours.rollout_buffer, theirs.rollout_buffer) == []
    assert ours.rollout_buffer.observations.shape == (32, 3, 1)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_box_actions_of_any_shape(shape: tuple[int, ...]) -> None:
    def make() -> Any:
        env = DummyVecEnv([lambda: RandomEnv(OBSERVATIONS["vector"][0], spaces.Box(-1.0, 1.0, shape)) for _ in range(3)])
        env.seed(0)
        return make_model(env=env)

    ours, theirs = both_loops(make)
    assert differences(ours.rollout_buffer, theirs.rollout_buffer) == []
    ours.train()
    assert ours.last_update.accepted


def test_an_environment_that_writes_into_its_actions_changes_no_log_probability() -> None:
    class Writing(RandomEnv):
        def step(self, action: Any) -> Any:
            result = super().step(action)
            action[...] = 0
            return result

    def make() -> Any:
        env = DummyVecEnv([lambda: Writing(OBSERVATIONS["vector"][0], spaces.MultiBinary(3)) for _ in range(2)])
        env.seed(0)
        return make_model("multibinary", env=env)

    ours, theirs = both_loops(make)
    assert np.allclose(ours.rollout_buffer.log_probs, theirs.rollout_buffer.log_probs, atol=1e-6)


def test_an_environment_that_writes_into_its_last_observation_changes_no_bootstrap() -> None:
    class Reusing(RandomEnv):
        shown = np.zeros(6, np.float32)

        def observe(self) -> Any:
            self.shown[:] = super().observe()
            return self.shown

    class Sharing(DummyVecEnv):
        """Hands out infos without SB3's copies."""

        def step_wait(self) -> Any:
            observations, rewards, dones, _ = super().step_wait()
            return observations, rewards, dones, list(self.buf_infos)

    def make() -> Any:
        env = Sharing([lambda: Reusing(OBSERVATIONS["vector"][0], BOX, horizon=5)])
        env.seed(0)
        return make_model(env=env)

    ours, theirs = both_loops(make)
    assert differences(ours.rollout_buffer, theirs.rollout_buffer) == []


@pytest.mark.parametrize("extractor", EXTRACTORS)
@pytest.mark.parametrize("share", [True, False])
def test_custom_extractors_are_called_as_by_sb3(extractor: type, share: bool) -> None:
    ours, theirs = both_loops(lambda: with_extractor(extractor, share=share))
    assert differences(ours.rollout_buffer, theirs.rollout_buffer) == []


def test_a_squashed_gaussian_without_gsde() -> None:
    def make() -> Any:
        model = make_model()
        model.policy.action_dist = SquashedDiagGaussianDistribution(3)
        model.policy._squash_output = True
        return model

    ours, theirs = both_loops(make)
    assert np.abs(ours.rollout_buffer.actions).max() < 1.0
    assert differences(ours.rollout_buffer, theirs.rollout_buffer) == []


def test_timed_out_episodes_go_on_in_expectation() -> None:
    """One environment that never ends by itself, so that every episode's end is a time-out."""

    class Endless(RandomEnv):
        def step(self, action: Any) -> Any:
            observation, reward, _, truncated, info = super().step(action)
            return observation, reward, False, truncated, info

    def make() -> Any:
        env = DummyVecEnv([lambda: Endless(OBSERVATIONS["vector"][0], BOX, horizon=7) for _ in range(2)])
        env.seed(0)
        return make_model(env=env)

    ours, theirs = both_loops(make)
    assert ours.rollout_buffer.episode_starts[1:].sum() == 8
    assert differences(ours.rollout_buffer, theirs.rollout_buffer) == []
    bare = make()
    bare.gamma = 0.0
    collect(bare)
    moved = np.argwhere(ours.rollout_buffer.rewards != bare.rollout_buffer.rewards)
    assert sorted(map(tuple, moved.tolist())) == [(step, env) for step in (6, 13, 20, 27) for env in (0, 1)]


RESHAPED: dict[str, spaces.Space] = {
    "vector": OBSERVATIONS["vector"][0],
    "matrix": spaces.Box(-1.0, 1.0, (2, 3)),
    "multidiscrete": spaces.MultiDiscrete([3, 2]),
    "multibinary": spaces.MultiBinary(4),
    "dict": OBSERVATIONS["dict"][0],
}


def with_a_leading_one(observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: with_a_leading_one(part) for key, part in observation.items()}
    # A number stays one: NumPy no longer takes an array for it, so SB3's DummyVecEnv does not, either.
    return observation[None] if isinstance(observation, np.ndarray) else observation


class Reshaping(RandomEnv):
    """Observations of shape (1, 3) for a Box of (3,); every episode is cut off in the end."""

    def observe(self) -> Any:
        space = self.observation_space
        drawn = super().observe() if isinstance(space, spaces.Dict | spaces.Discrete | spaces.Box) else space.sample()
        return with_a_leading_one(drawn)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.observation_space.seed(seed)
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        self.step_count += 1
        return self.observe(), float(np.mean(action)), False, self.step_count % 7 == 0, {}


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("name", RESHAPED)
def test_what_sb3s_buffers_reshape_without_a_word_ours_do_too(name: str, n_envs: int) -> None:
    def make() -> Any:
        env = DummyVecEnv([lambda: Reshaping(RESHAPED[name], BOX) for _ in range(n_envs)])
        env.seed(0)
        return make_model("box", "dict" if name == "dict" else "vector", env=env)

    ours, theirs = both_loops(make)
    assert ours.rollout_buffer.episode_starts[1:].sum() == 4 * n_envs
    assert differences(ours.rollout_buffer, theirs.rollout_buffer) == []
    ours.train()
    assert ours.last_update.accepted


def test_a_vec_env_of_somebodys_own_may_add_a_dimension_too() -> None:
    class Adding(VecEnvWrapper):
        def reset(self) -> Any:
            return self.venv.reset()[:, None]

        def step_wait(self) -> Any:
            observations, rewards, dones, infos = self.venv.step_wait()
            return observations[:, None], rewards, dones, infos

    ours, theirs = both_loops(lambda: make_model(env=Adding(make_env(n_envs=1))))
    assert differences(ours.rollout_buffer, theirs.rollout_buffer) == []


def test_several_updates_learn_the_same_to_rounding() -> None:
    trained = []
    for callback in (None, sb3_loop):
        model = make_model(env=VecNormalize(make_env()), n_steps=64)
        model.learn(5 * 128, callback=callback)
        trained.append(torch.cat([p.detach().flatten() for p in model.policy.parameters()]))
    assert torch.allclose(trained[0], trained[1], rtol=1e-3, atol=1e-4)


class Recorded(BaseCallback):
    """Everything that SB3 shows to a callback, in order, but what is late."""

    reads_step_values = False

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []
        self.stop_after = stop_after

    def _on_rollout_start(self) -> None:
        self.calls.append(("start", self.num_timesteps))

    def _on_step(self) -> bool:
        self.calls.append(("obs_tensor", self.locals["obs_tensor"]))
        self.calls.append(("actions", torch.tensor(self.locals["actions"])))
        self.calls.append(("clipped_actions", torch.tensor(self.locals["clipped_actions"])))
        self.calls.append(("rewards", torch.tensor(self.locals["rewards"])))
        self.calls.append(("dones", torch.tensor(self.locals["dones"])))
        self.calls.append(("infos", sorted(self.locals["infos"][0])))
        self.calls.append(("new_obs", torch.tensor(self.locals["new_obs"])))
        self.calls.append(("n_steps", self.locals["n_steps"]))
        self.calls.append(("n_rollout_steps", self.locals["n_rollout_steps"]))
        self.calls.append(("self", type(self.locals["self"])))
        self.calls.append(("env", type(self.locals["env"])))
        self.calls.append(("num_timesteps", self.num_timesteps))
        return self.stop_after is None or self.n_calls < self.stop_after

    def _on_rollout_end(self) -> None:
        self.calls.append(("end", self.locals["n_steps"]))
        self.calls.append(("returns", self.model.rollout_buffer.returns.shape))


@pytest.mark.parametrize("stop_after", [None, 40])
def test_callbacks_are_called_as_by_sb3_and_see_the_same(stop_after: int | None) -> None:
    seen = []
    for others in ([], [sb3_loop]):
        recorded = Recorded(stop_after)
        model = make_model("discrete", n_steps=32)
        model.learn(64, callback=[recorded] if not others else CallbackList([recorded, _Old()]))
        assert (model.session.recorder.collection == ACTOR_ALONE) is (not others)
        seen.append(recorded.calls)
    assert len(seen[0]) > 300
    assert same([list(call) for call in seen[0]], [list(call) for call in seen[1]])


class _Old(Nothing):
    def _on_step(self) -> bool:
        return "values" in self.locals


def test_stopped_in_the_middle_the_buffer_holds_what_was_stored() -> None:
    model = make_model(n_steps=32)
    model.learn(64, callback=Recorded(stop_after=10))
    buffer = model.rollout_buffer
    assert (buffer.pos, buffer.full) == (9, False)
    assert bool(buffer.values[:9].all())
    assert not buffer.values[9:].any()
    assert not buffer.log_probs[9:].any()


# ---------------------------------------------------------------- what must not happen meanwhile


def reason(model: Any) -> str:
    return collect(model).session.recorder.collection


class Meddler(BaseCallback):
    """Changes the critic halfway."""

    reads_step_values = False

    def __init__(self, module: str, at: int = 16) -> None:
        super().__init__()
        self.module, self.at = module, at

    def _on_step(self) -> bool:
        if self.n_calls == self.at:
            with torch.no_grad():
                self.model.policy.get_submodule(self.module).weight.add_(0.1)
        return True


def test_weights_that_change_meanwhile_are_found_and_the_next_rollout_is_sb3s() -> None:
    model = make_model(n_steps=32)
    with pytest.warns(UserWarning, match=r"value_net\.weight changed while the policy collected"):
        collect(model, Meddler("value_net"))
    assert model.session.recorder.collection == ACTOR_ALONE
    assert reason(model) == "SB3's loop: value_net.weight changed while an earlier rollout was collected"


def test_a_policy_that_is_replaced_meanwhile_is_found() -> None:
    class Replaces(Nothing):
        reads_step_values = False

        def _on_step(self) -> bool:
            if self.n_calls == 10:
                self.model.policy = copy.deepcopy(self.model.policy)
            return True

    with pytest.warns(UserWarning, match="the policy itself changed while the policy collected"):
        collect(make_model(n_steps=32), Replaces())


def test_an_actor_that_changes_meanwhile_is_no_behaviour_of_the_policy() -> None:
    model = make_model(n_steps=32, on_stale_batch="skip")
    with pytest.warns(UserWarning, match=r"action_net\.weight changed"):
        collect(model, Meddler("action_net"))
    with pytest.warns(UserWarning, match="was not collected by the policy that is updated"):
        model.train()
    assert not model.last_update.accepted


def test_acting_on_changed_weights_is_acting_as_sb3_does() -> None:
    buffers = []
    for extra in ([], [_Old()]):
        model = make_model(n_steps=32)
        if extra:
            collect(model, CallbackList([Meddler("action_net"), *extra]))
        else:
            with pytest.warns(UserWarning, match="changed while"):
                collect(model, Meddler("action_net"))
        buffers.append(model.rollout_buffer)
    for name in ("actions", "log_probs"):
        assert np.allclose(getattr(buffers[0], name), getattr(buffers[1], name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("persistent", [True, False])
def test_a_module_that_keeps_state_is_found(persistent: bool) -> None:
    class Counting(BatchNormed):
        def build(self) -> None:
            super().build()
            self.register_buffer("count", torch.zeros(()), persistent=persistent)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            return super().forward(x)

    with pytest.warns(UserWarning, match=r"count changed while the policy collected"):
        collect(with_extractor(Counting))


def test_an_observation_that_is_not_finite_stops_before_the_network_sees_it() -> None:
    seen: list[torch.Tensor] = []

    class Watching(RandomEnv):
        def observe(self) -> Any:
            observation = super().observe()
            return observation * np.nan if self.step_count == 5 else observation

    class Spy(BatchNormed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return super().forward(x)

    env = DummyVecEnv([lambda: Watching(OBSERVATIONS["vector"][0], BOX)])
    model = with_extractor(Spy, env=env, n_steps=32)
    with pytest.raises(NonFiniteError, match="environment 0, step 4"):
        collect(model)
    assert model.session.recorder.collection == ACTOR_ALONE
    assert all(bool(torch.isfinite(x).all()) for x in seen)


def test_hooks_put_on_at_the_rollouts_start_are_obeyed() -> None:
    calls: list[int] = []

    class Hooking(Nothing):
        reads_step_values = False

        def _on_rollout_start(self) -> None:
            layer = self.model.policy.mlp_extractor.policy_net[0]
            self.handle = layer.register_forward_hook(lambda *_: calls.append(1))

    collect(make_model(n_steps=32), Hooking())
    assert len(calls) == 32


def test_the_phi_that_are_kept_are_those_of_sb3s_loop() -> None:
    for action in ("box", "sde", "discrete", "multidiscrete", "multibinary"):
        ours, theirs = both_loops(lambda action=action: make_model(action))
        phi, expected = (model.session.recorder.phi(model.n_steps, model.n_envs) for model in (ours, theirs))
        if action in ("discrete", "multidiscrete"):
            # Logits: the same up to a constant for each category.
            columns = [4] if action == "discrete" else [3, 2]
            phi = torch.cat([part.log_softmax(-1) for part in phi.split(columns, dim=-1)], dim=-1)
        assert torch.allclose(phi, expected, rtol=1e-6, atol=1e-6), action


def test_memory_of_the_values_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_trpo_ext.sb3.collect import values

    class TimedOut(RandomEnv):
        def step(self, action: Any) -> Any:
            observation, reward, _, _, info = super().step(action)
            return observation, reward, False, True, info

    sizes: list[int] = []
    env = VecTransposeImage(DummyVecEnv([lambda: Monitor(TimedOut(OBSERVATIONS["image"][0], BOX)) for _ in range(2)]))
    model = make_model("box", "image", env=env)
    predict = ActorCriticPolicy.predict_values
    monkeypatch.setattr(values, "VALUES_MEMORY", 4 * 36 * 36 * 10)
    monkeypatch.setattr(ActorCriticPolicy, "predict_values", lambda self, obs: (sizes.append(len(obs)), predict(self, obs))[1])
    collect(model)
    assert model.session.recorder.collection == ACTOR_ALONE
    assert max(sizes) == 10
