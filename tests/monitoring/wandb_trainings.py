"""Small trainings that W&B follows: ``python -m tests.monitoring.wandb_trainings NAME``, in a folder of its own."""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext import TRPO, UpdateReport
from sb3_trpo_ext.monitoring import Monitor, WandbMonitor
from sb3_trpo_ext.monitoring.alarm import Evidence

N_STEPS, N_UPDATES = 64, 6


class Told(Monitor):
    """In trouble from the third update on, and once more in the last one."""

    def judge(self, report: UpdateReport) -> Iterator[tuple[str, Evidence]]:
        if report.n_updates >= 3:
            yield "TR101", {"kl_max": report.kl_max}
        if report.n_updates == N_UPDATES:
            yield "TR303", {"share": 1.0}


class Own(BaseCallback):
    """Records a key of its own."""

    def _on_rollout_end(self) -> None:
        self.logger.record("custom/answer", 42)

    def _on_step(self) -> bool:
        return True


class Dumps(BaseCallback):
    """Leaves two files, as the flight recorder would."""

    def _on_rollout_end(self) -> None:
        dumps = Path("run/dumps")
        dumps.mkdir(parents=True, exist_ok=True)
        (dumps / "small.json").write_text("{}")
        (dumps / "large.npz").write_bytes(bytes(3_000_000))

    def _on_step(self) -> bool:
        return True


def model(**settings: object) -> TRPO:
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=2, seed=0))
    return TRPO("MlpPolicy", env, n_steps=N_STEPS, batch_size=64, gamma=0.95, seed=0, log_folder="run", **settings)  # type: ignore[arg-type]


def callbacks(monitor: WandbMonitor) -> list[BaseCallback]:
    # Those that raise alarms and evaluate come after it: it has to wait for none.
    env = VecNormalize(make_vec_env("CartPole-v1", seed=1), training=False, norm_reward=False)
    return [monitor, Told(), EvalCallback(env, eval_freq=2 * N_STEPS, verbose=0), Own()]


def own() -> None:
    """Nobody has started a run."""
    monitor = WandbMonitor(histogram_every=2, max_artifact_mb=2.0)
    model().learn(2 * N_STEPS * N_UPDATES, callback=[*callbacks(monitor), Dumps()])
    monitor.on_training_end()  # as the RL Zoo does


def users(sync: str) -> None:
    """The user has started a run."""
    import wandb

    with wandb.init(
        project="mine", config={"mine": 1, "trpo": 3, "environment": "theirs"}, sync_tensorboard=sync == "synced"
    ) as run:
        trained = model(tensorboard_log="tb").learn(
            2 * N_STEPS * N_UPDATES, callback=callbacks(WandbMonitor(histogram_every=2))
        )
        assert wandb.run is run, "a run of the user's is the user's to finish"
        assert trained.last_update is not None


def unreachable() -> None:
    """A key, and no network."""
    from sb3_trpo_ext.monitoring import wandb

    wandb.INIT_SECONDS = 2.0
    warnings.simplefilter("default")
    model().learn(2 * N_STEPS * N_UPDATES, callback=WandbMonitor())


def endless() -> None:
    """Until a signal ends it."""
    model().learn(10_000_000, callback=WandbMonitor())


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    name, *arguments = sys.argv[1:]
    {"own": own, "users": users, "unreachable": unreachable, "endless": endless}[name](*arguments)
