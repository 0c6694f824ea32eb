"""What an update leaves behind in memory: nothing that was not there before."""

import gc

import torch

from tests.sb3.spaces import make_model


def n_tensors() -> int:
    gc.collect()
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


def test_updates_leave_no_tensors_behind() -> None:
    """Measuring autograd's memory kept a few activations alive with each update: gigabytes, with images."""
    for kwargs in ({}, {"observation": "image"}):
        model = make_model(**kwargs)
        model.learn(5 * 64)
        before = n_tensors()
        model.learn(10 * 64, reset_num_timesteps=False)
        assert n_tensors() <= before
