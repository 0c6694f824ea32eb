"""The framing of .wandb files: records of any length, cut-off ends, damage, bounds."""

import struct
import zlib
from pathlib import Path

import pytest

from sb3_trpo_ext.monitoring import wandb_log
from sb3_trpo_ext.monitoring.wandb_log import BLOCK, WandbLogError, read_records


def framed(records: list[bytes]) -> bytes:
    """A writer as LevelDB's documentation describes it."""
    data = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
    for record in records:
        first, rest = True, record
        while first or rest:
            left = BLOCK - len(data) % BLOCK
            if left < 7:
                data += bytes(left)
                left = BLOCK
            part, rest = rest[: left - 7], rest[left - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, not rest]
            data += struct.pack("<IHB", zlib.crc32(bytes([kind]) + part), len(part), kind) + part
            first = False
    return data


RECORDS = [b"a", b"", b"b" * (BLOCK - 7 - 7 - 8 - 7 - 3), b"c" * 100, b"d" * (3 * BLOCK + 5), b"last"]


def write(tmp_path: Path, data: bytes) -> Path:
    file = tmp_path / "run.wandb"
    file.write_bytes(data)
    return file


def test_records_of_any_length_are_read(tmp_path: Path) -> None:
    assert list(read_records(write(tmp_path, framed(RECORDS)))) == RECORDS


@pytest.mark.parametrize("cut", [1, 5, 10, 12, 300, BLOCK, 2 * BLOCK])
def test_a_cut_off_end_costs_the_records_that_it_cuts(cut: int, tmp_path: Path) -> None:
    found = list(read_records(write(tmp_path, framed(RECORDS)[:-cut])))
    assert found == RECORDS[: len(found)]
    assert len(found) == (5 if cut <= 11 else 4)


def test_damage_is_an_error(tmp_path: Path) -> None:
    data = bytearray(framed(RECORDS))
    data[60_000] ^= 1
    with pytest.raises(WandbLogError, match="damaged"):
        list(read_records(write(tmp_path, bytes(data))))


@pytest.mark.parametrize("data", [b"", b":W&B", b"something else entirely", b":W&B\xe1\xbe\x01"])
def test_another_format_is_an_error(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(WandbLogError, match="does not begin"):
        list(read_records(write(tmp_path, data)))


def test_no_more_is_read_than_the_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, framed(RECORDS))
    monkeypatch.setattr(wandb_log, "MAX_RECORD", 2 * BLOCK)
    with pytest.raises(WandbLogError, match="a record of more than"):
        list(read_records(file))
    monkeypatch.setattr(wandb_log, "MAX_FILE", 1000)
    with pytest.raises(WandbLogError, match="more than 1000 bytes"):
        list(read_records(file))
