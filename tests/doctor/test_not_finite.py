"""NaN and infinity in files: critical where they are figures of a run, and never a number of ours."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from sb3_trpo_ext.doctor.finding import Finding
from sb3_trpo_ext.doctor.folders import EVENTS
from sb3_trpo_ext.doctor.read import read_run
from sb3_trpo_ext.monitoring import Severity
from tests.doctor.runs import write_events


@pytest.mark.parametrize("name", ["progress.csv", f"{EVENTS}1", "monitor.csv", "evaluations.npz"])
def test_returns_that_are_not_finite(name: str) -> None:
    if name == "progress.csv":
        rows = "".join(f"{n},{'nan' if n > 4 else 1.0},0.005,{256 * n}\n" for n in range(1, 21))
        Path(name).write_text("train/n_updates,rollout/ep_rew_mean,train/kl_divergence_loss,time/total_timesteps\n" + rows)
    elif name == "monitor.csv":
        Path(name).write_text("#{}\nr,l,t\n1.0,10,1.0\nnan,10,2.0\n")
    elif name == "evaluations.npz":
        np.savez(name, timesteps=np.array([1, 2]), results=np.array([[1.0], [np.nan]]))
    else:
        write_events(Path(name), range(20), **{"eval/mean_reward": float("inf")})
    run = read_run(Path(), target_kl=0.01)
    assert run.findings[0].code == "DR008"
    assert run.exit_code == 2


def test_numbers_that_are_not_finite_in_tensorflows_form() -> None:
    tensor = TensorProto(dtype=1, float_val=[float("nan")])
    record = Event(step=256, summary=Summary(value=[Summary.Value(tag="train/value_loss", tensor=tensor)])).SerializeToString()
    write_events(Path(f"{EVENTS}1"), range(20))
    length = struct.pack("<Q", len(record))
    with Path(f"{EVENTS}1").open("ab") as file:
        for part in (length, record):
            file.write(part + struct.pack("<I", masked_crc32c(part)))
    assert "DR008" in [finding.code for finding in read_run(Path(), target_kl=0.01).findings]


def test_returns_that_do_not_vary_make_no_run_sick() -> None:
    rows = "".join(f"{n},nan,0.005,{256 * n}\n" for n in range(1, 9))
    Path("progress.csv").write_text(
        "train/n_updates,train/explained_variance,train/kl_divergence_loss,time/total_timesteps\n" + rows
    )
    assert [
        finding.code for finding in read_run(Path(), target_kl=0.01).findings if finding.severity is Severity.CRITICAL
    ] == []


def test_a_number_that_is_not_finite_is_no_number_of_json() -> None:
    plain = Finding("TR101", {"spike": float("inf"), "what": "x"}).plain()
    assert json.loads(json.dumps(plain, allow_nan=False))["evidence"] == {"spike": "inf", "what": "x"}
