"""Parameters, flat vectors, snapshots: nothing is lost, nothing is rounded that should not be."""

from contextlib import suppress

import pytest
import torch
from torch import Tensor

from sb3_trpo_ext.core.flat import Snapshot, all_finite, as_deployed, assign, flatten, unchanged, unflatten


def tensors() -> tuple[Tensor, ...]:
    return torch.randn(3, 2, dtype=torch.float64), torch.randn((), dtype=torch.float64), torch.randn(4, dtype=torch.float64)


def test_unflatten_undoes_flatten() -> None:
    parts = tensors()
    vector = flatten(parts)
    assert vector.shape == (11,)
    assert all(torch.equal(a, b) for a, b in zip(unflatten(vector, parts), parts, strict=True))


def test_unflatten_gives_views() -> None:
    vector = torch.zeros(11, dtype=torch.float64)
    unflatten(vector, tensors())[0].fill_(1.0)
    assert float(vector.sum()) == 6.0


def test_deployed_values_are_those_of_each_parameters_dtype() -> None:
    like = (torch.zeros(2, dtype=torch.float32), torch.zeros(1, dtype=torch.float16), torch.zeros(1, dtype=torch.float64))
    vector = torch.full((4,), 1.0 / 3.0, dtype=torch.float64)
    deployed = as_deployed(vector, like)
    assert [part.dtype for part in deployed] == [torch.float32, torch.float16, torch.float64]
    assert all(torch.equal(part, torch.full_like(part, 1.0 / 3.0)) for part in deployed)


def test_assign_keeps_the_storage_of_a_live_parameter() -> None:
    live = torch.nn.Parameter(torch.zeros(2))
    address = live.data_ptr()
    assign([live], [torch.ones(2)])
    assert live.data_ptr() == address
    assert live.requires_grad
    assert live.tolist() == [1.0, 1.0]


def test_a_snapshot_restores_bits_even_those_of_nan_and_of_integers() -> None:
    live = (torch.tensor([1.0, -0.0, torch.nan, 1e-45]), torch.tensor([7]))
    snapshot = Snapshot.take(live)
    bits = live[0].view(torch.int32).clone()
    live[0].fill_(2.0)
    live[1].fill_(0)
    snapshot.restore()
    assert torch.equal(live[0].view(torch.int32), bits)
    assert live[1].tolist() == [7]


def test_a_snapshot_notices_a_change_of_one_bit_and_nan() -> None:
    tensors = (torch.ones(3), torch.tensor([1, 2]))
    snapshot = Snapshot.take(tensors)
    assert not snapshot.changed()
    tensors[0][1] = torch.nextafter(tensors[0][1], torch.tensor(2.0))
    assert snapshot.changed()
    snapshot.restore()
    assert not snapshot.changed()
    tensors[0][0] = torch.nan
    assert snapshot.changed()


def test_unchanged_puts_back_whatever_the_body_wrote_also_when_it_raises() -> None:
    tensor = torch.ones(3)
    with unchanged([tensor]):
        tensor.zero_()
    assert torch.equal(tensor, torch.ones(3))
    with suppress(KeyError), unchanged([tensor]):
        tensor.zero_()
        raise KeyError
    assert torch.equal(tensor, torch.ones(3))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_all_finite(bad: float) -> None:
    assert all_finite([])
    assert all_finite([torch.ones(2), torch.tensor(3), torch.zeros((), dtype=torch.float16)])
    assert not all_finite([torch.ones(2), torch.tensor([1.0, bad])])
