"""The end of docs/scaling.md: what was measured, the model, and what it says about more ranks."""

from __future__ import annotations

from collections.abc import Sequence

from scaling.model import Case, Model, Network, fit

MARK = "\n## What it costs\n"
ENV, EPOCHS, BATCH_SIZE = "Hopper-v5", 10, 256
WIDTHS = (64, 256)
NETWORKS = (
    Network("10 Gbit/s Ethernet, TCP", 30e-6, 1.1e9),
    Network("25 Gbit/s Ethernet, TCP", 20e-6, 2.8e9),
    Network("100 Gbit/s InfiniBand, RDMA, tree", 3e-6, 1.1e10, tree=True),
)
MORE_RANKS = (8, 16, 32, 64, 128, 256, 512, 1024)
BATCH = 51_200
"""Strong scaling: of all ranks together, the paper's 50,000."""
SHARE = 2_048
"""Weak scaling: of each rank."""


def held_out(cases: Sequence[Case]) -> tuple[dict[int, Model], float, Case, float]:
    """
    Fit without the largest case, and predict it.

    :param cases: all
    :return: the model of each width; how much slower ranks are that share a core; the largest case; what is predicted for it,
        in seconds
    """
    largest = max(cases, key=lambda case: (case.ranks, case.samples, case.width))
    models, slowness = fit([case for case in cases if case is not largest])
    model, said = models[largest.width], (largest.collectives, largest.bytes)
    return models, slowness, largest, model.iteration(largest.ranks, largest.samples, said, slowness=slowness)


def collectives_of(cases: Sequence[Case], width: int, samples: float, batch_size: float = BATCH_SIZE) -> tuple[float, float]:
    """
    Count what a rank of another size says: an all-reduce for each minibatch of the critic, and what its size does not change.

    :param cases: measured
    :param width: of the hidden layers
    :param samples: of a rank
    :param batch_size: of a rank's minibatches; with fewer samples there is one an epoch
    :return: collectives and bytes of an iteration
    """
    known = next(case for case in cases if case.width == width and case.ranks > 1)
    more = EPOCHS * (max(1.0, samples / batch_size) - known.samples / BATCH_SIZE)
    # Half of the parameters are the critic's, in float32.
    return known.collectives + more, known.bytes + more * 2 * known.parameters


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """
    Write a table.

    :param head: names of columns
    :param rows: their texts
    :return: Markdown
    """
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def section(cases: Sequence[Case], machine: str) -> str:
    """
    Write the end of the page.

    :param cases: measured
    :param machine: where
    :return: Markdown
    """
    models, slowness, largest, predicted = held_out(cases)
    error = predicted / largest.seconds - 1.0
    measured_head = [
        "width",
        "parameters",
        "ranks",
        "samples a rank",
        "s",
        "s in communication",
        "collectives",
        "MB",
        "weak",
        "strong",
    ]
    constants = [[str(width), *constants_of(model)] for width, model in models.items()]
    lines = [
        f"`python scripts/benchmark_scaling.py --write`: {ENV}, two environments a rank, {EPOCHS} critic epochs in",
        f"minibatches of {BATCH_SIZE} a rank, 15 CG steps, one thread a rank, on {machine};",
        "an iteration (rollout and update), the fastest of a few. Weak: steps a second, of one rank with as many samples",
        "as each of these has = 1. Strong: of one rank with all of them = 1.",
        "",
        table(measured_head, [measured_row(case, cases) for case in cases]),
        "",
        "The model: seconds = samples a rank · (rollout + update) + fixed + collectives · 2 (R - 1) · latency",
        "+ bytes · 2 (R - 1) / R / bandwidth. The first three are fitted to one rank, the network to two. While both",
        f"processors of this virtual machine work, each takes {slowness:.2f} times as long (fitted, too): what they share,",
        "and what else the machine does.",
        f"Fitted without the largest case ({largest.ranks} ranks, {largest.samples:,} samples a rank, width {largest.width}),",
        f"it says {predicted:.3f} s for that one; measured were {largest.seconds:.3f} s ({error:+.0%}).",
        "",
        table(["width", "µs a sample, rollout", "µs a sample, update", "ms fixed", "µs latency", "GB/s"], constants),
        "",
        *predictions(cases, models),
    ]
    return "\n".join([MARK.strip("\n"), "", *lines])


