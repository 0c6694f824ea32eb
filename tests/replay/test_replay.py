"""Replays: the same bits from the dump alone, other results under other settings, and no trust in what is read."""

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sb3_trpo_ext.__main__ import main as command_line
from sb3_trpo_ext.monitoring import FlightRecorder
from sb3_trpo_ext.monitoring.describe import describe_update
from sb3_trpo_ext.records.dump import Dump, DumpError, files, read_dump, write_dump
from sb3_trpo_ext.replay import differences, recompute
from sb3_trpo_ext.replay.cli import main
from tests.sb3.spaces import OBSERVATIONS, InPlaceReLU, collect, make_model, with_extractor


def dumped(model: Any, steps: int = 256) -> tuple[Dump, dict[str, bytes]]:
    """The newest update of a short training, through the disk, without its result; and the result."""
    model.session.keep_update_start = True
    model.learn(steps)
    now = {**dict(model.policy.named_parameters()), **dict(model.policy.named_buffers())}
    path = Path("dumped")
    write_dump(path, describe_update(model, ["test"], model.last_update, None, [], []))
    dump = read_dump(path)
    kept = {name: array for name, array in dump.arrays.items() if not name.startswith("after/")}
    return Dump(dump.header, kept), {name: tensor.detach().numpy().tobytes() for name, tensor in now.items()}


def bits(parameters: dict[str, np.ndarray]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in parameters.items()}


@pytest.mark.parametrize("observation", OBSERVATIONS)
@pytest.mark.parametrize("action", ["box", "sde_squashed", "discrete", "multidiscrete", "multibinary"])
def test_the_same_bits_from_the_dump_alone(action: str, observation: str) -> None:
    model = make_model(action, observation, n_steps=64)
    dump, result = dumped(model)
    replayed = recompute(dump)
    assert differences(dump, replayed) is None
    assert bits(replayed.parameters) == result
    assert replayed.report == model.last_update
    assert (replayed.error, replayed.messages) == (None, ())


