"""What observers read of a model is there."""

from pathlib import Path
from typing import Any, get_args, get_type_hints

from sb3_trpo_ext import TRPO
from sb3_trpo_ext.monitoring import FlightRecorder, observed


def missing(value: Any, protocol: type, name: str) -> list[str]:
    """Names of a protocol, and of those inside of it, that a value lacks."""
    found: list[str] = []
    for part, hint in get_type_hints(protocol).items():
        if not hasattr(value, part):
            found.append(f"{name}.{part}")
            continue
        for inner in (hint, *get_args(hint)):
            if getattr(inner, "_is_protocol", False):
                assert getattr(value, part) is not None, f"{name}.{part} says nothing here"
                found += missing(getattr(value, part), inner, f"{name}.{part}")
    return found


def test_our_model_has_what_observers_read(tmp_path: Path) -> None:
    model = TRPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, device="cpu", log_folder=str(tmp_path), seed=1)
    model.learn(64, FlightRecorder())
    assert missing(model, observed.Observed, "model") == []
    assert all(callable(getattr(model, name)) for name in ("save", "get_vec_normalize_env"))
