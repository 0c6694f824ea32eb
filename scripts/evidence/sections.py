"""The sections of a report, as Markdown."""

from __future__ import annotations

import numpy as np
import pandas as pd

from evidence.metrics import (
    DRAWDOWN_FLOOR,
    Interval,
    improvement_interval,
    iqm_interval,
    lowered_share,
    max_drawdown,
    mean_interval,
)
from evidence.runs import CURVE_EPISODES, FINAL_EPISODES, REFERENCE
from evidence.scores import Evidence, matrix
from evidence.tables import number, percent, table, with_interval


def seeds_text(seeds: list[int]) -> str:
    """
    Write a list of seeds.

    :param seeds: ascending
    :return: text
    """
    return f"seed {seeds[0]}" if len(seeds) == 1 else "seeds " + ", ".join(map(str, seeds))


def caption(evidence: Evidence) -> str:
    """
    Say what was measured.

    :param evidence: the runs
    :return: one line for figures
    """
    lengths = sorted(set(evidence.steps.values()))
    steps = f"{lengths[0]:,}" if len(lengths) == 1 else f"{lengths[0]:,} to {lengths[-1]:,}"
    return f"{len(evidence.tasks)} tasks, {seeds_text(evidence.seeds)}, {steps} steps"


def origin(evidence: Evidence) -> str:
    """
    Say where the numbers come from, and what is not in them.

    :param evidence: the runs
    :return: Markdown
    """
    versions = {
        name: ", ".join(sorted({str(value) for value in evidence.runs[name].dropna()}))
        for name in ("torch", "sb3", "sb3_contrib", "rl_zoo3", "gymnasium", "mujoco", "numpy", "machine", "commit")
    }
    lines = ["; ".join(f"{name} {value}" for name, value in versions.items()) + "."]
    if evidence.runs.dirty.astype(str).eq("True").any():
        lines.append("Some of these runs were made with uncommitted changes (column `dirty`).")
    numerics = sorted({int(value) for value in evidence.runs.numerics_version.dropna()})
    if numerics:
        lines.append(f"NUMERICS_VERSION of ours: {', '.join(map(str, numerics))}.")
    if len(evidence.superseded):
        lines.append(
            f"{len(evidence.superseded)} finished runs of an older configuration or NUMERICS_VERSION are left out "
            "(they stay in `results/runs.csv`)."
        )
    return "\n".join(lines)


def gaps(evidence: Evidence) -> list[str]:
    """
    Say what is missing.

    :param evidence: the runs
    :return: a line each; empty if nothing is
    """
    lines = []
    for method, task, seeds in evidence.missing():
        none = not evidence.seeds_of(method, task)
        lines.append(f"{method} on {task}: " + ("no runs" if none else f"{seeds_text(seeds)} missing"))
    for _, row in evidence.failures.iterrows():
        lines.append(f"{row.method} on {row.task}, seed {row.seed}: failed ({row.error})")
    for task in evidence.without_scale():
        lines.append(f"{task}: the reference is no better than the random policy, so scores there can't be normalised")
    return lines


def aggregates(evidence: Evidence) -> dict[str, dict[str, Interval]]:
    """
    Aggregate each method over the tasks on which it and the reference are complete.

    :param evidence: the runs
    :return: measure to method to estimate with interval; methods without such tasks are left out
    """
    found: dict[str, dict[str, Interval]] = {"iqm": {}, "improvement": {}, "paired": {}}
    for method in evidence.methods:
        tasks = evidence.complete(method)
        if not tasks:
            continue
        scores = matrix(evidence, method, tasks)
        found["iqm"][method] = iqm_interval(scores)
        if method != REFERENCE:
            reference = matrix(evidence, REFERENCE, tasks)
            found["improvement"][method] = improvement_interval(scores, reference)
            found["paired"][method] = mean_interval(scores - reference)
    return found


