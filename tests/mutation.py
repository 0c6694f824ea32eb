"""
Spoilt copies of logs: cut off, with bytes changed, moved, doubled or removed, and with words that hurt; and copies that are
spoilt within what their format's own checks let through (values of JSON, arrays of a zip).
"""

import copy
import io
import json
import random
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WORDS = (
    *(b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"null", b"{", b"[[[[", b'"', b",", b"\n", b"\x00", b"\xff\xfe", b"''"),
    *(b"!!python/object/apply:os.system", b"&a", b"*a", b"<script>alert(1)</script>", b"\x1b[2J", b"0", b"-1", b"true"),
    *(b"train/n_updates", b"accepted", b"PK\x03\x04", b"\x93NUMPY", b"O", b"1" * 30, b"[red]", b"%{x}", b"\xe2\x80\xae"),
    *(b"\\ud800", b"*", b"<<: ", b"&b ", b": ", b"- ", b"[" * 2000, b"2020-13-45", b"!!timestamp ", b"1e400", b"0x", b"\t"),
)

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3.5, -0.0, 1e308, 2**31, 2**63, 10**400, "", "text", "\ud800", "\x1b[2J", "9" * 400),
    *(
        [],
        {},
        [[]],
        [None],
        [1e308, -1],
        {"": None},
        {"$float": "nan"},
        {"$class": "os.system"},
        {"space": "Box"},
        ["a"] * 1000,
    ),
)
"""Instead of those that are there."""

LONGEST_MESSAGE = 510
"""Characters: a line that names file, place, value and what is valid."""

Mutate = Callable[[bytes, random.Random], bytes]


def mutated(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        data = _once(data, rng)
    return data


def _once(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 4, 30, 1000)))
    kind = rng.randrange(7)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + rng.choice(WORDS) + data[at:]
    if kind == 2:
        return data[:at] + rng.choice(WORDS) + data[end:]
    if kind == 3:
        return data[:at] + data[end:]
    if kind == 4:
        return data[:at] + data[at:end] * rng.choice((2, 20)) + data[end:]
    if kind == 5:
        return data[:at] + rng.randbytes(end - at) + data[end:]
    return data[:at] + bytes(byte ^ (1 << rng.randrange(8)) for byte in data[at : at + 1]) + data[at + 1 :]


def mutated_json(data: bytes, rng: random.Random) -> bytes:
    """One to three values replaced, removed or added, in one line of JSON or a file that is one; now and then bytes."""
    if rng.random() < 0.3:
        return mutated(data, rng)
    lines = data.splitlines() if data.count(b"\n{") else [data]
    at = rng.randrange(len(lines))
    value = json.loads(lines[at])
    for _ in range(rng.randint(1, 3)):
        _spoil(value, rng)
    lines[at] = json.dumps(value).encode()
    return b"\n".join(lines)


def _spoil(value: Any, rng: random.Random) -> None:
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = rng.choice(keys)
        if not isinstance(value[key], dict | list) or not value[key] or rng.random() < 0.2:
            break
        value = value[key]
    kind = rng.randrange(6)
    if kind == 0:
        del value[key]
    elif kind == 1 and isinstance(value, dict):
        value[rng.choice(["", "more", "n_steps", "policy", "class"])] = value[key]
    elif kind == 2 and isinstance(value[key], int | float):
        value[key] = value[key] * rng.choice((-1, 2, 1000))
    else:
        value[key] = copy.deepcopy(rng.choice(VALUES))


def mutated_zip(data: bytes, rng: random.Random) -> bytes:
    """One member spoilt, lost, doubled under another name or exchanged with another, in a whole zip; now and then bytes."""
    if rng.random() < 0.3:
        return mutated(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name, other = rng.sample(sorted(members), 2)
    kind = rng.randrange(6)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[name] = members[other]
    elif kind == 2:
        members[f"{name}/more"] = members.pop(name)
    elif kind == 3:  # the header: type and shape
        members[name] = mutated(members[name][:128], rng) + members[name][128:]
    else:
        members[name] = mutated(members[name], rng)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return packed.getvalue()


def feed(
    read: Callable[[bytes], object],
    originals: Sequence[bytes],
    n: int,
    refusals: tuple[type[BaseException], ...],
    seconds: float = 10.0,
    mebibytes: int = 200,
    mutate: Mutate = mutated,
) -> Counter[str]:
    """
    Give a reader spoilt copies: it reads each, or refuses it by an error of a known type; within time and memory.

    Seconds are the processor's, so that a busy machine is no hang; memory is the largest growth of the process.
    """
    rng = random.Random(0)
    outcomes: Counter[str] = Counter()
    for original in originals:
        read(original)  # as it is, it can be read; and everything is loaded
    before = peak_mebibytes(forget=True)
    for number in range(n):
        data = mutate(originals[number % len(originals)], rng)
        began = time.process_time()
        try:
            read(data)
            outcomes["read"] += 1
        except refusals as error:
            outcomes["refused"] += 1
            said = str(error)
            assert len(said) <= LONGEST_MESSAGE, f"mutation {number}: too much said: {said[:2000]!r}"
            assert said.isprintable(), f"mutation {number}: no one line: {said!r}"
        except BaseException as error:
            raise AssertionError(f"mutation {number}: {type(error).__name__} instead of a refusal: {data[:200]!r}") from error
        took = time.process_time() - began
        assert took < seconds, f"mutation {number}: {took:.1f} s: {data[:200]!r}"
    grown = peak_mebibytes() - before
    assert grown < mebibytes, f"{grown:.0f} MiB more than before"
    return outcomes


def peak_mebibytes(forget: bool = False) -> float:
    """The largest size of this process, ever or since it was last to be forgotten (Linux)."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024
