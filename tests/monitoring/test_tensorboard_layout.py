"""The layout in the event file, as TensorBoard reads it."""

import re
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.logger import configure
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.custom_scalar import layout_pb2, metadata

from sb3_trpo_ext.monitoring import TrustRegionMonitor, tensorboard_layout
from sb3_trpo_ext.records.keys import CHARTS, NOT_IN_TENSORBOARD
from tests.sb3.spaces import make_env, make_model


def event_files(folder: str | Path) -> list[Path]:
    return sorted(Path(folder).rglob("events.out.tfevents.*"))


def read(file: Path) -> tuple[list[layout_pb2.Layout], set[str]]:
    """The layouts of an event file, and the tags of its scalars."""
    layouts, tags = [], set()
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.tag == metadata.CONFIG_SUMMARY_TAG:
                layouts.append(layout_pb2.Layout.FromString(value.tensor.string_val[0]))
            else:
                tags.add(value.tag)
    return layouts, tags


def tags_of(layout: layout_pb2.Layout, logged: set[str]) -> list[str]:
    """What TensorBoard shows: its plugin compiles each pattern, and asks for a ``match`` with each tag."""
    patterns = [pattern for group in layout.category for chart in group.chart for pattern in chart.multiline.tag]
    assert [pattern for pattern in patterns if not any(re.match(pattern, tag) for tag in logged)] == []
    return [tag for pattern in patterns for tag in sorted(logged) if re.match(pattern, tag)]


def evaluated(**kwargs: Any) -> Any:
    # Large enough for two phases of the episode to be compared; what is dropped is counted in this mode only.
    model = make_model(tensorboard_log="boards", n_steps=256, on_nonfinite="truncate", **kwargs)
    evaluation = EvalCallback(make_env(n_envs=1), eval_freq=48, n_eval_episodes=1, verbose=0)
    return model.learn(3 * 512, callback=[TrustRegionMonitor(), evaluation])


def test_the_layout_shows_what_is_logged() -> None:
    evaluated()
    (file,) = event_files("boards")
    (layout,), logged = read(file)
    shown = tags_of(layout, logged)
    assert {tag for tag in logged if tag.startswith("train/")} <= set(shown)
    assert len(set(shown)) == len(shown)
    assert [group.title for group in layout.category] == list(CHARTS)
    for group in layout.category:
        assert [chart.title for chart in group.chart] == list(CHARTS[group.title])
        assert all(chart.multiline.tag for chart in group.chart)
    assert "train/n_updates" not in shown


def test_a_planted_difference_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHARTS["CG"], "planted", {"train/planted": None})
    monkeypatch.delitem(CHARTS["CG"], "damping")
    evaluated()
    (layout,), logged = read(event_files("boards")[0])
    with pytest.raises(AssertionError, match="planted"):
        tags_of(layout, logged)
    assert "train/cg_damping" not in tags_of(layout, logged | {"train/planted"})


def test_it_is_written_once_a_file() -> None:
    model = make_model()
    model.set_logger(configure("board", ["tensorboard", "csv"]))
    for _ in range(3):
        model.learn(64, reset_num_timesteps=False)
    model.logger.close()
    (file,) = event_files("board")
    assert len(read(file)[0]) == 1
    # A run that goes on, with a file of its own in the same folder; and another run.
    other = make_model(tensorboard_log="boards")
    for reset in (True, False, True):
        other.learn(64, reset_num_timesteps=reset)
    files = event_files("boards")
    assert [file.parent.name for file in files] == ["TRPO_1", "TRPO_1", "TRPO_2"]
    assert [len(read(file)[0]) for file in files] == [1, 1, 1]


def test_it_is_there_from_the_start() -> None:
    """Who looks at a run that has just begun sees its charts."""
    found = []

    def look(*_: Any) -> bool:
        found.append(len(read(event_files("boards")[0])[0]))
        return True

    make_model(tensorboard_log="boards").learn(64, callback=look)
    assert found[0] == 1


def test_without_a_tensorboard_logger_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard_layout, "layout", lambda: pytest.fail("a layout for nobody"))
    model = make_model(verbose=1)
    model.learn(64)
    model.set_logger(configure("logs", ["csv", "json", "log"]))
    model.learn(64)
    assert event_files(".") == []


def test_charts_of_keys_that_tensorboard_does_not_get() -> None:
    for group, charts in tensorboard_layout.layout().items():
        for chart, (kind, tags) in charts.items():
            assert kind == "Multiline"
            assert tags, f"{group}: {chart} would be empty"
            assert not NOT_IN_TENSORBOARD & {tag.removesuffix("$") for tag in tags}
