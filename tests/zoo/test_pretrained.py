"""The trained agent that comes with the package: it is there, hops, is small, and holds nothing of who made it."""

import base64
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import sb3_contrib
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.zoo import pretrained
from sb3_trpo_ext.zoo.cli import run

AGENT = pretrained.FOLDER / "trpo" / "Hopper-v5_1"


def mean_return(model: sb3_contrib.TRPO, normalised: bool = True) -> float:
    env = make_vec_env("Hopper-v5", n_envs=3, seed=0)
    if normalised:
        env = VecNormalize.load(str(AGENT / "Hopper-v5" / "vecnormalize.pkl"), env)
        env.training = env.norm_reward = False
    return evaluate_policy(model, env, n_eval_episodes=3, warn=False)[0]


def score_on_the_page(repo: Path) -> float:
    (mean,) = re.findall(r"^\| deterministic [^|]*\| (\d+) \|", (repo / "docs/pretrained.md").read_text(), re.MULTILINE)
    return float(mean)


@pytest.mark.parametrize("algorithm", [TRPO, sb3_contrib.TRPO], ids=["ours", "sb3-contrib"])
def test_it_hops_as_the_page_says(algorithm: type[sb3_contrib.TRPO], repo: Path) -> None:
    model = algorithm.load(AGENT / "Hopper-v5.zip", device="cpu")
    # Three episodes, and another processor's rounding: far above what an agent without its statistics gets, at least.
    assert mean_return(model) > 0.5 * score_on_the_page(repo) > 2 * mean_return(model, normalised=False)


def test_it_is_small_and_names_no_machine() -> None:
    files = [path for path in pretrained.FOLDER.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"Hopper-v5.zip", "vecnormalize.pkl", "config.yml"}
    assert sum(path.stat().st_size for path in files) < 200_000
    with zipfile.ZipFile(AGENT / "Hopper-v5.zip") as packed:
        contents = [packed.read(name) for name in packed.namelist()]
        assert "system_info.txt" not in packed.namelist()
    for content in [*contents, *(path.read_bytes() for path in files if path.suffix != ".zip")]:
        assert not re.search(rb"/(?:work|root|home|tmp)/|Linux-", content)


def test_numpy_1_reads_its_pickles() -> None:
    with zipfile.ZipFile(AGENT / "Hopper-v5.zip") as packed:
        values = json.loads(packed.read("data")).values()
    coded = [value[":serialized:"] for value in values if isinstance(value, dict) and ":serialized:" in value]
    pickles = [(AGENT / "Hopper-v5" / "vecnormalize.pkl").read_bytes(), *map(base64.b64decode, coded)]
    assert len(pickles) > 3
    for each in pickles:
        assert each[:2] == b"\x80\x04"  # protocol 4: of 5, numpy 1 lacks what arrays are made with
        assert b"numpy.random" not in each


def test_the_page_tells_the_settings_that_it_was_trained_with(repo: Path) -> None:
    used = dict(yaml.unsafe_load((AGENT / "Hopper-v5" / "config.yml").read_text()))
    page = (repo / "docs/pretrained.md").read_text()
    assert all(f"`{name}` {used[name]}" in page for name in ("n_envs", "n_steps", "target_kl", "cg_damping", "kl_reduction"))


def test_no_hint_where_there_is_no_agent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert run(["enjoy", "--env", "CartPole-v1"]) == 2
    assert "--pretrained" not in capsys.readouterr().err


def test_the_flag_is_in_the_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    with pytest.raises(SystemExit):
        run(["enjoy", "-h"])
    out = capsys.readouterr().out
    assert "--pretrained" in out
    assert "--load-best" in out  # the Zoo's own follow


def test_a_film_is_not_put_into_the_package() -> None:
    asked = pretrained.with_folder("record_video", ["--env", "Hopper-v5", "--pretrained", "--algo", "trpo", "-o", "mine"])
    assert asked == ["-o", "logs/videos", "--env", "Hopper-v5", "--algo", "trpo", "-o", "mine", "-f", str(pretrained.FOLDER)]


def test_enjoy_before_any_training(repo: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sb3_trpo_ext", "enjoy", "--env", "Hopper-v5", "--pretrained"]
    done = subprocess.run([*command, "--no-render", "-n", "1100"], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(re.findall(r"Mean reward: ([\d.]+)", done.stdout)[0]) > 0.4 * score_on_the_page(repo)
    assert list(Path().iterdir()) == []
