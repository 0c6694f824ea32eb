"""What is left behind when a run is killed, resumed or begun anew."""

import csv
from pathlib import Path

import numpy as np
import pytest

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.monitoring.keys import KEYS
from sb3_trpo_ext.monitoring.run_folder import RunFolder
from tests.monitoring.reports import make_report

HISTORIES = {"advantages": 7, "vf_loss": 2, "kl": 1, "entropy": 1}


def write(path: Path, first: int, last: int, resume: bool = False) -> None:
    folder = RunFolder(path, resume)
    for n in range(first, last + 1):
        folder.write(make_report(n))


def kls(path: Path) -> list[float]:
    return np.load(path / "kl.npy").tolist()


def expected(*updates: int) -> list[float]:
    return [float(np.float32(0.01 / n)) for n in updates]


def test_histories_load_after_every_write_also_past_powers_of_ten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, resume=False)
    for n in range(1, 121):
        folder.write(make_report(n))
        if n in (1, 2, 9, 10, 11, 99, 100, 101, 120):
            for name, width in HISTORIES.items():
                history = np.load(tmp_path / f"{name}.npy")
                assert history.shape == ((n, width) if width > 1 else (n,))
                assert history.dtype == np.float32
                assert not history.flags.fnc
    assert kls(tmp_path) == expected(*range(1, 121))
    assert np.load(tmp_path / "advantages.npy")[5].tolist() == [0.25, 0.25, -1.0, -0.5, 0.0, 0.5, 1.0]


def test_a_histories_can_be_memory_mapped(tmp_path: Path) -> None:
    write(tmp_path, 1, 3)
    assert np.load(tmp_path / "advantages.npy", mmap_mode="r").shape == (3, 7)


def test_reports_come_back_exactly(tmp_path: Path) -> None:
    write(tmp_path, 1, 3)
    lines = (tmp_path / "updates.jsonl").read_text().splitlines()
    assert [UpdateReport.from_json(line) for line in lines] == [make_report(n) for n in (1, 2, 3)]


