"""The command takes what lies on a disk, or says in one line why not; what it writes needs nothing of ours."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sb3_contrib
from stable_baselines3 import A2C, DQN, PPO

from sb3_trpo_ext.export import cli, export_policy
from tests.export.models import assert_acts_as, large, normalized, observations
from tests.sb3.spaces import make_model

# What torch says about TorchScript: in docs/export.md.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


RAW = np.full((3, 6), 1234.5, np.float32) + np.arange(3, dtype=np.float32)[:, None] / 4


def a_run_of_the_zoo() -> Any:
    folder = Path("logs/trpo/Robot-v0_1")
    (folder / "Robot-v0").mkdir(parents=True)
    env = normalized()
    model = large(make_model(env=env))
    model.save(folder / "Robot-v0.zip")
    model.save(folder / "best_model.zip")
    env.save(str(folder / "Robot-v0/vecnormalize.pkl"))
    (folder / "Robot-v0/config.yml").touch()
    return model, folder


def test_the_command_takes_a_run_of_the_zoo_or_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    model, folder = a_run_of_the_zoo()
    for named, where in (
        (folder, "Robot-v0.zip"),
        (folder / "Robot-v0", "Robot-v0.zip"),
        (folder / "best_model.zip", "best_model.zip"),
    ):
        assert cli.main([str(named), "-o", "policy.pt"]) == 0
        said = capsys.readouterr()
        assert f"normalised by {folder / where}/vecnormalize.pkl" in said.out
        assert "policy.pt: observation float32[6] -> action" in said.out
        assert not said.err
        assert_acts_as(model, Path("policy.pt"), RAW, model.get_vec_normalize_env().normalize_obs(RAW))


@pytest.mark.parametrize(("named", "told"), [("best_model.zip", 1), ("Robot-v0.zip", 0)])
def test_a_run_without_statistics_in_its_models(named: str, told: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Of an older version, or of sb3-contrib's TRPO in the Zoo."""
    model, folder = a_run_of_the_zoo()
    sb3_contrib.TRPO.save(model, folder / named)
    statistics = model.get_vec_normalize_env()
    statistics.obs_rms.mean = statistics.obs_rms.mean + 0.1
    statistics.save(str(folder / "Robot-v0/vecnormalize.pkl"))
    assert cli.main([str(folder / named), "-o", "policy.pt"]) == 0
    said = capsys.readouterr()
    assert f"normalised by {folder}/Robot-v0/vecnormalize.pkl" in said.out
    assert said.err.count("may be of a later one\n") == told
    assert_acts_as(model, Path("policy.pt"), RAW, statistics.normalize_obs(RAW))


def test_each_model_is_exported_with_the_statistics_of_its_moment(capsys: pytest.CaptureFixture[str]) -> None:
    model, folder = a_run_of_the_zoo()
    statistics = model.get_vec_normalize_env()
    then = statistics.normalize_obs(RAW)
    statistics.obs_rms.mean = statistics.obs_rms.mean + 0.1
    now = statistics.normalize_obs(RAW)
    model.save(folder / "Robot-v0.zip")
    statistics.save(str(folder / "Robot-v0/vecnormalize.pkl"))
    for named, seen in (("best_model.zip", then), ("Robot-v0.zip", now)):
        assert cli.main([str(folder / named), "-o", "policy.pt"]) == 0
        assert_acts_as(model, Path("policy.pt"), RAW, seen)
    # What is named is what is used.
    beside = str(folder / "Robot-v0/vecnormalize.pkl")
    assert cli.main([str(folder / "best_model.zip"), "--normalize", beside, "-o", "policy.pt"]) == 0
    assert_acts_as(model, Path("policy.pt"), RAW, now)


def test_a_model_of_sb3_contrib_is_one_of_trpo() -> None:
    sb3_contrib.TRPO("MlpPolicy", "CartPole-v1").save("model")
    assert cli.main(["model", "-o", "policy.pt"]) == 0


