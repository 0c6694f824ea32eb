"""``scripts/incidents.py``: each scenario at a tiny size, the verdict, the store and the report; what each claims, slowly."""

import warnings
from pathlib import Path
from typing import Any

import incidents
import pytest
import sb3_contrib
from incident_suite import broken_sensor, fresh_critic, loophole, scenario, stale_workers
from incident_suite.rewards import ChangedReward
from incident_suite.scenario import BASE, CONTRIB, CURED, HEALTHY, OURS, SIDES, Incident, Kit, make_model
from incident_suite.store import Store
from incident_suite.training import Outcome, train
from incident_suite.verdict import judge, running_means

import sb3_trpo_ext
from sb3_trpo_ext import StaleBatchError

EXPECTED = {"d": "TR301", "g": "TR201", "b": "TR504", "e": "TR201"}
"""Alarm of ours that an incident claims (what is raised on how many seeds: docs/incidents.md)."""


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASE, "n_steps", 16)
    monkeypatch.setitem(BASE, "batch_size", 64)


@pytest.mark.parametrize("letter", list(incidents.INCIDENTS))
@pytest.mark.usefixtures("tiny")
def test_every_side_of_every_incident_runs(letter: str, tmp_path: Path) -> None:
    incident = incidents.INCIDENTS[letter]
    for side in SIDES:
        outcome = train(incident, side, 0, tmp_path / side, updates=2)
        assert (outcome.died, len(outcome.returns), outcome.left) == ("", 2, True)
        assert outcome.entropy is not None
        assert outcome.entropy > 0.0