def aggregate_table(evidence: Evidence, found: dict[str, dict[str, Interval]]) -> str:
    """
    Show the aggregates.

    :param evidence: the runs
    :param found: from ``aggregates``
    :return: Markdown
    """
    n_seeds = len(evidence.seeds)
    rows = []
    for method in evidence.methods:
        cells = [
            with_interval(found[measure][method], n_seeds) if method in found[measure] else "-"
            for measure in ("iqm", "improvement", "paired")
        ]
        rows.append([method, str(len(evidence.complete(method))), *cells])
    return table(["method", "tasks", "IQM", f"P(better than {REFERENCE})", "mean difference, paired by seed"], rows)


def task_table(evidence: Evidence) -> str:
    """
    Show the final returns of each task, seed by seed where they are missing, and the difference from the reference.

    :param evidence: the runs
    :return: Markdown
    """
    rows = []
    for task in evidence.tasks:
        for method in evidence.methods:
            seeds, finals = evidence.seeds_of(method, task), evidence.finals(method, task)
            if not seeds:
                continue
            spread = f"{number(finals.mean(), 4)} ± {number(finals.std(ddof=1), 2) if len(seeds) > 1 else '-'}"
            rows.append([task, method, f"{len(seeds)}/{len(evidence.seeds)}", spread, number(finals.min(), 4)])
            rows[-1] += [paired_difference(evidence, method, task), number(evidence.steps[task])]
        rows.append([task, "random", "", number(evidence.random[task], 4), "", "", ""])
    columns = ["task", "method", "seeds", "return, mean ± std of seeds", "worst seed", f"difference from {REFERENCE}", "steps"]
    return table(columns, rows)


def seed_table(evidence: Evidence) -> str:
    """
    Show the final return of every run.

    :param evidence: the runs
    :return: Markdown
    """
    rows = []
    for task in evidence.tasks:
        for method in evidence.methods:
            finals = dict(zip(evidence.seeds_of(method, task), evidence.finals(method, task), strict=True))
            if finals:
                rows.append([task, method, *(number(finals.get(seed), 4) for seed in evidence.seeds)])
    return table(["task", "method", *(f"seed {seed}" for seed in evidence.seeds)], rows)


def published_table(evidence: Evidence, published: pd.DataFrame) -> str:
    """
    Show what others have published beside what was measured here.

    :param evidence: the runs
    :param published: columns task, source, version, steps, return_mean, spread, what
    :return: Markdown; empty if nothing was published of as many steps
    """
    methods = [method for method in evidence.methods if method != REFERENCE]
    rows = []
    for row in (
        published[published.steps == published.task.map(evidence.steps)].sort_values("task", kind="stable").itertuples()
    ):
        rows.append([row.task, f"{number(row.return_mean, 4)} ± {number(row.spread)}", f"{row.source}, {row.version}"])
        rows[-1].append(row.what)
        for method in methods:
            finals = evidence.finals(method, row.task)
            reached = int((finals >= row.return_mean).sum())
            rows[-1].append(f"{number(finals.mean(), 4)} ({reached}/{len(finals)})" if len(finals) else "-")
    titles = [f"{method} (seeds that reach it)" for method in methods]
    return table(["task", "published", "by, version of the task", "what", *titles], rows) if rows else ""


def paired_difference(evidence: Evidence, method: str, task: str) -> str:
    """
    Compare with the reference, seed by seed.

    :param evidence: the runs
    :param method: whose
    :param task: environment id
    :return: mean difference of the seeds that both have, with its interval
    """
    both = sorted(set(evidence.seeds_of(method, task)) & set(evidence.seeds_of(REFERENCE, task)))
    if method == REFERENCE or not both:
        return ""
    scores = [
        pd.Series(evidence.finals(name, task), evidence.seeds_of(name, task))[both].to_numpy() for name in (method, REFERENCE)
    ]
    return with_interval(mean_interval((scores[0] - scores[1])[:, None]), len(both))


