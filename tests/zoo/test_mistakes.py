"""What people get wrong on the command line and in a YAML: exit code 2, one line on stderr, and nothing left behind."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rl_zoo3.train
from rl_zoo3.exp_manager import ExperimentManager

import sb3_trpo_ext
from sb3_trpo_ext.zoo.cli import run
from tests.leftovers import AT_HOME, nothing_left, register

register()
GOOD = "policy: MlpPolicy, n_timesteps: 64, n_steps: 32, batch_size: 32"
MONITORING = "sb3_trpo_ext.monitoring"

# id: what is added to a good entry, and what the line must hold
ENTRIES: dict[str, tuple[str, list[str]]] = {
    "unknown key": ("target_k1: 0.03", ["unknown key target_k1=0.03", "did you mean target_kl?"]),
    "key of PPO": ("n_epochs: 3", ["unknown key n_epochs=3", "did you mean n_critic_updates?"]),
    "key of the Zoo misspelt": ("normalise: true", ["unknown key normalise=True", "did you mean normalize?"]),
    "a flag": ("seed: 3", ["seed=3", "a flag of the command line"]),
    "1e-2": ("target_kl: 1e-2", ["target_kl='1e-2'", "a finite number > 0", "YAML takes 1e-2 for text", "write 0.01"]),
    "1e6 steps": ("n_timesteps: 1e6", ["n_timesteps='1e6'", "a number >= 1", "write 1000000.0"]),
    "no steps": ("n_timesteps: 0", ["n_timesteps=0"]),
    "text": ("gamma: high", ["gamma='high'", "a number in [0, 1]"]),
    "quoted": ("gamma: '0.99'", ["gamma='0.99'", "is text"]),
    "boolean": ("cg_damping: yes", ["cg_damping=True", "a finite number >= 0"]),
    "nan": ("cg_damping: .nan", ["cg_damping=nan"]),
    "inf": ("target_kl: .inf", ["target_kl=inf"]),
    "nothing": ("n_steps:", ["n_steps=None", "an integer >= 1"]),
    "list": ("n_steps: [32]", ["n_steps=[32]"]),
    "float count": ("n_steps: 32.0", ["n_steps=32.0", "an integer >= 1"]),
    "no environments": ("n_envs: 0", ["n_envs=0", "an integer >= 1"]),
    "too few samples": ("n_steps: 1", ["n_steps=1", "n_steps * n_envs must be >= 2"]),
    "range": ("cg_damping_range: [1, 0.1]", ["cg_damping_range=[1, 0.1]", "low <= high"]),
    "range without it": ("cg_damping_range: [1, 2]", ["cg_damping_range=[1, 2]", "cg_damping=0.1"]),
    "choice": ("kl_reduction: jiont", ["kl_reduction='jiont'", "did you mean joint?"]),
    "schedule": ("learning_rate: lin_fast", ["learning_rate='lin_fast'", "lin_0.001"]),
    "schedule kind": ("learning_rate: cos_0.001", ["learning_rate='cos_0.001'", "lin_0.001"]),
    "rate": ("learning_rate: 1e-3", ["learning_rate='1e-3'", "write 0.001"]),
    "policy": ("policy: MlpPolcy", ["policy='MlpPolcy'", "did you mean MlpPolicy?"]),
    "policy elsewhere": ("policy: nowhere.Policy", ["policy: nowhere.Policy can't be imported"]),
    "policy for images": ("policy: CnnPolicy", ["policy='CnnPolicy'", "no image"]),
    "policy for dictionaries": ("policy: MultiInputPolicy", ["policy='MultiInputPolicy'", "'MlpPolicy'"]),
    "activation": ("policy_kwargs: 'dict(activation_fn=nn.Relu)'", ["can't be evaluated", "'Relu'", "did you mean ReLU?"]),
    "activation as text": ("policy_kwargs: {activation_fn: nn.ReLU}", ["activation_fn='nn.ReLU'", "not its name"]),
    "policy_kwargs key": ("policy_kwargs: {net_arc: [8]}", ["net_arc=[8]", "did you mean net_arch?"]),
    "policy_kwargs syntax": ("policy_kwargs: 'dict(net_arch=[8'", ["policy_kwargs='dict(net_arch=[8'", "can't be evaluated"]),
    "policy_kwargs a list": ("policy_kwargs: '[8, 8]'", ["policy_kwargs=[8, 8]", "a dictionary"]),
    "net_arch": ("policy_kwargs: 'dict(net_arch=[8.5])'", ["net_arch=[8.5]", "layer widths"]),
    "normalize key": ("normalize: {norm_obss: true}", ["norm_obss=True", "did you mean norm_obs?"]),
    "normalize text": ("normalize: 'dict(norm_obs=Flase)'", ["can't be evaluated", "Flase", "did you mean False?"]),
    "normalize as text": ("normalize: 'True'", ["normalize='True' is text", "without quotes"]),
    "normalize number": ("normalize: 3", ["normalize=3", "arguments of VecNormalize"]),
    "frame_stack": ("frame_stack: 0", ["frame_stack=0"]),
    "callback module": ("callback: sb3_trpo_ext.monitorin.KLMonitor", ["can't be imported", f"did you mean {MONITORING}?"]),
    "callback name": (f"callback: {MONITORING}.KlMonitr", ["has no KlMonitr", "did you mean KLMonitor?"]),
    "callback undotted": ("callback: KLMonitor", ["'KLMonitor' is no dotted name"]),
    "callback argument": (
        f"callback: [{{{MONITORING}.TrustRegionMonitor: {{on_truble: stop}}}}]",
        ["on_truble='stop'", "on_trouble?"],
    ),
    "callback value": (f"callback: [{{{MONITORING}.TrustRegionMonitor: {{on_trouble: explode}}}}]", ["'explode' is neither"]),
    "of policy_kwargs": ("net_arch: [8]", ["unknown key net_arch=[8]", "it belongs into policy_kwargs"]),
    "callback two": (f"callback: [{{{MONITORING}.KLMonitor: {{}}, a.B: {{}}}}]", ["callback=[{", "a dotted name of a class"]),
    "callback no callback": ("callback: collections.OrderedDict", ["collections.OrderedDict' is no BaseCallback"]),
    "wrapper": ("env_wrapper: gymnasium.wrappers.TimeLimt", ["has no TimeLimt", "did you mean TimeLimit?"]),
    "wrapper argument": ("env_wrapper: [{gymnasium.wrappers.TimeLimit: {steps: 3}}]", ["TimeLimit: unknown argument steps=3"]),
    "wrapper misses one": ("env_wrapper: gymnasium.wrappers.TimeLimit", ["missing a required argument", "max_episode_steps"]),
    "env_kwargs": ("env_kwargs: {colour: red}", ["environment can't be made", "TypeError", "colour", "--verbose 2"]),
    "env breaks": ("env_kwargs: {observation: broken}", ["environment can't be made: RuntimeError: no robot there"]),
    "actions": ("env_kwargs: {action: tuple}", ["Tuple(", "it must be Box, Discrete, MultiDiscrete or MultiBinary"]),
    "actions infinite": ("env_kwargs: {action: infinite}", ["bounds must be finite"]),
    "observations": ("env_kwargs: {observation: nested}", ["observation"]),
    "twice": ("n_steps: 64", ["the key 'n_steps' stands there twice (line 1"]),
}
EXTRA = {"twice": f"{AT_HOME}: {{{GOOD}, n_steps: 64}}"}

# id: the whole YAML, and what the line must hold
FILES: dict[str, tuple[str, list[str]]] = {
    "tab": ("a:\n\tb: 1", ["mine.yml: no valid YAML", "(line 2, column 1)"]),
    "brace": ("a: {b: 1", ["mine.yml: no valid YAML", "(line 1"]),
    "no entry": ("Hopper-v5: {policy: MlpPolicy}", [f"mine.yml: has no entry {AT_HOME}, and no `default`"]),
    "nearly": (f"{AT_HOME[:-1]}1: {{policy: MlpPolicy}}", ["no `default`", f"did you mean {AT_HOME[:-1]}1?"]),
    "empty": ("", ["must map each environment id to its hyperparameters"]),
    "list": ("- a", ["must map each environment id to its hyperparameters"]),
    "entry is text": (f"{AT_HOME}: MlpPolicy", ["must be hyperparameters by name"]),
    "no policy": (f"{AT_HOME}: {{n_timesteps: 64}}", ["has no policy, which the Zoo needs"]),
    "no length": (f"{AT_HOME}: {{policy: MlpPolicy}}", ["has no n_timesteps, which the Zoo needs"]),
    "unsafe": (f"{AT_HOME}: !!python/object/apply:os.getcwd []", ["no valid YAML", "could not determine a constructor"]),
    "bomb": ("a: &a [0,0,0,0,0,0,0,0,0]\n" + "".join(
        f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    ), ["stand for more than 100000 values"]),
    "deep": ("a: " + "[" * 5000, ["mine.yml: no valid YAML"]),
    "its own part": ("a: &a [*a]", ["a reference to what it is a part of"]),
    "binary": ("a: \x00", ["control characters"]),
    "date": ("a: 2020-13-45", ["no valid YAML: month must be in 1..12"]),
    "large": ("#" * 2**20 + "\n", ["has more than 1024 KiB"]),
}  # fmt: skip

# id: flags, and what the line must hold
COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    "env": (["--env", "CartPol-v1"], ["--env CartPol-v1", "did you mean CartPole-v1?"]),
    "env with its module": (["--env", "here.envs:My-v0"], ["the Zoo wants --gym-packages here.envs --env My-v0"]),
    "flag": (["--evn", "CartPole-v1"], ["--evn", "did you mean --env?"]),
    "flag without value": (["--env"], ["--env", "expected one argument"]),
    "number": (["-n", "many"], ["-n", "invalid int value: 'many'"]),
    "algo": (["--algo", "tpro"], ["invalid choice: 'tpro'"]),
    "conf-file": (["--conf-file", "mne.yml"], ["mne.yml: there is no such file", "did you mean mine.yml?"]),
    "conf-file folder": (["--conf-file", "folder.yml"], ["folder.yml: is a folder"]),
    "conf-file module": (["--conf-file", "sb3_trpo_ext.zo"], ["--conf-file sb3_trpo_ext.zo", "no module can be imported"]),
    "conf-file without": (["--conf-file", "sb3_trpo_ext.sb3"], ["has no dictionary `hyperparams`"]),
    "conf-file .py": (["--conf-file", "nowhere.py"], ["nowhere.py: there is no such file"]),
    "package": (["--gym-packages", "nowhere"], ["--gym-packages nowhere: can't be imported"]),
    "device": (["--device", "gpu"], ["device='gpu'", "did you mean cuda?"]),
    "seed": (["--seed", "4294967296"], ["seed=4294967296"]),
    "no evaluations": (["--n-eval-envs", "0"], ["n_eval_envs=0"]),
    "log folder": (["-f", "mine.yml/logs"], ["--log-folder mine.yml/logs", "mine.yml is not a directory"]),
    "folder of searches": (
        ["--optimization-log-path", "mine.yml/s"],
        ["--optimization-log-path mine.yml/s", "is not a directory"],
    ),
    "no steps": (["-n", "0"], ["n_timesteps=0", "an integer >= 1"]),
    "no study": (
        ["--trial-id", "3", "--study-name", "s", "--storage", "sqlite:///no.db"],
        ["--storage sqlite:///no.db: there is no such file"],
    ),
    "params key": (["-params", "n_step:32"], ["unknown key n_step=32", "did you mean n_steps?"]),
    "params value": (["-params", "target_kl:-1"], ["target_kl=-1", "a finite number > 0"]),
    "params text": (["-params", "policy:MlpPolicy"], ["name 'MlpPolicy' is not defined", "text needs quotes"]),
    "params empty": (["-params", "n_steps:"], ["text needs quotes"]),
    "agent": (["-i", "nowhere.zip"], ["trained_agent must be a valid path"]),
}


@pytest.fixture(autouse=True)
def _arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setitem(vars(rl_zoo3.train), "argparse", argparse)


def refused(flags: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with nothing_left():
        assert run(["train", "--env", AT_HOME, "--track", *flags]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1, err
    assert len(err) < 700
    for part in parts:
        assert part in err
    assert out.count("\n") <= 2  # the Zoo's title, where it has come so far


@pytest.mark.parametrize("case", ENTRIES)
def test_a_mistake_in_an_entry(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    line, parts = ENTRIES[case]
    key = line.partition(":")[0]
    good = ", ".join(pair for pair in GOOD.split(", ") if pair.partition(":")[0] != key)
    Path("mine.yml").write_text(EXTRA.get(case, f"{AT_HOME}: {{{good}, {line}}}"))
    refused(["--conf-file", "mine.yml"], parts, capsys)


@pytest.mark.parametrize("case", FILES)
def test_a_mistake_in_a_file(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, parts = FILES[case]
    Path("mine.yml").write_text(text)
    refused(["--conf-file", "mine.yml"], parts, capsys)


@pytest.mark.parametrize("given", ["file/tb", "file", "tb"])
def test_a_tensorboard_folder_that_cannot_be_made(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    Path("tb").mkdir()
    Path("tb", AT_HOME).touch()
    before = sorted(Path().rglob("*"))
    assert run(["train", "--env", AT_HOME, "-tb", given]) == 2
    said = capsys.readouterr().err
    assert f"sb3_trpo_ext: --tensorboard-log {given}: " in said
    assert said.endswith(" is not a directory\n")
    assert said.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("case", COMMANDS)
def test_a_mistake_on_the_command_line(case: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    flags, parts = COMMANDS[case]
    Path("mine.yml").write_text(f"{AT_HOME}: {{{GOOD}}}")
    Path("folder.yml").mkdir()
    monkeypatch.setattr("wandb.init", lambda **_: 1 / 0)
    refused(["--conf-file", "mine.yml", *flags], parts, capsys)


GOOD_ENTRIES = [
    "learning_rate: lin_1e-3, n_envs: 2, frame_stack: 2",
    "normalize: 'dict(norm_obs=True, norm_reward=False)'",
    "normalize: {norm_reward: false}, policy_kwargs: 'dict(activation_fn=nn.ReLU, net_arch=dict(pi=[8], vf=[8]))'",
    f"callback: [{MONITORING}.KLMonitor, {{{MONITORING}.EntropyMonitor: {{}}}}], cg_damping_range: [0.1, 1]",
    "env_wrapper: [{gymnasium.wrappers.TimeLimit: {max_episode_steps: 3}}], callback:, policy_kwargs: {net_arch: [8]}",
    "env_wrapper: tests.leftovers.as_it_is",
    "<<: &more {n_envs: 2}, gamma: 1, cg_damping: 0, cg_damping_range:",
]


class Reached(Exception):
    """The Zoo goes on."""


@pytest.mark.parametrize("number", range(len(GOOD_ENTRIES)))
def test_what_is_right_passes_and_leaves_nothing(number: int) -> None:
    Path("mine.yml").write_text(f"{AT_HOME}: {{{GOOD}, {GOOD_ENTRIES[number]}}}")
    with nothing_left():
        goes_on(["--conf-file", "mine.yml"])


def goes_on(flags: list[str]) -> None:
    """As far as the Zoo's own seeding, which comes first of all."""

    def reached(seed: int) -> None:
        raise Reached

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl_zoo3.train, "set_random_seed", reached)
        with pytest.raises(Reached):
            run(["train", "--env", AT_HOME, *flags])


