"""The benchmark of one update: that it times the same work on the same data, and reports all of it. Nothing is timed here."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("rliable", reason="tables need the extra `bench`")

import benchmark_update
from benchmarks import bars, measure, memory, page
from benchmarks.cells import AS_SHIPPED, EQUAL_WORK, Cell, joint_kl, overwrite
from benchmarks.peers import PEERS, make_peer
from benchmarks.sb3_sides import CONTRIB, ContribSide, OurSide
from benchmarks.watch import DifferentWork, Side, Timing, Unavailable
from rich.console import Console

CELL = Cell("halfcheetah", 256, 5, EQUAL_WORK, 1)
ARGUMENTS = ["--samples", "256", "--cg-steps", "5", "--critic-epochs", "1", "--repetitions", "1", "--precisions", "mixed"]


@pytest.fixture(scope="module")
def contrib() -> ContribSide:
    return ContribSide(CELL)


def installed(name: str, contrib: ContribSide) -> Side:
    try:
        return make_peer(name, CELL, contrib.batch())
    except Unavailable as error:
        pytest.skip(f"{name}: {error}")


@pytest.mark.parametrize("precision", ["float64", "mixed", "float32"])
def test_ours_has_the_same_data_and_takes_the_same_step(contrib: ContribSide, precision: str) -> None:
    ours = OurSide(CELL, precision, "none")
    assert ours.batch().same(contrib.batch())
    assert measure.first_steps(contrib.batch(), CELL, [contrib, ours])[ours.name].cosine > measure.COSINE


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_takes_the_same_step_from_the_same_network(contrib: ContribSide, name: str) -> None:
    batch = contrib.batch()
    peer = installed(name, contrib)
    assert torch.equal(measure.flat(peer.actor()), measure.flat(batch.actor))
    assert torch.equal(measure.flat(peer.critic()), measure.flat(batch.critic))
    step = measure.first_steps(batch, CELL, [contrib, peer])[name]
    assert step.cosine > 0.99
    assert step.length == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("make", [lambda: ContribSide(CELL), lambda: OurSide(CELL, "mixed", "none")])
def test_every_repetition_does_the_same_from_the_same_state(make: object) -> None:
    side = make()  # type: ignore[operator]
    after = []
    for _ in range(2):
        measure.run_once(side)
        after.append(measure.flat([*side.actor(), *side.critic()]))
    assert torch.equal(*after)
    side.reset()
    assert not torch.equal(measure.flat([*side.actor(), *side.critic()]), after[0])


def test_other_data_are_noticed(contrib: ContribSide) -> None:
    batch = contrib.batch()
    assert ContribSide(Cell("halfcheetah", 256, 5, AS_SHIPPED, 1)).batch().same(batch)
    assert not replace(batch, returns=batch.returns + 1e-6).same(batch)
    assert not replace(batch, actor=(batch.actor[0] + 1.0, *batch.actor[1:])).same(batch)


class Moved:
    """A side whose update puts given parameters in place."""

    name, validates = "moved", True

    def __init__(self, contrib: ContribSide, scale: float):
        self._contrib, self._scale = contrib, scale

    def reset(self) -> None:
        self._contrib.reset()

    def update(self) -> Timing:
        before = [part.detach().clone() for part in self.actor()]
        timing = self._contrib.update()
        moved = tuple(b + self._scale * (a.detach() - b) for a, b in zip(self.actor(), before, strict=True))
        overwrite(self.actor(), moved)  # type: ignore[arg-type]
        return timing

    def actor(self) -> tuple[torch.Tensor, ...]:
        return self._contrib.actor()

    def critic(self) -> tuple[torch.Tensor, ...]:
        return self._contrib.critic()


@pytest.mark.parametrize(("scale", "why"), [(0.8, "another step"), (-1.0, "another step"), (float("nan"), "not finite")])
def test_a_side_that_does_other_work_is_refused(contrib: ContribSide, scale: float, why: str) -> None:
    with pytest.raises(DifferentWork, match=why):
        measure.first_steps(contrib.batch(), CELL, [contrib, Moved(contrib, scale)])


def test_the_divergence_has_its_closed_form(contrib: ContribSide) -> None:
    batch = contrib.batch()
    assert joint_kl(batch, batch.actor) == pytest.approx(0.0, abs=1e-12)
    wider = (batch.actor[0] + 1.0, *batch.actor[1:])
    # Each dimension: (e² - 1) / 2 - 1.
    assert joint_kl(batch, wider) == pytest.approx(6 * 2.194528049465, rel=1e-6)


def test_ratios_are_taken_within_a_repetition() -> None:
    row = measure.row("part", "side", [2.0, 30.0, 4.0], [1.0, 10.0, 1.0], "ms")
    assert (row["value"], row["ratio"]) == (4.0, 3.0)
    assert (row["ratio_low"], row["ratio_high"]) == (2.5, 3.5)
    assert measure.quartiles([7.0]) == (7.0, 7.0, 7.0)


def test_a_run_writes_every_row_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_update, "CSV", tmp_path / "results" / "benchmark_update.csv")
    monkeypatch.setattr(benchmark_update, "PAGE", tmp_path / "docs" / "benchmarks.md")
    arguments = [*ARGUMENTS, "--preconditioners", "none", "--peers", "--mode", EQUAL_WORK, AS_SHIPPED, "--write"]
    assert benchmark_update.main(arguments) == 0
    rows = page.read(benchmark_update.CSV)
    for mode, sides in ((EQUAL_WORK, {CONTRIB, "ours, mixed"}), (AS_SHIPPED, {CONTRIB, "ours, mixed", "ours, default"})):
        for part in (measure.POLICY, measure.CRITIC, measure.WHOLE):
            assert {row["side"] for row in rows if row["part"] == part and row["mode"] == mode} == sides
    assert all(row["ratio"] == "1" for row in rows if row["side"] == CONTRIB)
    assert {row["unit"] for row in rows} == {"ms"}
    assert any(row["side"].startswith("ours, float32, ") for row in rows if row["part"] == "Fisher product")
    text = benchmark_update.PAGE.read_text()
    for row in rows:
        assert f"| {row['part']} | {row['side']} |" in text
        assert row["command"] in text
    again = page.merge(rows, rows)
    assert again == rows


def made_up(part: str, side: str, ratio: float, **cell: str) -> dict[str, str]:
    where = {
        "shape": "humanoid",
        "samples": "16384",
        "cg_steps": "25",
        "mode": EQUAL_WORK,
        "allocator": "default",
    }
    return {**where, "part": part, "side": side, "ratio": str(ratio), **cell}


def verdict_of(rows: list[dict[str, str]], start: str) -> bars.Verdict:
    return next(each for each in bars.verdicts(rows) if each.bar.text.startswith(start))


@pytest.fixture(autouse=True)
def on_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was measured on trained policies: nothing yet."""
    path = tmp_path / "precision_step_timings.csv"
    monkeypatch.setattr(bars, "ON_TRAINED", path)
    return path


