"""Spoilt copies of logs: cut off, with bytes changed, moved, doubled or removed, and with words that hurt."""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

WORDS = (
    *(b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"null", b"{", b"[[[[", b'"', b",", b"\n", b"\x00", b"\xff\xfe", b"''"),
    *(b"!!python/object/apply:os.system", b"&a", b"*a", b"<script>alert(1)</script>", b"\x1b[2J", b"0", b"-1", b"true"),
    *(b"train/n_updates", b"accepted", b"PK\x03\x04", b"\x93NUMPY", b"O", b"1" * 30, b"[red]", b"%{x}", b"\xe2\x80\xae"),
    *(b"\\ud800", b"*", b"<<: ", b"&b ", b": ", b"- ", b"[" * 2000, b"2020-13-45", b"!!timestamp ", b"1e400", b"0x", b"\t"),
)

LONGEST_MESSAGE = 3000


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


def feed(
    read: Callable[[bytes], object],
    originals: Sequence[bytes],
    n: int,
    refusals: tuple[type[BaseException], ...],
    seconds: float = 10.0,
    mebibytes: int = 200,
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
        data = mutated(originals[number % len(originals)], rng)
        began = time.process_time()
        try:
            read(data)
            outcomes["read"] += 1
        except refusals as error:
            outcomes["refused" if len(str(error)) < LONGEST_MESSAGE else "refused at length"] += 1
        except BaseException as error:
            raise AssertionError(f"mutation {number}: {type(error).__name__} instead of a refusal: {data[:200]!r}") from error
        took = time.process_time() - began
        assert took < seconds, f"mutation {number}: {took:.1f} s: {data[:200]!r}"
    assert not outcomes["refused at length"]
    grown = peak_mebibytes() - before
    assert grown < mebibytes, f"{grown:.0f} MiB more than before"
    return outcomes


def peak_mebibytes(forget: bool = False) -> float:
    """The largest size of this process, ever or since it was last to be forgotten (Linux)."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024
