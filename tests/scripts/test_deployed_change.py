"""``scripts/deployed_change.py``: what acts, beside what was logged."""

import deployed_change
import pytest
from incident_suite.scenario import BASE


def test_with_batch_norm_only_ours_logs_what_acts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(BASE, "n_steps", 32)
    monkeypatch.setitem(BASE, "batch_size", 64)
    assert deployed_change.main(["--updates", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if ":" in line] == [
        f"{side}: update, before, logged, deployed" for side in ("sb3-contrib", "ours")
    ]
    rows = [[float(word) for word in line.split()] for line in lines if ":" not in line]
    theirs, ours = rows[:8], rows[8:]
    assert [row[0] for row in theirs] == [row[0] for row in ours] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert max(abs(logged - deployed) for _, _, logged, deployed in theirs) > 0.5
    assert max(abs(logged - deployed) for _, _, logged, deployed in ours) < 0.2