def test_the_csv_has_one_header_and_empty_cells_for_what_was_not_computed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, resume=False)
    folder.write(make_report(1))
    folder.write(make_report(2, entropy=None, std=None))
    with (tmp_path / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["time/total_timesteps", "train/status", *KEYS]
    assert (rows[0]["train/entropy"], rows[1]["train/entropy"], rows[1]["train/std"]) == ("0.25", "", "")
    assert rows[1]["train/kl_divergence_loss"] == "0.005"


def test_what_was_not_computed_is_nan_in_the_histories(tmp_path: Path) -> None:
    RunFolder(tmp_path, resume=False).write(make_report(1, entropy=None, value_loss_after=None, advantage_quantiles=()))
    assert np.isnan(np.load(tmp_path / "entropy.npy")).tolist() == [True]
    assert np.isnan(np.load(tmp_path / "vf_loss.npy")).tolist() == [[False, True]]
    assert np.isnan(np.load(tmp_path / "advantages.npy")).all()


def test_a_fresh_run_begins_anew_and_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    write(tmp_path, 1, 5)
    (tmp_path / "best_model.zip").write_text("keep me")
    folder = RunFolder(tmp_path, resume=False)
    # Nothing is deleted before there is something to write.
    assert len(kls(tmp_path)) == 5
    folder.write(make_report(1))
    assert kls(tmp_path) == expected(1)
    assert len((tmp_path / "updates.jsonl").read_text().splitlines()) == 1
    assert len((tmp_path / "progress.csv").read_text().splitlines()) == 2
    assert (tmp_path / "best_model.zip").read_text() == "keep me"


def test_an_earlier_runs_files_are_put_aside_not_lost(tmp_path: Path) -> None:
    for n_updates in (5, 3, 1):
        write(tmp_path, 1, n_updates)
    assert [len(kls(tmp_path / name)) for name in ("previous_1", "previous_2", "")] == [5, 3, 1]
    assert {file.name for file in (tmp_path / "previous_1").iterdir()} >= {"updates.jsonl", "progress.csv", "vf_loss.npy"}


def test_a_resumed_run_appends(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    write(tmp_path, 3, 4, resume=True)
    assert kls(tmp_path) == expected(1, 2, 3, 4)
    assert len((tmp_path / "updates.jsonl").read_text().splitlines()) == 4
    assert len((tmp_path / "progress.csv").read_text().splitlines()) == 5


def test_a_resumed_run_in_a_new_folder(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b", 7, 8, resume=True)
    assert kls(tmp_path / "a" / "b") == expected(7, 8)


# ---------------------------------------------------------------- killed while writing


@pytest.mark.parametrize("cut", range(1, 28))
def test_a_row_cut_off_in_the_middle_is_replaced(tmp_path: Path, cut: int) -> None:
    # Killed after part of the row, before the header said so.
    write(tmp_path, 1, 2)
    path = tmp_path / "advantages.npy"
    before = path.read_bytes()
    write(tmp_path, 3, 3, resume=True)
    after = path.read_bytes()
    path.write_bytes(before[:128] + after[128 : len(before) + cut])
    assert np.load(path).shape == (2, 7)
    RunFolder(tmp_path, resume=True).write(make_report(4))
    assert np.load(path).shape == (3, 7)
    assert np.isfinite(np.load(path)).all()


@pytest.mark.parametrize("size", [0, 1, 60, 127])
def test_a_history_cut_off_in_its_header_begins_anew(tmp_path: Path, size: int) -> None:
    write(tmp_path, 1, 2)
    path = tmp_path / "kl.npy"
    path.write_bytes(path.read_bytes()[:size])
    write(tmp_path, 3, 4, resume=True)
    assert kls(tmp_path) == expected(3, 4)


def test_a_history_that_is_something_else_does_not_stop_a_run(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    (tmp_path / "kl.npy").write_bytes(b"not an array " * 40)
    write(tmp_path, 3, 4, resume=True)
    assert np.isfinite(np.load(tmp_path / "kl.npy")).all()
    assert kls(tmp_path)[-2:] == expected(3, 4)


@pytest.mark.parametrize("name", ["updates.jsonl", "progress.csv"])
def test_a_line_cut_off_in_the_middle_spoils_only_itself(tmp_path: Path, name: str) -> None:
    write(tmp_path, 1, 2)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-20])
    write(tmp_path, 3, 3, resume=True)
    assert path.read_bytes().endswith(b"\n")
    assert len(path.read_text().splitlines()) == (2 if name == "updates.jsonl" else 3)
    if name == "updates.jsonl":
        assert UpdateReport.from_json(path.read_text().splitlines()[-1]) == make_report(3)
    else:
        with path.open() as file:
            rows = list(csv.DictReader(file))
        assert rows[-1]["train/n_updates"] == "3"
        assert None not in rows[-1]


def test_a_resumed_run_keeps_to_the_columns_of_the_file(tmp_path: Path) -> None:
    # As another version of ours may have written them.
    (tmp_path / "progress.csv").write_text("train/n_updates,train/of_old,train/kl_joint\r\n1,5,0.5\r\n")
    write(tmp_path, 2, 2, resume=True)
    with (tmp_path / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[-1] == {"train/n_updates": "2", "train/of_old": "", "train/kl_joint": "0.25"}


def test_an_empty_csv_gets_its_header(tmp_path: Path) -> None:
    (tmp_path / "progress.csv").touch()
    write(tmp_path, 3, 3, resume=True)
    with (tmp_path / "progress.csv").open() as file:
        assert [row["train/n_updates"] for row in csv.DictReader(file)] == ["3"]


def test_without_a_csv_of_its_own_it_touches_none(tmp_path: Path) -> None:
    (tmp_path / "progress.csv").write_text("sb3's own\n")
    folder = RunFolder(tmp_path, resume=False)
    for n in (1, 2):
        folder.write(make_report(n), with_csv=False)
    assert (tmp_path / "progress.csv").read_text() == "sb3's own\n"
    assert kls(tmp_path) == expected(1, 2)
