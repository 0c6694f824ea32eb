"""The page in headless Chromium: no network, no console error, every plot drawn, what is in files stays text."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sb3_trpo_ext.doctor.cli import main
from sb3_trpo_ext.doctor.discover import runs_below
from sb3_trpo_ext.doctor.figures import PLOTS, figure
from sb3_trpo_ext.doctor.page import data_script, page, write_page
from sb3_trpo_ext.doctor.read import read_run
from sb3_trpo_ext.doctor.run import Run
from tests.doctor.browser import Page, browser

Runs = Callable[[str], Path]
EVIL = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.fixture
def chrome(tab: Page) -> Page:
    tab.complaints.clear()
    return tab


def story(ours: Runs, contrib: Path) -> Path:
    """A run with monitors, and returns and evaluations beside its record."""
    folder = Path(shutil.copytree(ours("TR101"), "story"))
    shutil.copy(contrib / "progress.csv", folder / "updates.csv")
    shutil.copy(contrib / "evaluations.npz", folder)
    return folder


# Of each plot: whether it has paths or points, and whether they lie in sight.
DRAWN = """
Object.fromEntries([...document.querySelectorAll('figure > div')].map(place => [place.id.replace('plot-', ''),
  [...place.querySelectorAll('.scatterlayer .js-line, .scatterlayer .point')].filter(mark => {
    const box = mark.getBoundingClientRect();
    return mark.getAttribute('d') && box.width + box.height > 0;
  }).length]))
"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_plot_is_drawn(width: int, dark: bool, ours: Runs, contrib: Path, chrome: Page) -> None:
    main([str(story(ours, contrib)), str(ours("healthy")), str(contrib), "--html", "page.html"])
    chrome.open(Path("page.html"), width, dark)
    drawn = chrome.run(DRAWN)
    assert drawn.keys() == {plot.key for plot in PLOTS}
    assert all(drawn.values()), drawn
    assert chrome.complaints == []
    # Nothing is wider than the screen, and letters can be told from the paper.
    assert chrome.run("document.documentElement.scrollWidth") <= width
    assert chrome.run("Math.min(...[...document.querySelectorAll('figure .main-svg')].map(plot => plot.clientWidth))") > 300
    light = chrome.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light is not dark
    assert chrome.run("document.querySelector('.xtitle').style.fill") == ("rgb(237, 238, 240)" if dark else "rgb(28, 32, 36)")