def test_statistics_that_may_be_anyones_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    model, folder = a_run_of_the_zoo()
    (folder / "Robot-v0/config.yml").unlink()
    sb3_contrib.TRPO.save(model.learn(64), folder / "Robot-v0")  # without statistics
    assert cli.main([str(folder), "-o", "policy.pt"]) == 2
    error = capsys.readouterr().err
    assert "trained behind VecNormalize: give its statistics (vec_normalize= or --normalize)" in error
    assert error.count("\n") == 1
    assert cli.main([str(folder), "-o", "policy.pt", "--normalize", str(folder / "Robot-v0/vecnormalize.pkl")]) == 0


def test_a_folder_beside_a_model_without_statistics_is_nobodys(capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = a_run_of_the_zoo()
    (folder / "Robot-v0/config.yml").unlink()
    model = large(make_model()).learn(64)
    model.save(folder / "Robot-v0")
    assert cli.main([str(folder), "-o", "policy.pt"]) == 0
    assert "observations as they are" in capsys.readouterr().out
    assert_acts_as(model, Path("policy.pt"), observations(model))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere is no saved model"),
        (["logs"], "logs holds 0 models: name the zip"),
        (["logs/trpo/Robot-v0_1", "--normalize", "logs/trpo/Robot-v0_1/other.pkl"], "holds no VecNormalize, but a dict"),
        (["logs/trpo/Robot-v0_1", "--normalize", "nowhere.pkl"], "nowhere.pkl"),
        (["logs/trpo/Robot-v0_1", "--normalize", "text"], "text can't be read as saved by VecNormalize.save: UnpicklingError"),
        (["logs/trpo/Robot-v0_1", "--normalize", "empty"], "empty can't be read as saved by VecNormalize.save: EOFError"),
        (["."], ". holds 0 models: name the zip"),
        (["text"], "text is no saved model"),
        (["archives/a2c"], "archives/a2c.zip is another algorithm's model, not TRPO's: load it in a script"),
        (["archives/ppo"], "archives/ppo.zip is another algorithm's model"),
        (["archives/dqn"], "archives/dqn.zip is another algorithm's model"),
        (["archives/any"], "archives/any.zip can't be loaded as a model of TRPO (cut off?): KeyError"),
        (["logs/trpo/Robot-v0_1", "--channels-last"], "no images"),
    ],
    ids=lambda value: value if isinstance(value, str) else "_".join(value).replace("/", "."),
)
def test_the_command_fails_in_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = a_run_of_the_zoo()
    (folder / "other.pkl").write_bytes(b"\x80\x04}.")
    Path("text").write_text("hello world")
    Path("empty").touch()
    Path("archives").mkdir()
    A2C("MlpPolicy", "CartPole-v1").save("archives/a2c")  # TRPO.load takes it, with TRPO's defaults for what it lacks
    PPO("MlpPolicy", "CartPole-v1").save("archives/ppo")
    DQN("MlpPolicy", "CartPole-v1", buffer_size=10).save("archives/dqn")
    with zipfile.ZipFile("archives/any.zip", "w") as archive:
        archive.writestr("some", "thing")
    assert cli.main([*arguments, "-o", "policy.pt"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not Path("policy.pt").exists()


def test_a_robot_needs_neither_torch_nor_us(repo: Path) -> None:
    """The snippet of the page, with nothing but numpy and onnxruntime."""
    (snippet,) = re.findall(r"```python\n(import numpy.*?)```", (repo / "docs/export.md").read_text(), re.DOTALL)
    model = large(make_model())
    export_policy(model, "policy.onnx")
    forbid = "import sys\nfor name in ('torch', 'stable_baselines3', 'sb3_trpo_ext', 'gymnasium'): sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", forbid + snippet + "\nprint(action.tolist())"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected, _ = model.predict(np.zeros(6, np.float32), deterministic=True)
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), expected, rtol=1e-5)
