"""A model's zip: whole or not there, and with the statistics of its own moment."""

from __future__ import annotations

import io
import pickle
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
import torch
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.sb3.checkpoints.model_files import statistics_in
from sb3_trpo_ext.sb3.vec_env import FastVecNormalize
from tests.sb3.checkpoints.restorable import BATCH, numbers, trpo, walks


def moments(normalize: VecNormalize) -> list[Any]:
    found = [vars(normalize)[name] for name in ("obs_rms", "ret_rms") if name in vars(normalize)]
    return [(np.array(each.mean).tolist(), np.array(each.var).tolist(), float(each.count)) for each in found]


def held(path: str | Path) -> VecNormalize:
    content = statistics_in(Path(path))
    assert content is not None
    return pickle.loads(content)


class Remembers(BaseCallback):
    """The statistics whenever it is called, by number of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, list[Any]] = {}

    def _on_step(self) -> bool:
        self.seen[self.num_timesteps] = moments(self.model.get_vec_normalize_env())
        return True


def test_whatever_stores_a_model_stores_the_statistics_of_that_moment() -> None:
    remembers = Remembers()
    best = EvalCallback(walks(None, True), best_model_save_path="best", n_eval_episodes=1, eval_freq=20, verbose=0)
    model = trpo(walks(None, True), None).learn(2 * BATCH, [remembers, best, CheckpointCallback(10, "saves")])
    for path in Path("saves").iterdir():
        assert moments(held(path)) == remembers.seen[int(path.name.split("_")[2])]
    assert len(list(Path("saves").iterdir())) == 6
    at = torch.load(zipfile.ZipFile("best/best_model.zip").open("policy.optimizer.pth"))  # it is a model
    assert at["param_groups"]
    assert moments(held("best/best_model.zip")) in [seen for step, seen in remembers.seen.items() if step % 40 == 0]
    model.save("end")
    assert moments(held("end.zip")) == moments(model.get_vec_normalize_env())


@pytest.mark.parametrize(
    "wrap",
    [
        VecNormalize,
        FastVecNormalize,
        lambda env: VecFrameStack(VecNormalize(env), 2),
        lambda env: VecNormalize(env, norm_obs=False),
    ],
    ids=["SB3's", "ours", "below a frame stack", "rewards only"],
)
def test_the_entry_is_what_vec_normalize_load_reads(wrap: Any) -> None:
    model = trpo(wrap(walks(None)), None).learn(BATCH)
    model.save("model.zip")
    zipfile.ZipFile("model.zip").extract("vecnormalize.pkl")
    loaded = VecNormalize.load("vecnormalize.pkl", walks(None))
    assert type(loaded) is VecNormalize
    assert moments(loaded) == moments(model.get_vec_normalize_env())


def test_without_vec_normalize_there_is_none_and_sb3_contrib_reads_both() -> None:
    for name, env in (("raw", walks(None)), ("normalised", walks(None, True))):
        model = trpo(env, None)
        model.save(name)
        assert torch.equal(numbers(sb3_contrib.TRPO.load(name)), numbers(model))
    assert statistics_in(Path("raw.zip")) is None
    assert statistics_in(Path("nowhere.zip")) is None


def test_paths_as_sb3_takes_them() -> None:
    model = trpo(walks(None), None)
    Path("there").mkdir()
    Path("link.zip").symlink_to("there/target.zip")
    for path in ("plain", Path("deep/er/model"), "other.suffix", "link.zip"):
        model.save(path)
    assert sorted(str(path) for path in Path().rglob("*.*")) == [
        *("deep/er/model.zip", "link.zip", "other.suffix", "plain.zip", "there/target.zip")
    ]
    assert Path("link.zip").is_symlink()
    Path("plain.zip").chmod(0o640)
    model.save("plain")
    assert stat.S_IMODE(Path("plain.zip").stat().st_mode) == 0o640
    buffer = io.BytesIO()
    model.save(buffer)
    buffer.seek(0)
    assert torch.equal(numbers(TRPO.load(buffer)), numbers(model))


def test_an_earlier_file_stays_until_the_new_one_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trpo(walks(None, True), None)
    model.save("model")
    before = Path("model.zip").read_bytes()

    def half(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("no space left on device")

    model.learn(BATCH)
    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="no space left"):
        model.save("model")
    assert Path("model.zip").read_bytes() == before
    assert [path.name for path in Path().iterdir()] == ["model.zip"]


class Stubborn(VecNormalize):
    def __getstate__(self) -> Any:
        raise TypeError("cannot pickle this")


def test_statistics_that_cannot_be_pickled_are_no_reason_not_to_save() -> None:
    model = trpo(Stubborn(walks(None)), None)
    with pytest.warns(UserWarning, match=r"statistics of Stubborn can't be saved with the model \(TypeError"):
        model.save("model")
    assert torch.equal(numbers(TRPO.load("model")), numbers(model))


def fresh() -> VecNormalize:
    return VecNormalize(walks(None))


def seen() -> VecNormalize:
    env = fresh()
    env.reset()
    return env


@pytest.mark.parametrize("source", ["a path", "a path without suffix", "a file"])
@pytest.mark.parametrize("env", [None, walks, fresh], ids=["no environment", "not normalised", "fresh statistics"])
def test_a_model_that_is_loaded_and_saved_keeps_its_statistics(source: str, env: Any) -> None:
    model = trpo(walks(None, True), None).learn(BATCH)
    model.save("model.zip")
    before = statistics_in("model.zip")
    assert before is not None
    given = {"a path": "model.zip", "a path without suffix": "model", "a file": io.BytesIO(Path("model.zip").read_bytes())}
    made = None if env is None else env(None) if env is walks else env()
    TRPO.load(given[source], env=made).save("model.zip")
    assert statistics_in("model.zip") == before


def test_statistics_that_have_seen_more_are_the_models_own() -> None:
    trpo(walks(None, True), None).learn(BATCH).save("model.zip")
    env = seen()
    TRPO.load("model.zip", env=env).save("evaluated.zip")
    assert moments(held("evaluated.zip")) == moments(env)
    # Learned without them, the model has none.
    TRPO.load("model.zip", env=walks(None)).learn(BATCH).save("learned.zip")
    assert statistics_in(Path("learned.zip")) is None


def test_where_no_other_file_may_be_made_it_is_written_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trpo(walks(None), None)
    model.save("a" * 240)
    monkeypatch.setattr("os.access", lambda *_: False)
    model.learn(BATCH).save("a" * 240)
    assert [path.name for path in Path().iterdir()] == ["a" * 240 + ".zip"]
    assert TRPO.load("a" * 240).num_timesteps == BATCH