def test_hovering_and_zooming(ours: Runs, contrib: Path, chrome: Page) -> None:
    main([str(story(ours, contrib)), "--html", "page.html"])
    chrome.open(Path("page.html"), 1280, dark=False)
    chrome.run("void document.getElementById('plot-kl').scrollIntoView()")
    box = chrome.run("document.querySelector('#plot-kl .nsewdrag').getBoundingClientRect().toJSON()")
    middle = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    chrome.send("Input.dispatchMouseEvent", type="mouseMoved", **middle)
    text = chrome.run(
        "new Promise(done => setTimeout(() => done(document.querySelector('#plot-kl .hoverlayer').textContent), 300))"
    )
    assert "KL of the step" in text
    assert "(update " in text
    before = chrome.run("document.getElementById('plot-kl').layout.xaxis.range.join()")
    for kind, x in (("mousePressed", -80), ("mouseMoved", 80), ("mouseReleased", 80)):
        at = {"x": middle["x"] + x, "y": middle["y"]}
        chrome.send("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **at)
    after = chrome.run(
        "new Promise(done => setTimeout(() => done(document.getElementById('plot-kl').layout.xaxis.range.join()), 500))"
    )
    assert before != after
    assert chrome.complaints == []


def test_the_page_follows_the_system_to_the_dark(ours: Runs, chrome: Page) -> None:
    main([str(ours("healthy")), "--html", "page.html"])
    chrome.open(Path("page.html"), 1280, dark=False)
    chrome.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    colour = "new Promise(done => setTimeout(() => done(document.querySelector('.xtitle').style.fill), 1000))"
    assert chrome.run(colour) == "rgb(237, 238, 240)"


def test_html_in_files_stays_text(ours: Runs, chrome: Page) -> None:
    """In the environment's id, an error, evidence, a layer's name, a folder's name, and what plotly would take for HTML."""
    folder = Path(shutil.copytree(ours("TR303"), "<b onclick=alert(1)>_1"))
    (folder / "args.yml").write_text(json.dumps({"env": EVIL, "algo": "trpo"}))
    text = (folder / "updates.jsonl").read_text()
    name = json.dumps(f"actor <b>bold</b> {EVIL[:30]} %{{x}}")[1:-1]
    (folder / "updates.jsonl").write_text(text.replace("actor mlp_extractor.policy_net.3", name))
    header = next(folder.glob("dumps/*.json"))
    header.write_text(json.dumps({**json.loads(header.read_text()), "reasons": ["died"], "error": f"{EVIL}</script>\u2028"}))
    assert main([str(folder), str(ours("healthy")), "--html", "page.html"]) == 2
    chrome.open(Path("page.html"), 1280, dark=False)
    assert chrome.complaints == []
    assert "pwned" not in chrome.run("document.title")
    assert chrome.run("document.querySelectorAll('img, [onerror], [onclick], iframe').length") == 0
    shown = chrome.run("document.body.innerText")
    assert EVIL[:40] in shown
    assert "<b onclick=alert(1)>_1" in shown
    legend = "document.getElementById('plot-layers').querySelector('.legend').textContent"
    assert "<b onclick=alert(1)>_1" in chrome.run(legend)
    main([str(folder), "--html", "page.html"])
    chrome.open(Path("page.html"), 1280, dark=False)
    # Plotly knows some tags of its own, and shows the text of others.
    assert "actor <b>bold</b> <img src=x onerror=" in chrome.run(legend)
    assert "%{x}" in chrome.run(legend)
    assert chrome.complaints == []
    assert data_script({"name": EVIL}).count("</script>") == 1


def test_a_page_needs_nothing_else(contrib: Path) -> None:
    write_page([read_run(contrib)], Path("page.html"))
    text = Path("page.html").read_text()
    assert text == page([read_run(contrib)])
    assert "default-src 'none'" in text
    assert "<link" not in text.split("<script>")[0]
    assert " src=" not in text.split("<script>")[0]
    # What sb3-contrib's keys do not tell is named.
    missing = text[text.index('class="missing"') :].split("</p>")[0]
    assert "Dead and saturated units per layer" in missing
    assert [path.name for path in Path().iterdir()] == ["page.html"]


def traces(place: int, *runs: Run) -> list[Any]:
    drawn = figure(PLOTS[place], list(runs))
    assert drawn is not None
    return list(drawn.data)


def test_alarms_stand_on_the_curve_of_returns_one_mark_a_moment(ours: Runs, contrib: Path) -> None:
    run = read_run(story(ours, contrib))
    marks = [trace for trace in traces(0, run) if "alarm" in trace.name]
    told = [text for trace in marks for text in trace.text]
    assert sorted(line.split()[0] for text in told for line in text.split("<br>")) == sorted(c for c, _, _ in run.starts)
    steps = [step for trace in marks for step in trace.x]
    assert len(steps) == len(set(steps)) < len(run.starts)
    returns = {float(f"{value:.6g}") for _, value in run.returns.values()}
    assert {height for trace in marks for height in trace.y} <= returns


def test_one_return_is_a_mark() -> None:
    Path("monitor.csv").write_text('#{"env_id": "Small"}\nr,l,t\n1.5,10,3.0\n')
    (trace,) = traces(0, read_run(Path()))
    assert (trace.mode, trace.x, trace.y) == ("lines+markers", (10,), (1.5,))


def test_the_bound_keeps_its_unit_where_a_step_was_rejected(ours: Runs) -> None:
    Path("run").mkdir()
    kept = []
    for number, line in enumerate((ours("healthy") / "updates.jsonl").read_text().splitlines()):
        fields = {"kl_reduction": "mean", "target_kl": 0.01}
        rejected = {"status": "line_search_failed", "kl": 0.0, "kl_joint": 0.0} if number in (0, 7, 8) else {}
        report = json.loads(line)
        kept.append({**report, **fields, "kl": report["kl_joint"] / 2, **rejected})
    Path("run/updates.jsonl").write_text("".join(json.dumps(report) + "\n" for report in kept))
    steps, bound = traces(1, read_run(Path("run")))
    assert (len(steps.y), len(bound.y)) == (22, 21)  # of the first update it is not known yet
    assert set(bound.y) == {0.02}


def test_runs_of_several_units_say_so(ours: Runs, contrib: Path) -> None:
    drawn = traces(1, read_run(ours("healthy")), read_run(contrib, target_kl=0.01))
    told = [trace.hovertemplate.split(":")[0] for trace in drawn]
    contribs = "mean over action dimensions"
    assert told == ["KL of the step (joint)", "δ (joint)", f"KL of the step ({contribs})", f"δ ({contribs})"]
    assert set(drawn[3].y) == {0.01}


def test_many_runs_are_one_small_page(ours: Runs) -> None:
    lines = (ours("healthy") / "updates.jsonl").read_text().splitlines()
    for name in range(40):
        Path(f"logs/{name}").mkdir(parents=True)
        reports = ({**json.loads(lines[n % 22]), "n_updates": n + 1, "num_timesteps": 256 * n} for n in range(200))
        Path(f"logs/{name}/updates.jsonl").write_text("".join(json.dumps(report) + "\n" for report in reports))
    runs = list(runs_below([Path("logs")]))
    assert len(page(runs)) < 7.5e6
    drawn = figure(PLOTS[1], runs)
    assert drawn is not None
    assert drawn.layout.showlegend is False
    assert "40 runs share 32 kinds of line" in page(runs)
    # Ten, each with a line of its own, that is in the legend once.
    drawn = figure(PLOTS[1], runs[:10])
    assert drawn is not None
    firsts = [trace for trace in drawn.data if trace.showlegend]
    assert len({(trace.line.color, trace.line.dash) for trace in firsts}) == len(firsts) == 10


def test_of_many_layers_the_worst_are_drawn(ours: Runs) -> None:
    line = json.loads((ours("healthy") / "updates.jsonl").read_text().splitlines()[-1])
    names = [f"layer {number}" for number in range(100)]
    layers = {"layer_units": [8] * 100, "layer_dead": [n / 100 for n in range(100)], "layer_saturated": [0.0] * 100}
    Path("updates.jsonl").write_text(json.dumps({**line, "layer_names": names, **layers}) + "\n")
    assert sorted(trace.name for trace in traces(7, read_run(Path()))) == [f"layer {n}" for n in range(88, 100)]
