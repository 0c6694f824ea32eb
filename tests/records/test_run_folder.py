"""What is in a run folder, and what becomes of it when a run is resumed or begun anew."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sb3_trpo_ext.core.report import UpdateReport
from sb3_trpo_ext.records.files import CSV_NAME, RECORD_NAME, SPARE_CSV_NAME
from sb3_trpo_ext.records.keys import KEYS
from sb3_trpo_ext.records.run_folder import RunFolder
from tests.monitoring.reports import make_report
from tests.records.folders import HISTORIES, expected, kls, set_aside, updates_in, write


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


# ---------------------------------------------------------------- resumed


def test_rows_later_than_the_checkpoint_are_replaced_and_put_aside(tmp_path: Path) -> None:
    write(tmp_path, 1, 9)
    write(tmp_path, 4, 6, resume=True)
    assert updates_in(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert set_aside(tmp_path) == ["previous_1/updates.jsonl"]
    later = [json.loads(line)["n_updates"] for line in (tmp_path / "previous_1/updates.jsonl").read_text().splitlines()]
    assert later == [4, 5, 6, 7, 8, 9]


def test_a_model_that_was_set_back_in_the_same_process(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, resume=False)
    for n in (1, 2, 3, 2, 3, 4):
        folder.write(make_report(n))
    assert updates_in(tmp_path) == [1, 2, 3, 4]


def test_updates_that_are_there_twice_stay_as_they_were_written_last(tmp_path: Path) -> None:
    # A version that only appended has written such files.
    write(tmp_path, 1, 4)
    lines = (tmp_path / RECORD_NAME).read_text().splitlines()
    again = [make_report(n, entropy=0.5).to_json() for n in (3, 4)]
    (tmp_path / RECORD_NAME).write_text("\n".join([*lines, *again]) + "\n")
    write(tmp_path, 5, 5, resume=True)
    assert updates_in(tmp_path) == [1, 2, 3, 4, 5]
    assert np.load(tmp_path / "entropy.npy").tolist() == [0.25, 0.25, 0.5, 0.5, 0.25]
    assert len((tmp_path / "previous_1" / RECORD_NAME).read_text().splitlines()) == 2


def test_a_resumed_run_whose_report_has_new_fields_and_keys(tmp_path: Path) -> None:
    """The columns are the newest; what an older version did not know is empty."""
    write(tmp_path, 1, 2)
    shortened = [
        {name: value for name, value in json.loads(line).items() if name not in ("entropy", "kl_max", "notes")}
        for line in (tmp_path / RECORD_NAME).read_text().splitlines()
    ]
    for report in shortened:
        report["kl_max"] = 0.75
    (tmp_path / RECORD_NAME).write_text("".join(json.dumps(report) + "\n" for report in shortened))
    rows = [line.split(",")[:5] for line in (tmp_path / CSV_NAME).read_text().splitlines()]
    (tmp_path / CSV_NAME).write_text("".join(",".join(row) + "\r\n" for row in rows))
    write(tmp_path, 3, 3, resume=True)
    assert updates_in(tmp_path) == [1, 2, 3]
    with (tmp_path / CSV_NAME).open() as file:
        values = [(row["train/entropy"], row["train/kl_max"]) for row in csv.DictReader(file)]
    assert values == [("", "0.75"), ("", "0.75"), ("0.25", "0.25")]
    assert np.isnan(np.load(tmp_path / "entropy.npy")).tolist() == [True, True, False]
    assert set_aside(tmp_path) == []


def test_columns_that_this_version_does_not_know_are_put_aside(tmp_path: Path) -> None:
    write(tmp_path, 1, 1)
    of_old = "train/n_updates,train/status,train/of_old\r\n1,accepted,5\r\n"
    (tmp_path / CSV_NAME).write_text(of_old)
    write(tmp_path, 2, 2, resume=True)
    assert updates_in(tmp_path) == [1, 2]
    assert (tmp_path / "previous_1" / CSV_NAME).read_bytes().decode() == of_old


def test_records_of_a_version_that_is_unknown_are_put_aside(tmp_path: Path) -> None:
    write(tmp_path, 1, 3)
    lines = (tmp_path / RECORD_NAME).read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), "of_the_future": 1})
    (tmp_path / RECORD_NAME).write_text("\n".join(lines) + "\n")
    write(tmp_path, 4, 4, resume=True)
    assert updates_in(tmp_path) == [1, 3, 4]
    assert "of_the_future" in (tmp_path / "previous_1" / RECORD_NAME).read_text()


@pytest.mark.parametrize("name", [RECORD_NAME, CSV_NAME, "kl.npy", "advantages.npy"])
@pytest.mark.parametrize("content", [None, b"", b"not an array \x80\n" * 40])
def test_a_file_that_was_removed_or_is_something_else(tmp_path: Path, name: str, content: bytes | None) -> None:
    write(tmp_path, 1, 3)
    before = {file: (tmp_path / file).read_bytes() for file in (CSV_NAME, "kl.npy")}
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    write(tmp_path, 4, 5, resume=True)
    assert updates_in(tmp_path) == ([4, 5] if name == RECORD_NAME else [1, 2, 3, 4, 5])
    if name == RECORD_NAME:  # nothing else says what the others' rows are
        assert before == {file: (tmp_path / "previous_1" / file).read_bytes() for file in before}
    elif content:
        assert (tmp_path / "previous_1" / name).read_bytes() == content


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", [RECORD_NAME, CSV_NAME, "kl.npy"])
def test_what_is_cleared_up_during_a_run_is_there_again(tmp_path: Path, name: str, whole: bool) -> None:
    folder = RunFolder(tmp_path / "run", resume=False)
    for n in (1, 2):
        folder.write(make_report(n))
    if whole:
        shutil.rmtree(tmp_path / "run")
    else:
        (tmp_path / "run" / name).unlink()
    folder.write(make_report(3))
    assert updates_in(tmp_path / "run") == ([3] if whole or name == RECORD_NAME else [1, 2, 3])


@pytest.mark.parametrize("name", [CSV_NAME, "kl.npy"])
def test_what_somebody_has_spoilt_during_a_run_is_written_again(tmp_path: Path, name: str) -> None:
    folder = RunFolder(tmp_path, resume=False)
    for n in (1, 2):
        folder.write(make_report(n))
    with (tmp_path / name).open("a") as file:
        file.write("by hand\n")
    folder.write(make_report(3))
    assert updates_in(tmp_path) == [1, 2, 3]


def test_of_two_runs_in_one_folder_the_one_that_began_first_gives_way(tmp_path: Path) -> None:
    """As when two runs of the Zoo start in the same moment: neither may spoil the other's files."""
    first, second = RunFolder(tmp_path, resume=False), RunFolder(tmp_path, resume=False)
    for n in (1, 2, 3):
        first.write(make_report(n, entropy=1.0))
    second.write(make_report(1))
    for n in (4, 5):
        with pytest.raises(OSError, match=r"another run writes to it: updates\.jsonl has changed"):
            first.write(make_report(n, entropy=1.0))
        second.write(make_report(n - 2))
    assert updates_in(tmp_path) == [1, 2, 3]
    assert np.load(tmp_path / "entropy.npy").tolist() == [0.25] * 3
    assert np.load(tmp_path / "previous_1" / "entropy.npy").tolist() == [1.0] * 3