SETTINGS: dict[str, dict[str, Any]] = {
    "kfac": {"cg_preconditioner": "kfac"},
    "float64": {"cg_precision": "float64"},
    "sub_sampled": {"sub_sampling_factor": 2},
    "joint": {"kl_reduction": "joint", "target_kl": 0.05, "cg_damping_range": (0.01, 1.0)},
    "schedule": {"learning_rate": lambda progress: 1e-2 * progress},
    "shrinking_region": {"target_kl": 0.05, "final_target_kl": 0.001},
    "chunks": {"fisher_chunk_size": 50},
    "relu": {"policy_kwargs": {"activation_fn": nn.ReLU, "net_arch": {"pi": [8], "vf": [16, 8]}}},
    "sgd": {"policy_kwargs": {"optimizer_class": torch.optim.SGD, "optimizer_kwargs": {"momentum": 0.9}}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_bits_under_every_kind_of_setting(name: str) -> None:
    model = make_model(n_steps=64, **SETTINGS[name])
    dump, result = dumped(model)
    replayed = recompute(dump)
    assert bits(replayed.parameters) == result
    assert replayed.report == model.last_update


def test_a_replay_leaves_random_streams_alone() -> None:
    dump, _ = dumped(make_model(n_steps=64))
    before = (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes())  # noqa: NPY002
    recompute(dump)
    after = (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes())  # noqa: NPY002
    assert after == before


def test_other_settings_give_what_they_should() -> None:
    model = make_model(n_steps=64)
    dump, result = dumped(model)
    halved = recompute(dump, {"target_kl": model.target_kl / 2}).report
    assert halved is not None
    assert halved.target_kl == model.target_kl / 2
    assert 0 < halved.kl <= model.target_kl / 2 < model.last_update.kl
    damped = recompute(dump, {"cg_damping": 10.0, "adaptive_damping": False})
    assert damped.report is not None
    assert damped.report.cg_damping == 10.0
    assert bits(damped.parameters) != result
    exact = recompute(dump, {"cg_precision": "float64"}).report
    assert exact is not None
    assert exact.cg_precision == "float64"
    assert exact.kl == pytest.approx(model.last_update.kl, rel=1e-3)
    # The values' part does not depend on it.
    assert exact.value_loss_after == model.last_update.value_loss_after


def test_a_planted_difference_is_found() -> None:
    dump, _ = dumped(make_model(n_steps=64))
    replayed = recompute(dump)
    name = "action_net.weight"
    after = {f"after/{key}": array.copy() for key, array in replayed.parameters.items()}
    same = Dump(dump.header, {**dump.arrays, **after})
    assert differences(same, replayed) == {}
    after[f"after/{name}"].flat[0] = np.nextafter(after[f"after/{name}"].flat[0], np.float32(1.0))
    found = differences(Dump(dump.header, {**dump.arrays, **after}), replayed)
    assert found is not None
    assert list(found) == [name]
    assert 0 < found[name] < 1e-6


def test_a_planted_change_of_the_batch_changes_the_result() -> None:
    dump, result = dumped(make_model(n_steps=64))
    arrays = copy.deepcopy(dump.arrays)
    arrays["batch/advantages"][0] += 1.0
    assert bits(recompute(Dump(dump.header, arrays)).parameters) != result


def test_an_update_that_raised_raises_again(tmp_path: Path) -> None:
    model = make_model(n_steps=64)
    model.session.keep_update_start = True
    model.learn(128)
    collect(model)
    model.rollout_buffer.advantages[3, 1] = np.nan
    with pytest.raises(ValueError, match="non-finite advantages"):
        model.train()
    write_dump(tmp_path / "raised", describe_update(model, ["died"], None, "NonFiniteError", [], []))
    dump = read_dump(tmp_path / "raised")
    replayed = recompute(dump)
    assert replayed.report is None
    assert replayed.error is not None
    assert "non-finite advantages in the rollout: first at environment 1, step 3" in replayed.error
    assert bits(replayed.parameters) == bits(dump.part("before"))


def test_a_policy_of_ones_own_needs_its_model(tmp_path: Path) -> None:
    model = with_extractor(InPlaceReLU, n_steps=64)
    dump, result = dumped(model)
    with pytest.raises(DumpError, match=r"'tests\.sb3\.spaces\.InPlaceReLU' is not known here; give a model .* --model"):
        recompute(dump)
    model.save(tmp_path / "mine.zip")
    assert bits(recompute(dump, model_file=tmp_path / "mine.zip").parameters) == result
    make_model().save(tmp_path / "other.zip")
    with pytest.raises(DumpError, match="the policy has other parameters than the dump's"):
        recompute(dump, model_file=tmp_path / "other.zip")
    with pytest.raises(DumpError, match="can't be loaded as a model"):
        recompute(dump, model_file=tmp_path / "nowhere.zip")


def changed(dump: Dump, **header: Any) -> Dump:
    return Dump({**dump.header, **header}, dump.arrays)


def test_a_dump_names_no_class_that_is_not_listed() -> None:
    dump, _ = dumped(make_model(n_steps=64))
    for policy in (
        {"class": {"$class": "subprocess.Popen"}, "kwargs": {}},
        {"class": {"$class": "torch.nn.modules.activation.Tanh"}, "kwargs": {}},
        {"class": dump.header["policy"]["class"], "kwargs": {"optimizer_class": {"$class": "os.system"}}},
        {"class": dump.header["policy"]["class"], "kwargs": {"dist_kwargs": {}}},
    ):
        with pytest.raises(DumpError):
            recompute(changed(dump, policy=policy))


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_no_network_is_made_that_the_dump_does_not_hold() -> None:
    dump, _ = dumped(make_model(n_steps=64))
    wide = {**dump.arrays, "before/wide": np.zeros(30_000, np.float32)}  # what an integer may be, by the largest shape
    policy = {**dump.header["policy"], "kwargs": {"net_arch": [30_000, 30_000]}}
    with pytest.raises(DumpError, match="describes a larger policy than it holds"):
        recompute(Dump({**dump.header, "policy": policy}, wide))


def test_what_does_not_hold_together_is_said() -> None:
    dump, _ = dumped(make_model(n_steps=64))
    for broken in (
        changed(dump, n_envs="two"),
        changed(dump, spaces={}),
        changed(dump, random={"numpy": [1]}),
        changed(dump, random={"numpy": ["MT19937", 10**9, 0, 0.0]}),
        changed(dump, random={"numpy": ["MT19937", -1, 0, 0.0]}),
        changed(dump, build=[]),
        changed(dump, reasons=3),
        changed(dump, policy={**dump.header["policy"], "kwargs": {"net_arch": [6000, 6000]}}),
        Dump(dump.header, {**dump.arrays, "random/numpy": dump.arrays["random/numpy"][:10]}),
        Dump(dump.header, {**dump.arrays, "batch/rewards": np.array(["text"])}),
        changed(dump, settings={**dump.header["settings"], "target_kl": -1}),
        changed(dump, settings={**dump.header["settings"], "n_steps": 63}),
        changed(dump, settings={**dump.header["settings"], "n_critic_updates": 10**9, "max_critic_updates": None}),
        changed(dump, policy={**dump.header["policy"], "kwargs": {"net_arch": [8] * 20_000}}),
        changed(dump, policy={**dump.header["policy"], "kwargs": {"net_arch": nested(2000)}}),
        Dump({k: v for k, v in dump.header.items() if k != "settings"}, dump.arrays),
        Dump(dump.header, {k: v for k, v in dump.arrays.items() if k != "batch/returns"}),
        Dump(dump.header, {**dump.arrays, "before/action_net.weight": np.zeros((1, 1), np.float32)}),
    ):
        with pytest.raises(DumpError):
            recompute(broken)
    with pytest.raises(DumpError, match="custom buffer"):
        recompute(changed(dump, ordered=False))


def test_what_an_update_makes_of_a_broken_dump_is_said_and_ends_nothing() -> None:
    dump, _ = dumped(make_model(n_steps=64))
    short = Dump(dump.header, {**dump.arrays, "batch/phi": dump.arrays["batch/phi"][:5]})
    replayed = recompute(short)
    assert replayed.report is None
    assert replayed.error is not None
    threads = torch.get_num_threads()
    greedy = changed(dump, build={**dump.header["build"], "threads": 100_000})
    assert recompute(greedy).error is None
    assert torch.get_num_threads() == threads


# ---------------------------------------------------------------- the command


@pytest.fixture
def on_disk() -> Path:
    """A dump that a real run has left."""
    model = make_model(n_steps=64, log_folder="run", min_explained_variance=1.0)
    model.learn(256, callback=FlightRecorder())
    (path,) = Path("run/dumps").glob("*.json")
    return path


def test_the_command_says_that_it_is_the_same(on_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(on_disk)]) == 0
    said = capsys.readouterr().out
    assert "dumped because of: low_explained_variance" in said
    assert "the same as recorded, bit for bit" in said


def test_the_command_shows_other_settings_side_by_side(on_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(on_disk), "--target-kl", "0.002", "--cg-damping", "0.5", "--cg-precision", "float64"]) == 0
    said = capsys.readouterr().out
    assert "Replayed with cg_precision=float64, cg_damping=0.5, target_kl=0.002" in said
    rows = {
        line.split("│")[1].strip(): [part.strip() for part in line.split("│")[2:4]]
        for line in said.splitlines()
        if "│" in line
    }
    assert rows["target_kl"] == ["0.01", "0.002"]
    assert rows["cg_damping"][1] == "0.5"
    assert rows["value_loss_before"][0] == rows["value_loss_before"][1]