def stability_table(evidence: Evidence) -> str:
    """
    Show how steadily each method learned.

    :param evidence: the runs
    :return: Markdown
    """
    rows = []
    for task in evidence.tasks:
        curves = {m: evidence.curve(m, task)[1] for m in evidence.methods if evidence.seeds_of(m, task)}
        matched = min(float(curve.max(axis=1).mean()) for curve in curves.values())
        for method, curve in curves.items():
            scale = (evidence.random[task], evidence.reference(task))
            falls = [max_drawdown(seed, *scale) for seed in curve]
            capped = [max_drawdown(seed, *scale, cap=matched) for seed in curve]
            chosen = evidence.runs[(evidence.runs.method == method) & (evidence.runs.task == task)]
            shares = [float(np.mean([lowered_share(seed) for seed in curve])), chosen.updates_lowered_share.mean()]
            kl = chosen.largest_kl_ratio.max()
            cells = [np.mean(falls), np.max(falls), np.mean(capped), np.max(capped), *shares]
            rows.append([task, method, *map(percent, cells), number(kl)])
    columns = ["task", "method", "drawdown, mean", "worst", "matched, mean", "worst", "evaluations lower", "updates lower"]
    return table([*columns, "largest KL/δ"], rows)


def time_table(evidence: Evidence) -> str:
    """
    Show the processor time that a run took.

    :param evidence: the runs
    :return: Markdown; a ratio only of what one kind of machine ran
    """
    rows = []
    for task in evidence.tasks:
        of_task = evidence.runs[evidence.runs.task == task]
        reference = of_task[of_task.method == REFERENCE]
        for method in evidence.methods:
            chosen = of_task[of_task.method == method]
            if chosen.empty:
                continue
            machines = {*chosen.machine, *reference.machine}
            comparable = method != REFERENCE and len(reference) and len(machines) == 1
            ratio = number(chosen.cpu_seconds.median() / reference.cpu_seconds.median()) if comparable else "-"
            rows.append([task, method, number(chosen.cpu_seconds.median()), ratio, "; ".join(sorted(set(chosen.machine)))])
    return table(["task", "method", "CPU seconds", f"ratio to {REFERENCE}", "machine"], rows)


TIME_TEXT = """\
Medians over seeds of a whole run, evaluations included, beside other work. Each method has its own settings, networks too; at
equal ones: [benchmarks](benchmarks.md). No ratio where the runs were made on more than one kind of machine."""

STABILITY_TEXT = f"""\
Drawdown: the largest fall of a run's evaluation return below its running maximum, as a share of that maximum above
random; counted once the maximum has come {DRAWDOWN_FLOOR:.0%} of the way from random to the reference. Mean and worst
over seeds. "Matched" cuts returns off at the level that the runs of every method on that task reach on average, so
that nobody is charged for losing what others never had. "Evaluations lower": share of evaluations below the one
before. "Updates lower": share of updates after which the mean return of the training episodes that ended in the next
rollout was lower than in the one before; a half is what noise alone gives. KL/δ: largest bounded KL of an accepted
step, by the implementation's own account."""

PUBLISHED_TEXT = """\
TRPO's returns after as many steps (`results/published.csv`), on older versions of the tasks, so no bar that could be reached
or missed exactly. RL Zoo (`benchmark.md`): one trained agent, mean ± standard deviation of its episodes. Tianshou
(`examples/mujoco/README.md`): the best point of the mean curve of 10 seeds, ± their standard deviation there; here it is the
end that counts."""

METHOD_TEXT = f"""\
Score of a run: mean return of {FINAL_EPISODES} deterministic episodes after training, with unnormalised rewards.
Normalised: (score - random) / (reference - random), the reference being the mean of {REFERENCE} on that task at the
same number of steps. IQM: mean of the middle half of all runs. Intervals: 95 % percentile bootstrap, seeds resampled
within tasks (rliable); with few seeds they are too narrow. Curves: {CURVE_EPISODES} deterministic episodes at each
point. Only tasks on which a method and the reference have every seed are aggregated."""