def test_bars_say_what_was_reached() -> None:
    rows = [made_up(measure.POLICY, "ours, mixed", 0.3), made_up(measure.POLICY, "ours, mixed", 0.5, shape="halfcheetah")]
    assert verdict_of(rows, "Humanoid").text == "reached"
    assert verdict_of(rows, "policy step, 25 CG iterations, mixed").text == "reached in part"
    assert verdict_of(rows[1:], "policy step, 25 CG iterations, mixed").text == "missed"
    assert {each.text for each in bars.verdicts([])} == {"not measured"}
    assert "not measured" in page.bars_table(bars.verdicts([]))


def test_the_bar_on_trained_policies_is_read_from_their_own_table(on_trained: Path) -> None:
    start, kfac = "policy step to the gain of 25 plain iterations", f'"{bars.PRECONDITIONED}"'
    lines = ["task,policy,target,model,iterations,ratio"]
    lines += [f"Hopper-v5,{policy},25 plain,{kfac},4,{r}" for policy, r in (("early", 0.5), ("late", 0.3))]
    lines += [f"Hopper-v5,late,as shipped,{kfac},9,0.9", "Hopper-v5,late,25 plain,sb3-contrib,25,1"]
    assert verdict_of([], start).text == "not measured"
    on_trained.write_text("\n".join(lines) + "\n")
    found = verdict_of([], start)
    assert found.best is not None
    assert found.worst is not None
    assert (found.best.ratio, found.worst.ratio, found.text) == (0.3, 0.5, "reached in part")
    assert found.worst.where.startswith("Hopper-v5 early")


def test_tables_fit_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=80, highlight=False)
    values = {
        "value": "123.4",
        "unit": "ms",
        "ratio_low": "0.31",
        "ratio_high": "0.34",
        "torch": "2.13.0+cpu",
        "critic_epochs": "20",
    }
    sides = ("ours, mixed", "ours, float32, one linearisation and one backward pass of it")
    rows = [{**made_up(part, side, 0.3), **values} for part in (measure.POLICY, "Fisher product") for side in sides]
    benchmark_update.show(rows, console)
    benchmark_update.show_bars(bars.verdicts(rows), console)
    text = capsys.readouterr().out
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    for said in (measure.POLICY, "Fisher product", "0.30 [0.31, 0.34]", "123.4 ms", "not measured", "reached"):
        assert said in text


def test_preconditioned_sides_do_not_stop_early_where_work_is_equal() -> None:
    iterations = {}
    for mode in (EQUAL_WORK, AS_SHIPPED):
        side = OurSide(replace(CELL, cg_steps=15, mode=mode), "mixed", "kfac")
        measure.run_once(side)
        iterations[mode] = side.iterations
    assert iterations[EQUAL_WORK] == 15
    assert iterations[AS_SHIPPED] < 15


def test_the_fastest_peer_is_of_the_same_cell() -> None:
    rows = [
        made_up(measure.POLICY, "ours, mixed", 0.3, cg_steps="10"),
        made_up(measure.POLICY, "tianshou", 0.5, cg_steps="10"),
        made_up(measure.POLICY, "skrl", 0.9, cg_steps="10"),
        made_up(measure.POLICY, "skrl", 0.1, cg_steps="10", shape="halfcheetah"),
    ]
    found = verdict_of(rows, "policy step, 10 CG iterations")
    assert found.worst is not None
    assert found.worst.ratio == pytest.approx(0.6)
    assert found.worst.where.endswith("against tianshou")


def test_memory_is_measured_in_a_process_of_its_own() -> None:
    lines: list[str] = []
    (row,) = memory.memory_rows([CONTRIB], CELL, 1, lines.append)
    assert (row["side"], row["unit"], lines) == (CONTRIB, "MiB", [])
    assert 0.0 < row["value"] < 1_000.0


def test_memory_that_could_not_be_measured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SCRIPT", Path("no such script"))
    lines: list[str] = []
    assert memory.memory_rows([CONTRIB], CELL, 1, lines.append) == []
    assert "not measured" in lines[0]


def test_what_this_version_refuses_is_said() -> None:
    lines: list[str] = []
    _, sides = measure.make_sides(CELL, ["mixed"], ["none", "no such preconditioner"], [], lines.append)
    assert [side.name for side in sides] == [CONTRIB, "ours, mixed"]
    assert "left out" in lines[0]


def test_the_command_line_names_its_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark_update.parse_arguments(["--shape", "no such robot"])
    assert "halfcheetah" in capsys.readouterr().err