OURS = ["sb3_trpo_ext", "train"]
THE_ZOOS = ["rl_zoo3.train", "--algo", "trpo", "--gym-packages", "sb3_trpo_ext.zoo", "--conf-file", "sb3_trpo_ext.zoo"]


@pytest.mark.parametrize(("command", "mode"), [(OURS, {}), (THE_ZOOS, {}), (THE_ZOOS, {"WANDB_MODE": "offline"})])
def test_nothing_is_left_in_a_shell(command: list[str], mode: dict[str, str], tmp_path: Path) -> None:
    """With a real W&B and no key: one line, and no wandb/, logs/ or runs/."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environ = {**kept, "PYTHONPATH": str(Path(sb3_trpo_ext.__file__).parents[1]), "NETRC": "nowhere", **mode}
    flags = ["--env", "CartPole-v1", "--track", "-params", "n_step:3"]
    line = [sys.executable, "-m", *command, *flags]
    done = subprocess.run(line, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("sb3_trpo_ext: sb3_trpo_ext.zoo: CartPole-v1: unknown key n_step=3: ")
    assert done.stderr.endswith("; did you mean n_steps?\n")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_where_default_is_used_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yml").write_text(f"default: {{{GOOD}}}\nCountd-v0: {{{GOOD}}}\n")
    goes_on(["--conf-file", "mine.yml"])
    assert capsys.readouterr().err == (
        f"sb3_trpo_ext: mine.yml has no entry {AT_HOME}; did you mean Countd-v0?: `default` is used\n"
    )


def test_verbose_keeps_the_traceback() -> None:
    Path("mine.yml").write_text(f"{AT_HOME}: {{{GOOD}, env_kwargs: {{observation: broken}}}}")
    with nothing_left(), pytest.raises(RuntimeError, match="robot"):
        run(["train", "--env", AT_HOME, "--conf-file", "mine.yml", "--verbose", "2"])


def test_other_algorithms_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.yml").write_text(f"{AT_HOME}: {{policy: MlpPolicy, n_timesteps: 64, n_epochs: 3}}")
    monkeypatch.setattr(ExperimentManager, "setup_experiment", lambda _: (None, {}))
    assert run(["train", "--algo", "ppo", "--env", AT_HOME, "--conf-file", "mine.yml"]) == 0