@pytest.mark.parametrize("letter", list(incidents.INCIDENTS))
@pytest.mark.usefixtures("tiny")
def test_both_algorithms_get_the_same_settings(letter: str, tmp_path: Path) -> None:
    incident = incidents.INCIDENTS[letter]
    theirs, _ = make_model(incident, CONTRIB, 7, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, _ = make_model(incident, OURS, 7, tmp_path)
    assert type(theirs) is sb3_contrib.TRPO
    assert type(ours) is sb3_trpo_ext.TRPO
    same = (
        "target_kl",
        "n_steps",
        "batch_size",
        "gamma",
        "gae_lambda",
        "cg_damping",
        "n_critic_updates",
        "learning_rate",
        "seed",
    )
    assert {name: getattr(theirs, name) for name in same} == {name: getattr(ours, name) for name in same}
    assert ours.kl_unit == "mean"
    assert type(theirs.policy) is type(ours.policy)


def with_trouble(kit: Kit) -> Incident:
    return Incident("z", "made up", 3, 1, "made up", "", kit)


@pytest.mark.usefixtures("tiny")
def test_the_queue_makes_workers_act_with_old_weights(tmp_path: Path) -> None:
    kit = Kit({}, stale_workers.WorkerPolicy, callbacks=lambda: [stale_workers.Queue(lag=1, onset=2)])
    theirs = train(with_trouble(kit), CONTRIB, 0, tmp_path)
    assert theirs.died == ""
    ours = train(with_trouble(kit), OURS, 0, tmp_path / "ours")
    assert ours.died.startswith(StaleBatchError.__name__)
    assert len(ours.returns) == 2
    assert ours.left


@pytest.mark.usefixtures("tiny")
def test_without_a_lag_the_queue_changes_nothing(tmp_path: Path) -> None:
    late = Kit({}, stale_workers.WorkerPolicy, callbacks=lambda: [stale_workers.Queue(lag=0, onset=1)])
    ours = train(with_trouble(late), OURS, 0, tmp_path / "a")
    assert ours.died == ""
    assert ours.returns == train(with_trouble(Kit()), OURS, 0, tmp_path / "b").returns


@pytest.mark.usefixtures("tiny")
def test_the_fresh_critic_is_new_and_trained_by_its_own_settings(tmp_path: Path) -> None:
    made = fresh_critic.FreshCritic(2, n_critic_updates=1, lr_schedule=lambda _: 1e-6)
    model, _ = make_model(with_trouble(Kit()), CONTRIB, 0, tmp_path)
    model.learn(BASE["n_steps"] * scenario.N_ENVS)
    before: Any = model.policy.value_net.weight.clone()
    model.learn(2 * BASE["n_steps"] * scenario.N_ENVS, callback=made, reset_num_timesteps=False)
    assert model.n_critic_updates == 1
    assert model.policy.optimizer.param_groups[0]["lr"] == 1e-6
    assert (model.policy.value_net.weight - before).abs().max() > 0.01


def test_wrappers_trouble_the_reward_and_not_the_return() -> None:
    model, _ = make_model(
        with_trouble(Kit(wrapper=lambda env, _: ChangedReward(env, loophole.penalised(after=1)))), CONTRIB, 0, Path()
    )
    env = model.get_env()
    assert env is not None
    env.reset()
    actions = [0] * scenario.N_ENVS
    assert list(env.step(actions)[1]) == [1.0] * scenario.N_ENVS  # type: ignore[arg-type]
    infos: list[dict[str, Any]] = []
    while not any("episode" in info for info in infos):
        _, rewards, _, infos = env.step(actions)  # type: ignore[arg-type]
        assert list(rewards) == [1.0 - loophole.PENALTY] * scenario.N_ENVS
    ended = next(info["episode"] for info in infos if "episode" in info)
    assert ended["r"] == ended["l"]


@pytest.mark.usefixtures("tiny")
def test_one_nan_kills_sb3_contrib_with_its_policy_and_ours_keeps_it(tmp_path: Path) -> None:
    kit = Kit(wrapper=lambda env, index: ChangedReward(env, broken_sensor.broken(20 if index == 3 else 0)))
    theirs, ours = (train(with_trouble(kit), side, 0, tmp_path / side) for side in (CONTRIB, OURS))
    assert theirs.died.startswith("ValueError")
    assert not theirs.left
    assert "NonFinite" in ours.died
    assert ours.left


def outcome(returns: list[float | None], died: str = "", alarms: list[tuple[str, int]] | None = None) -> Outcome:
    return Outcome(returns, alarms or [], died, True, 0.5, 0.0, 0.9, 1.0)


def test_a_fall_is_a_quarter_of_the_range_below_the_best_of_ten() -> None:
    up, down = [500.0] * 10, [0.0]
    assert judge([*up, *down * 2]).fell_at is None
    assert judge([*up, *down * 3]).fell_at == 13
    assert judge([*up, *down * 3, *up]).fell_at == 13
    assert judge([*up, *down * 3]).end == 350.0
    assert judge([500.0, *[0.0] * 9]).fell_at is None
    assert judge([None] * 20).fell_at is None


def test_updates_in_which_no_episode_ended_are_left_out() -> None:
    assert running_means([None] * 8 + [4.0, None, None])[-3:] == [None, 4.0, 4.0]
    assert running_means([None] * 30) == [None] * 30


def test_a_finished_run_is_found_again_and_another_setting_is_another_run(tmp_path: Path) -> None:
    store, incident = Store(tmp_path), incidents.INCIDENTS["g"]
    assert not store.has(incident.key(OURS), 1)
    store.add(incident, OURS, 1, outcome([1.0, None, 2.25], "ValueError: x", [("TR201", 3)]))
    assert store.has(incident.key(OURS), 1)
    assert not store.has(incident.key(OURS), 2)
    assert not store.has(incident.key(CONTRIB), 1)
    (row,) = store.rows()
    assert row["returns"] == [1.0, None, 2.2]
    assert (row["alarms"], row["died"], row["left"]) == ("TR201@3", "ValueError: x", "True")


def test_healthy_runs_are_shared_and_troubles_are_not() -> None:
    keys = {letter: {side: i.key(side) for side in SIDES} for letter, i in incidents.INCIDENTS.items()}
    assert keys["c"][HEALTHY] == keys["f"][HEALTHY]
    assert keys["g"][HEALTHY] != keys["c"][HEALTHY]  # longer
    assert keys["g"][CURED] != keys["c"][CURED]  # another batch size
    ours = [found[OURS] for found in keys.values()]
    assert len(set(ours)) == len(ours)


def test_runs_once_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def pretend(incident: Incident, side: str, seed: int, folder: Path) -> Outcome:
        done.append((incident.letter, side, seed))
        falls = side == CONTRIB
        return outcome(
            [100.0] * 5 + [500.0] * 10 + [9.0 if falls else 500.0] * 10, alarms=[("TR201", 17)] if side == OURS else []
        )

    monkeypatch.setattr(incidents, "train", pretend)
    command = ["--results", str(tmp_path), "--docs", str(tmp_path / "docs"), "--incident", "d", "e", "--seeds", "1", "2", "3"]
    assert incidents.main(command) == 0
    assert len(done) == len(set(done)) == 3 * 8
    assert incidents.main(command) == 0
    assert len(done) == 3 * 8
    for letter in "fc":  # the two share their healthy runs
        assert incidents.main([*command, "--incident", letter, "--sides", HEALTHY]) == 0
        assert len(done) == 3 * 9
    page = (tmp_path / "docs" / "incidents.md").read_text()
    assert "It counts." in page
    assert "does not count" not in page
    assert "| ours | 3 | 500 | 500 | – | – | TR201: 3 (update 17) |" in page
    assert "| sb3-contrib | 3 | 500 |" in page
    assert (tmp_path / "docs" / "figures" / "incident_d.svg").exists()


@pytest.mark.parametrize(
    ("falls", "seeds", "verdict"),
    [(2, 5, "**It does not count**"), (3, 5, "It counts."), (2, 2, "**Not decided**: 2 of 5 seeds"), (3, 3, "It counts.")],
)
def test_three_falls_of_five_seeds_count(
    falls: int, seeds: int, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretend(incident: Incident, side: str, seed: int, folder: Path) -> Outcome:
        return outcome([500.0] * 10 + [9.0 if side != CONTRIB or seed <= falls else 500.0] * 10)

    monkeypatch.setattr(incidents, "train", pretend)
    command = [
        "--results",
        str(tmp_path),
        "--docs",
        str(tmp_path / "docs"),
        "--incident",
        "d",
        "--seeds",
        *map(str, range(1, 1 + seeds)),
    ]
    assert incidents.main(command) == 0
    assert verdict in (tmp_path / "docs" / "incidents.md").read_text()


def test_run_folders_are_made_again_for_ours_only_and_write_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def pretend(incident: Incident, side: str, seed: int, folder: Path) -> Outcome:
        made.append((side, seed, folder.name))
        return outcome([9.0])

    monkeypatch.setattr(incidents, "train", pretend)
    results, folders = tmp_path / "results", tmp_path / "folders"
    command = ["--incident", "g", "--folders", str(folders), "--results", str(results), "--docs", str(results)]
    assert incidents.main([*command, "--seeds", "6"]) == 0
    assert made == [(OURS, 6, "g_ours_6"), (CURED, 6, "g_cured_6")]
    assert incidents.main([*command, "--sides", CONTRIB]) == 0
    assert len(made) == 2
    assert not results.exists()


def test_only_the_seeds_that_were_named_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incidents, "train", lambda *_: outcome([500.0] * 10 + [9.0] * 10))
    command = ["--results", str(tmp_path), "--docs", str(tmp_path), "--incident", "d", "--sides", CONTRIB]
    assert incidents.main([*command, "--seeds", "1", "101", "102"]) == 0
    assert "**Not decided**: 1 of 5 seeds" in (tmp_path / "incidents.md").read_text()
    assert incidents.main(command) == 0
    assert len(Store(tmp_path).rows()) == 2 + 5
    assert "| sb3-contrib | 5 |" in (tmp_path / "incidents.md").read_text()


def test_the_stories_have_the_numbers_of_the_page(repo: Path) -> None:
    numbers, stories = ((repo / "docs" / name).read_text() for name in ("incidents.md", "debugging.md"))
    rows = [line for line in numbers.splitlines() if line.startswith("| (")]
    assert len(rows) == len(incidents.INCIDENTS)
    assert [row for row in rows if row not in stories] == []
    rows = Store(repo / "results").rows()
    for incident in incidents.INCIDENTS.values():
        for side in (HEALTHY, CONTRIB):  # ours are run again when NUMERICS_VERSION rises
            done = {int(row["seed"]) for row in rows if row["key"] == incident.key(side)}
            assert done >= set(incident.seeds), f"({incident.letter}) {side}"


def test_every_committed_row_has_its_curve(repo: Path) -> None:
    rows = Store(repo / "results").rows()
    assert rows
    assert all(len(row["returns"]) == int(row["updates"]) for row in rows)
    assert len({(row["key"], row["seed"]) for row in rows}) == len(rows)


@pytest.mark.slow
@pytest.mark.parametrize(("letter", "code"), list(EXPECTED.items()))
def test_the_alarm_that_an_incident_claims_is_raised(letter: str, code: str, tmp_path: Path) -> None:
    """On one of three seeds: on which of them, differs between kinds of processors, which round in other ways."""
    incident = incidents.INCIDENTS[letter]
    alarms = (train(incident, OURS, seed, tmp_path / str(seed)).alarms for seed in incident.seeds[:3])
    assert any(code in [name for name, update in of_seed if update >= incident.onset] for of_seed in alarms)


@pytest.mark.slow
@pytest.mark.parametrize(("letter", "error", "unfinished"), [("a", "StaleBatchError", 0), ("f", "NonFiniteError", 1)])
def test_ours_refuses_at_the_onset(letter: str, error: str, unfinished: int, tmp_path: Path) -> None:
    incident = incidents.INCIDENTS[letter]
    ended = train(incident, OURS, 1, tmp_path)
    assert ended.died.startswith(error)
    assert len(ended.returns) == incident.onset - unfinished  # (f) is found while the rollout is collected
    assert ended.left


def test_a_missing_extra_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "incident_suite.report", None)
    with pytest.raises(SystemExit, match="pip install"):
        incidents.main(["--report", "--results", str(tmp_path), "--docs", str(tmp_path)])