# ---------------------------------------------------------------- beside SB3's own progress.csv


def test_where_sb3s_own_csv_lies_ours_has_another_name(tmp_path: Path) -> None:
    (tmp_path / CSV_NAME).write_text("sb3's own\n")
    folder = RunFolder(tmp_path, resume=False)
    for n in (1, 2):
        folder.write(make_report(n), SPARE_CSV_NAME)
    assert (tmp_path / CSV_NAME).read_text() == "sb3's own\n"
    assert updates_in(tmp_path, SPARE_CSV_NAME) == [1, 2]
    # Later runs without, and again with SB3's logger.
    folder.write(make_report(3))
    assert updates_in(tmp_path) == [1, 2, 3]
    assert (tmp_path / "previous_1" / CSV_NAME).read_text() == "sb3's own\n"
    assert not (tmp_path / SPARE_CSV_NAME).exists()
    folder.write(make_report(4), SPARE_CSV_NAME)
    assert updates_in(tmp_path, SPARE_CSV_NAME) == [1, 2, 3, 4]


def test_a_users_own_file_of_that_name_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, 1, 1)
    (tmp_path / SPARE_CSV_NAME).write_text("mine\n")
    write(tmp_path, 2, 2, resume=True)
    assert (tmp_path / SPARE_CSV_NAME).read_text() == "mine\n"