def test_the_command_says_when_bits_differ(on_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = read_dump(on_disk)
    name = "after/value_net.bias"
    other = Dump(dump.header, {**dump.arrays, name: dump.arrays[name] + 1})
    write_dump(Path("same_build"), other)
    assert main(["same_build.json"]) == 1
    assert "The build is the same, so they should not differ" in capsys.readouterr().out
    elsewhere = {**dump.header, "build": {**dump.header["build"], "torch": "2.8.0"}}
    write_dump(Path("other_build"), Dump(elsewhere, other.arrays))
    assert main(["other_build.json"]) == 0
    said = capsys.readouterr().out
    assert "Bits are promised on the same build only" in said
    assert "torch: 2.8.0 then" in said


def test_the_command_refuses_in_one_line(on_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["nowhere.json"], [str(on_disk), "--target-kl", "-1"], [str(on_disk), "--cg-precision", "float16"]):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
    shutil.copy(files(on_disk)[0], "alone.json")
    assert main(["alone.json"]) == 2
    assert "two files" in capsys.readouterr().err


def test_it_is_a_command_of_the_package(
    on_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["sb3_trpo_ext", "replay", str(on_disk)])
    assert command_line() == 0
    monkeypatch.setattr("sys.argv", ["sb3_trpo_ext", "-h"])
    assert command_line() == 0
    assert "replay" in capsys.readouterr().out.split("usage")[1]
    assert json.loads(on_disk.read_text())["reasons"] == ["low_explained_variance"]


def test_a_dump_of_one_of_several_ranks_is_refused() -> None:
    dump, _ = dumped(make_model())
    recompute(dump)
    dump.header["n_ranks"] = 2
    with pytest.raises(DumpError, match="rank 0's share of an update of 2 ranks"):
        recompute(dump)