def measured_row(case: Case, cases: Sequence[Case]) -> list[str]:
    """
    Write a row.

    :param case: of this row
    :param cases: all
    :return: its cells
    """
    speed = case.ranks * case.samples / case.seconds
    alone = {each.samples: each.samples / each.seconds for each in cases if each.ranks == 1 and each.width == case.width}
    whole = alone.get(case.ranks * case.samples)
    return [
        *(str(case.width), f"{case.parameters:,}", str(case.ranks), f"{case.samples:,}", f"{case.seconds:.3f}"),
        *(f"{case.communication:.3f}", f"{case.collectives:.0f}", f"{case.bytes / 1e6:.2f}"),
        *(f"{speed / alone[case.samples]:.2f}", "" if whole is None else f"{speed / whole:.2f}"),
    ]


def constants_of(model: Model) -> list[str]:
    """
    Write the constants of a model.

    :param model: fitted
    :return: cells
    """
    bandwidth = model.network.bandwidth
    return [
        *(f"{1e6 * model.collect:.0f}", f"{1e6 * model.update:.0f}", f"{1e3 * model.fixed:.0f}"),
        *(f"{1e6 * model.network.latency:.0f}", "not seen" if bandwidth > 1e12 else f"{bandwidth / 1e9:.2f}"),
    ]


def predictions(cases: Sequence[Case], models: dict[int, Model]) -> list[str]:
    """
    Say what more ranks would bring.

    :param cases: measured
    :param models: by width
    :return: lines of Markdown
    """
    lines: list[str] = []
    kinds: dict[str, tuple[int | None, float]] = {
        f"Strong scaling: {BATCH:,} samples an update, of all ranks": (None, BATCH_SIZE),
        f"Weak scaling: {SHARE:,} samples a rank": (SHARE, BATCH_SIZE),
        f"Weak scaling, and `batch_size={SHARE}`: one minibatch of the critic an epoch": (SHARE, SHARE),
    }
    for title, how in kinds.items():
        rows = [
            [network.name, str(width), *(shown(speed_of(cases, width, model, ranks, network, *how)) for ranks in MORE_RANKS)]
            for network in NETWORKS
            for width, model in models.items()
        ]
        lines += [f"{title}. Steps a second, of one rank = 1:", ""]
        lines += [table(["network", "width", *map(str, MORE_RANKS)], rows), ""]
    best = {
        (network.name, width): max(MORE_RANKS, key=lambda ranks: speed_of(cases, width, model, ranks, network, None))
        for network in NETWORKS
        for width, model in models.items()
    }
    told = "; ".join(f"{ranks:,} ({name}, width {width})" for (name, width), ranks in best.items())
    lines += [f"A batch of {BATCH:,} is fastest with so many of these numbers of ranks: {told}."]
    return lines


def speed_of(
    cases: Sequence[Case],
    width: int,
    model: Model,
    ranks: int,
    network: Network,
    share: int | None,
    batch_size: float = BATCH_SIZE,
) -> float:
    """
    Predict.

    :param cases: measured, for what ranks say
    :param width: of the hidden layers
    :param model: of this width
    :param ranks: how many
    :param network: between them
    :param share: samples of each; None: all ranks have a batch together
    :param batch_size: of a rank's minibatches
    :return: steps a second, of one rank = 1
    """
    samples = BATCH / ranks if share is None else share
    seconds = model.iteration(ranks, samples, collectives_of(cases, width, samples, batch_size), network)
    of_one = BATCH if share is None else share
    return (ranks * samples / seconds) / (of_one / model.compute(of_one))


def shown(speed: float) -> str:
    """
    Write a speed.

    :param speed: any
    :return: two digits of it
    """
    return f"{speed:.1f}" if speed < 10 else f"{speed:.0f}"
