"""
Models of sb3-contrib before gymnasium, such as the RL Zoo's on the Hub.

A zip of today is made what one of 1.8 is: spaces of ``gym``, which is not installed, a schedule whose bytecode is Python 3.8's
(this string was written by it), and without the two entries that came later. docs/migration.md tells what real ones gave.
"""

import base64
import json
import sys
import zipfile
from typing import Any

import numpy as np
import pytest
import sb3_contrib

from sb3_trpo_ext import TRPO
from tests.sb3.spaces import BOX, VECTOR, make_env, make_model, same

LEARNING_RATE_OF_PYTHON_38 = (
    "gAWV7AEAAAAAAACMF2Nsb3VkcGlja2xlLmNsb3VkcGlja2xllIwOX21ha2VfZnVuY3Rpb26Uk5QoaACMDV9idWlsdGluX3R5cGWUk5SMCENvZGVUeXBl"
    "lIWUUpQoSwFLAEsASwFLAUsTQwSIAFMAlE6FlCmMAV+UhZSMB3B5MzgucHmUjARmdW5jlEsEQwCUjAN2YWyUhZQpdJRSlH2UKIwLX19wYWNrYWdlX1+U"
    "TowIX19uYW1lX1+UjAhfX21haW5fX5SMCF9fZmlsZV9flGgMdU5OaACMEF9tYWtlX2VtcHR5X2NlbGyUk5QpUpSFlHSUUpRoAIwSX2Z1bmN0aW9uX3Nl"
    "dHN0YXRllJOUaB19lH2UKGgVjARmdW5jlIwMX19xdWFsbmFtZV9flIwWY29uc3RhbnQuPGxvY2Fscz4uZnVuY5SMD19fYW5ub3RhdGlvbnNfX5R9lIwO"
    "X19rd2RlZmF1bHRzX1+UTowMX19kZWZhdWx0c19flE6MCl9fbW9kdWxlX1+UaBaMB19fZG9jX1+UTowLX19jbG9zdXJlX1+UaACMCl9tYWtlX2NlbGyU"
    "k5RHP1BiTdLxqfyFlFKUhZSMF19jbG91ZHBpY2tsZV9zdWJtb2R1bGVzlF2UjAtfX2dsb2JhbHNfX5R9lHWGlIZSMC4="
)
BOX_OF_GYM = base64.b64encode(b"cgym.spaces.box\nBox\n.").decode()


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model of sb3-contrib, and as ``old.zip`` what it would have saved years ago."""
    monkeypatch.setitem(sys.modules, "gym", None)
    model = make_model(cls=sb3_contrib.TRPO, learning_rate=0.001).learn(64)
    model.save("new.zip")
    with zipfile.ZipFile("new.zip") as new:
        files = {name: new.read(name) for name in new.namelist()}
    data = json.loads(files["data"])
    del data["rollout_buffer_class"], data["rollout_buffer_kwargs"]
    data["lr_schedule"] = {":type:": "<class 'function'>", ":serialized:": LEARNING_RATE_OF_PYTHON_38}
    for name in ("observation_space", "action_space"):
        data[name] = {":type:": "<class 'gym.spaces.box.Box'>", ":serialized:": BOX_OF_GYM}
    with zipfile.ZipFile("old.zip", "w") as old:
        for name, content in {**files, "data": json.dumps(data)}.items():
            old.writestr(name, content)
    return model


@pytest.mark.filterwarnings("ignore:Could not deserialize object lr_schedule", "ignore:TRPO")
def test_an_old_zip_needs_its_spaces_and_trains_on(theirs: Any) -> None:
    with pytest.raises(ModuleNotFoundError, match="gym"):
        TRPO.load("old.zip", device="cpu")
    ours = TRPO.load(
        "old.zip", env=make_env(), device="cpu", custom_objects={"observation_space": VECTOR, "action_space": BOX}
    )
    assert same(ours.policy.state_dict(), theirs.policy.state_dict())
    seen = np.random.default_rng(0).uniform(-1, 1, (5, 6)).astype(np.float32)
    assert np.array_equal(*(model.predict(seen, deterministic=True)[0] for model in (ours, theirs)))
    assert ours.lr_schedule(0.5) == 0.001
    ours.learn(64, reset_num_timesteps=False)
    assert (ours.num_timesteps, ours.last_update.kl_reduction) == (128, "mean")
    ours.save("ours.zip")
    assert isinstance(TRPO.load("ours.zip", device="cpu").observation_space, type(VECTOR))
