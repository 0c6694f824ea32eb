"""Every way to end has a name and one sentence of advice."""

import pickle

import pytest

from sb3_trpo_ext.core import status
from sb3_trpo_ext.core.status import AdvisedStatus, CGStatus

MEMBERS = [
    member
    for kind in vars(status).values()
    if isinstance(kind, type) and issubclass(kind, AdvisedStatus) and kind is not AdvisedStatus
    for member in kind
]


@pytest.mark.parametrize("member", MEMBERS, ids=repr)
def test_every_member_has_one_sentence_of_advice(member: AdvisedStatus) -> None:
    assert member.advice[0].isupper() or member.advice.startswith("cg_")
    assert member.advice.endswith(".")
    assert ". " not in member.advice
    assert "\n" not in member.advice


@pytest.mark.parametrize("member", MEMBERS, ids=repr)
def test_a_member_is_its_string_in_every_writing(member: AdvisedStatus) -> None:
    assert member == member.value == str(member) == f"{member}"
    assert type(member)(member.value) is member
    assert pickle.loads(pickle.dumps(member)) is member


def test_reaching_max_steps_is_no_failure() -> None:
    usable = {CGStatus.CONVERGED, CGStatus.SETTLED, CGStatus.MAX_STEPS, CGStatus.ZERO_GRADIENT}
    assert {member for member in CGStatus if not member.failed} == usable
