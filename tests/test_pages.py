"""What people look at: the page, in a real browser; notebooks; figures."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from browser import Page, browser, missing

import aforo as af

needs_browser = pytest.mark.skipif(missing() is not None, reason=f"a page is tested in Chromium: {missing()}")
needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="figures need matplotlib, an extra")

BATCHES, WIDTHS, BUDGET = [32, 256, 1024], [16, 64, 128, 256], 2**21


def build(width: int) -> af.Sequential:
    layers = [af.Dense(width, "relu", input_shape=[20]), af.Dense(width, "tanh", name="a</script><b>&")]
    model = af.Sequential([*layers, af.Dense(10, "softmax")])
    model.compile(loss="categorical_crossentropy", optimizer="adam")
    return model


@pytest.fixture(scope="module")
def sweep() -> af.memory.Sweep:
    return af.memory.sweep(build, BATCHES, WIDTHS, "cuda", budget=BUDGET)


@pytest.fixture(scope="module")
def file(sweep: af.memory.Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "plan.html"
    sweep.to_html(path)
    return path


@pytest.fixture(scope="module")
def desktop() -> Iterator[Page]:
    with browser(1280, 900) as page:
        yield page


@pytest.fixture
def page(desktop: Page, file: Path) -> Page:
    desktop.open(file)
    return desktop


def chosen(page: Page) -> list[int]:
    """Row and column of the chosen cell, by the map, the sliders and the headings."""
    row, column = page.run("return [+document.getElementById('batch').value, +document.getElementById('width').value]")
    selected = page.run(
        "return [...document.querySelectorAll('#map [aria-selected=true]')].map(b => [b.closest('tr').rowIndex - 1,"
        " b.closest('td').cellIndex - 1, b.tabIndex])"
    )
    assert selected == [[row, column, 0]], "one cell is chosen, and only it is reached with Tab"
    title = page.run("return document.getElementById('total-title').textContent")
    assert title.endswith(f"b = {BATCHES[row]:,}, n = {WIDTHS[column]}")
    return [row, column]


# --- in a browser -----------------------------------------------------------------------------------------------------


@needs_browser
def test_every_cell_shows_its_own_bytes(page: Page, sweep: af.memory.Sweep) -> None:
    shown = page.run(
        "return [...document.querySelectorAll('#map button')].map(b => { b.click(); return ["
        "document.getElementById('total').textContent,"
        "[...document.querySelectorAll('#parts tbody td:nth-child(2)')].map(td => td.textContent),"
        "document.getElementById('timeline').textContent,"
        "document.querySelectorAll('#holders tbody tr').length] })"
    )
    reports = [each for row in sweep.reports for each in row]
    assert len(shown) == len(reports) == 12
    for (total, parts, timeline, holders), each in zip(shown, reports, strict=True):
        assert f"({each.total_bytes:,} B)" in total
        assert parts == [f"{nbytes:,} B" for _, nbytes in each.parts()]
        assert f"instruction {each.timeline.peak + 1}" in timeline
        assert holders == min(len(each.timeline.holders), 13)
    assert page.faults() == []


@needs_browser
def test_the_map_and_the_sliders_work_with_a_keyboard(page: Page, sweep: af.memory.Sweep) -> None:
    fits = [(each.total_bytes, i, j) for i, row in enumerate(sweep.reports) for j, each in enumerate(row)]
    row, column = max(cell for cell in fits if cell[0] <= BUDGET)[1:]
    assert chosen(page) == [row, column], "the page opens at the largest plan within the budget"
    page.run("document.querySelector('#map [aria-selected=true]').focus()")
    page.press("Home")
    assert chosen(page) == [row, 0]
    page.press("ArrowLeft")
    assert chosen(page) == [row, 0]
    page.press("End", "ArrowUp", "ArrowUp", "ArrowUp")
    assert chosen(page) == [0, 3]
    page.press("ArrowDown", "ArrowLeft")
    assert chosen(page) == [1, 2]
    assert page.run("return document.activeElement.textContent") == page.run(
        "return document.querySelector('#map [aria-selected=true]').textContent"
    )
    page.press("Tab")
    assert page.run("return document.activeElement.id") == "batch"
    page.press("ArrowRight")
    assert chosen(page) == [2, 2]
    page.press("Tab", "ArrowLeft")
    assert chosen(page) == [2, 1]
    page.press("Tab")
    assert page.run("return document.activeElement.id") == "budget"
    page.press("Tab")
    assert page.run("return document.activeElement.id") == "moment"
    before = page.run("return document.getElementById('moment-value').textContent")
    page.press("ArrowLeft")
    assert page.run("return document.getElementById('moment-value').textContent") != before


@needs_browser
@pytest.mark.parametrize(
    ("typed", "nbytes"), [("2 MiB", 2**21), ("1MB", 10**6), ("300000", 300_000), ("1 B", 1), ("9 TiB", 9 * 2**40)]
)
def test_a_budget_that_is_typed_draws_its_line(page: Page, sweep: af.memory.Sweep, typed: str, nbytes: int) -> None:
    assert page.run("return document.getElementById('budget').value") == "2 MiB"
    page.run("document.getElementById('budget').focus(); document.getElementById('budget').select()")
    page.press(*typed)
    over = [[total > nbytes for total in row] for row in sweep.total_bytes.tolist()]
    marks = page.run(
        "return [...document.querySelectorAll('#map tr')].slice(1).map(tr => [...tr.querySelectorAll('td')].map(td =>"
        " [td.firstChild.className, td.className]))"
    )
    for i, line in enumerate(marks):
        for j, (button, edges) in enumerate(line):
            assert (button == "over") == over[i][j]
            assert ("right" in edges) == (j + 1 < 4 and over[i][j] != over[i][j + 1])
            assert ("down" in edges) == (i + 1 < 3 and over[i][j] != over[i + 1][j])
    row, column = chosen(page)
    verdict = page.run("return document.getElementById('verdict').textContent")
    assert verdict.startswith("exceeds it by" if over[row][column] else "fits")


@needs_browser
def test_a_budget_that_makes_no_sense_is_asked_for_again(page: Page) -> None:
    page.run("document.getElementById('budget').focus(); document.getElementById('budget').select()")
    page.press(*"lots")
    assert "24 GiB (binary)" in page.run("return document.getElementById('verdict').textContent")
    assert page.run("return document.getElementById('budget').getAttribute('aria-invalid')") == "true"
    assert page.run("return document.querySelectorAll('#map .over, #map .right, #map .down, svg .budget').length") == 0


@needs_browser
def test_the_timeline_shows_what_runs_and_where_the_budget_lies(page: Page, sweep: af.memory.Sweep) -> None:
    row, column = chosen(page)
    report = sweep.reports[row][column]
    moment = report.timeline[report.timeline.peak]
    shown = page.run("return document.getElementById('moment-value').textContent")
    assert shown.startswith(f"{report.timeline.peak + 1} of {len(report.timeline)}: {moment.op} of {moment.layer}")
    assert page.run("return document.querySelectorAll('#bar .budget').length") == 1
    box = page.run("const b = document.getElementById('timeline').getBoundingClientRect(); return [b.x, b.y, b.width, scrollY]")
    page.run("document.getElementById('timeline').scrollIntoView()")
    box = page.run("const b = document.getElementById('timeline').getBoundingClientRect(); return [b.x, b.y, b.width]")
    page.click(int(box[0] + 3), int(box[1] + 100))
    first = report.timeline[0]
    assert page.run("return document.getElementById('moment-value').textContent").startswith(
        f"1 of {len(report.timeline)}: {first.op}"
    )


# Every text against what is behind it, by WCAG 2.2's formula.
CONTRAST = r"""
const linear = v => v / 255 <= .04045 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
const light = colour => {
  const [r, g, b] = colour.match(/[\d.]+/g).map(linear);
  return .2126 * r + .7152 * g + .0722 * b;
};
const behind = e => {
  for (; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (!/, 0\)$/.test(colour)) return colour;
  }
  return 'rgb(255, 255, 255)';
};
const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const e = walk.currentNode.parentElement, style = getComputedStyle(e);
  if (!walk.currentNode.textContent.trim() || e.closest('script') || !e.getClientRects().length) continue;
  const a = light(e.closest('svg') ? style.fill : style.color), b = light(behind(e));
  found.push([(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.textContent.slice(0, 40)]);
}
return found;
"""


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_on_a_phone_in_the_light_and_in_the_dark(file: Path, sweep: af.memory.Sweep, dark: bool) -> None:
    with browser(390, 844, dark=dark) as page:
        page.open(file)
        if dark:
            page.call("goog/cdp/execute", cmd="Emulation.setEmulatedMedia",
                      params={"features": [{"name": "prefers-color-scheme", "value": "dark"}]})  # fmt: skip
        assert page.run("return matchMedia('(prefers-color-scheme: dark)').matches") == dark
        contrasts = page.run(CONTRAST)
        assert len(contrasts) > 60
        assert [each for each in contrasts if each[0] < 4.5] == []
        assert page.run("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]
        small = page.run(
            "return [...document.querySelectorAll('button, input')].filter(e => e.getClientRects().length &&"
            " (e.getBoundingClientRect().height < 24 || e.getBoundingClientRect().width < 24)).map(e => e.outerHTML)"
        )
        assert small == []
        overlapping = page.run(
            "const t = [...document.querySelectorAll('#timeline text')].map(e => e.getBoundingClientRect());"
            "return t.some((a, i) => a.left < 0 || a.right > innerWidth || t.some((b, j) => j > i && a.left < b.right"
            " && b.left < a.right && a.top < b.bottom && b.top < a.bottom))"
        )
        assert not overlapping
        page.run("document.querySelector('#map tr:last-child td:last-child button').click()")
        assert f"({sweep.total_bytes[-1, -1]:,} B)" in page.run("return document.getElementById('total').textContent")


@needs_browser
def test_the_page_of_one_report_has_no_map(desktop: Page, tmp_path: Path) -> None:
    m = build(32).memory(64, rows=1000)
    m.to_html(tmp_path / "one.html")
    desktop.open(tmp_path / "one.html")
    assert desktop.run("return ['sweep', 'why'].map(id => document.getElementById(id).hidden)") == [True, True]
    assert f"({m.total_bytes:,} B)" in desktop.run("return document.getElementById('total').textContent")
    outside = desktop.run("return document.getElementById('outside').textContent")
    assert (
        outside.startswith("Outside of the total" if m.reserve else "Needed")
        and "Needed on cpu, all of this together: about" in outside
    )
    assert "training data, besides, on the host" in desktop.run("return document.getElementById('parts').textContent")
    names = desktop.run("return [...document.querySelectorAll('#layers tbody td:first-child')].map(td => td.textContent)")
    assert names == [row.name for row in m.layers]
    assert desktop.faults() == []


@needs_browser
def test_a_model_that_computes_nothing_has_no_timeline(desktop: Page, tmp_path: Path) -> None:
    m = af.Sequential([af.Flatten(input_shape=[3, 4])]).memory(4, training=False)
    assert not m.timeline and Balanced(m._repr_html_()).text
    m.to_html(tmp_path / "empty.html")
    desktop.open(tmp_path / "empty.html")
    assert desktop.run("return document.getElementById('run').hidden") is True
    assert f"({m.total_bytes:,} B)" in desktop.run("return document.getElementById('total').textContent")
    assert desktop.faults() == []


@needs_browser
def test_a_sweep_of_one_row_has_one_slider(desktop: Page, tmp_path: Path) -> None:
    shown = "return ['batch', 'width', 'moment'].map(id => document.getElementById(id).getClientRects().length)"
    af.memory.sweep(build, [32], [16, 32]).to_html(tmp_path / "row.html")
    desktop.open(tmp_path / "row.html")
    assert desktop.run(shown) == [0, 1, 1]
    af.memory.sweep(lambda: build(16), [32, 64], None).to_html(tmp_path / "column.html")
    desktop.open(tmp_path / "column.html")
    assert desktop.run(shown) == [1, 0, 1]
    assert desktop.run("return document.getElementById('total-title').textContent").endswith("at b = 64")


@needs_browser
def test_the_page_needs_no_network(page: Page, file: Path) -> None:
    assert page.run("return performance.getEntriesByType('resource').length") == 0
    text = file.read_text()
    assert set(re.findall(r"https?://[^\s\"'`]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<link|<img|@import|url\(|src=", text)


# --- without one ------------------------------------------------------------------------------------------------------


def embedded(file: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', file.read_text(), re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_data_in_the_page_are_those_of_the_reports(file: Path, sweep: af.memory.Sweep) -> None:
    data = embedded(file)
    assert data["budget"] == BUDGET and data["formula"] == "\n".join(sweep.formula.lines())
    for row, cells in zip(sweep.reports, data["cells"], strict=True):
        for each, cell in zip(row, cells, strict=True):
            assert cell["total"] == each.total_bytes
            assert max(live for _, live, _ in cell["points"]) == max(moment.live_bytes for moment in each.timeline)
            held = sum(holder[4] for holder in cell["holders"]) + cell["rest"][1]
            padding = cell["layers"][-1][5]
            assert held + padding == each.lower_bound_bytes == sum(line[5] for line in cell["layers"])


def test_a_deep_nets_timeline_is_thinned_and_keeps_its_peak(tmp_path: Path) -> None:
    model = af.Sequential([af.Dense(4, "tanh", input_shape=[4]), *(af.Dense(4, "tanh") for _ in range(200))])
    model.compile(loss="mse", optimizer="adam")
    m = model.memory(8)
    m.to_html(tmp_path / "deep.html")
    (cell,) = embedded(tmp_path / "deep.html")["cells"][0]
    assert len(m.timeline) > 1000 >= len(cell["points"]) > 100
    assert [m.timeline.peak, m.timeline[m.timeline.peak].live_bytes] in [point[:2] for point in cell["points"]]
    assert (tmp_path / "deep.html").stat().st_size < 200_000


class Balanced(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Any) -> None: ...

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def test_a_notebook_shows_reports_and_sweeps(sweep: af.memory.Sweep) -> None:
    m = sweep.reports[0][1]
    shown = Balanced(m._repr_html_()).text
    assert f"{m.total_bytes:,} B" in shown and "a</script><b>&" in shown and "estimate, not measured here" in shown
    assert "script" not in re.findall(r"<(\w+)", m._repr_html_())
    shown = Balanced(sweep._repr_html_()).text
    assert "n = 128" in shown and shown.count("(over)") == int((sweep.total_bytes > BUDGET).sum()) and "· b · n" in shown
    Balanced(build(8).memory(1, training=False)._repr_html_())


@needs_matplotlib
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_figures_are_saved_and_given(sweep: af.memory.Sweep, tmp_path: Path, suffix: str) -> None:
    for drawn in (sweep, sweep.reports[0][0]):
        path = tmp_path / f"figure.{suffix}"
        figure = drawn.plot(path)
        assert path.stat().st_size > 5000 and figure.axes
        path.unlink()
    assert drawn.plot().axes


@needs_matplotlib
def test_the_heat_map_draws_the_budget_between_the_cells(sweep: af.memory.Sweep) -> None:
    axes = sweep.plot().axes[0]
    over = sweep.total_bytes > BUDGET
    edges = int((over[:, 1:] != over[:, :-1]).sum() + (over[1:] != over[:-1]).sum())
    assert len(axes.lines) == edges > 0
    assert len(axes.texts) == over.size


@needs_matplotlib
def test_a_figure_that_cannot_be_written_says_where(sweep: af.memory.Sweep, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected: the path of a file"):
        (tmp_path / "folder.png").mkdir()
        sweep.plot(tmp_path / "folder.png")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nowhere/plan.png", "there is no such folder(.|\n)*nowhere"),
        ("plan.txt", r"a format that its path ends with(.|\n)*\.plot\(.plan\.png.\)"),
        ("", "a format that its path ends with"),
        (".", "a format that its path ends with"),
        (3, r'expected: a path(.|\n)*\.plot\("net\.png"\)'),
    ],
)
def test_a_figure_that_can_go_nowhere_is_refused_before_it_is_made(
    sweep: af.memory.Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for drawn, name in ((sweep, "sweep"), (sweep.reports[0][0], "report")):
        with pytest.raises(af.Error, match=said) as caught:
            drawn.plot(path)
        assert f"{name}.plot(" in str(caught.value) or "no such folder" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_install_line_is_said(sweep: af.memory.Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for drawn in (sweep, sweep.reports[0][0]):
        with pytest.raises(RuntimeError, match=r"needs matplotlib(.|\n)*pip install 'aforo\[plot\]'") as caught:
            drawn.plot("plan.png")
        assert isinstance(caught.value, af.Error)
