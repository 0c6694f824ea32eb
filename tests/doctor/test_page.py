"""The page in headless Chromium: no network, no console error, every plot drawn, what is in files stays text."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sb3_trpo_ext.doctor.cli import main
from sb3_trpo_ext.doctor.figures import PLOTS, figure
from sb3_trpo_ext.doctor.page import data_script, page, write_page
from sb3_trpo_ext.doctor.read import read_run
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
    legend = chrome.run("document.getElementById('plot-layers').querySelector('.legend').textContent")
    # Plotly knows some tags of its own, and shows the text of others.
    assert "actor <b>bold</b> <img src=x onerror=" in legend
    assert "<b onclick=alert(1)>_1" in legend
    assert data_script({"name": EVIL}).count("</script>") == 1
    assert "%{x}" in legend


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


def test_alarms_stand_on_the_curve_of_returns(ours: Runs, contrib: Path) -> None:
    run = read_run(story(ours, contrib))
    drawn = figure(PLOTS[0], [run])
    assert drawn is not None
    alarms = next(trace for trace in drawn.data if "alarm" in trace.name)
    assert [text.split()[0] for text in alarms.text] == [code for code, _, _ in run.starts]
    returns = dict(run.returns.values())
    assert set(alarms.y) <= set(returns.values())
