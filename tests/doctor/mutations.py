"""Spoilt copies of logs: cut off, with bytes changed, moved, doubled or removed, and with words that hurt."""

import random

WORDS = (
    *(b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"null", b"{", b"[[[[", b'"', b",", b"\n", b"\x00", b"\xff\xfe", b"''"),
    *(b"!!python/object/apply:os.system", b"&a", b"*a", b"<script>alert(1)</script>", b"\x1b[2J", b"0", b"-1", b"true"),
    *(b"train/n_updates", b"accepted", b"PK\x03\x04", b"\x93NUMPY", b"O", b"1" * 30, b"[red]", b"%{x}", b"\xe2\x80\xae"),
)


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
