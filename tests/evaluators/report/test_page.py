"""The page of a report in a browser: what a reader sees, clicks and sorts.

pytest -m browser tests/evaluators/report/test_page.py      with a Chromium on the machine
SCREENSHOTS=DIR pytest ...                               and keep what it looked like
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kilobit.cluster.cli.report import make
from kilobit.cluster.runs.result_sources import open_sources
from kilobit.evaluators.report.contents import Published
from kilobit.evaluators.report.page import page as html_of
from tests.support.pages.browser import Page, browser
from tests.support.recorded import HOSTILE, candidate_of, record, write_scorecard

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = record(tmp_path_factory.mktemp("page") / "runs")
    write_scorecard(run)
    out = run / "report.html"
    overlay = [Published(HOSTILE, 4000, 0.3), Published(HOSTILE, 9000, 0.5, 0.4, 0.6)]
    out.write_bytes(html_of(make(open_sources([run])[0], "program", overlay, out)))
    return out


@pytest.fixture(scope="module")
def _opened(chromium: Any, report: Path) -> Iterator[Page]:
    # Reading plotly.js takes a browser seconds, so tests share one page.
    opened = Page(chromium, report, viewport={"width": 1280, "height": 900}, color_scheme="dark")
    yield opened
    opened.context.close()


@pytest.fixture
def page(_opened: Page) -> Iterator[Page]:
    """Return the page; what a test has opened, it may leave open."""
    yield _opened
    _opened.page.evaluate("() => { panel.close(); hideHover(); window.scrollTo(0, 0); }")


def front_points(page: Page) -> Any:
    """Return the points of all programs in the main plot that are drawn."""
    return page.page.locator(".front .plot .scatterlayer .points path.point")


def click_point(page: Page, model: str, bits: int) -> None:
    """Click where the main plot has the point of a front."""
    spot = page.page.evaluate(
        """([model, bits]) => {
            const plot = document.querySelector(".front .plot");
            const trace = plot._fullData.find(
                ({ meta }) => meta?.kind === "front" && meta.model === model);
            const place = trace.customdata.findIndex((p) => report.programs[p].bits === bits);
            const box = plot.getBoundingClientRect(), { xaxis, yaxis } = plot._fullLayout;
            return [box.left + xaxis._offset + xaxis.d2p(trace.x[place]),
                    box.top + yaxis._offset + yaxis.d2p(trace.y[place])];
        }""",
        [model, bits],
    )
    # From elsewhere: a pointer that does not move tells nothing new.
    page.page.mouse.move(2, 2)
    page.page.mouse.move(*spot)
    page.page.wait_for_selector("#hover:not([hidden])")
    page.page.mouse.click(*spot)
    page.page.wait_for_selector("#panel[open]")


def programs(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.page.evaluate("() => report.programs")
    return found


def test_nothing_is_asked_of_the_network_and_nothing_complains(page: Page) -> None:
    assert page.complaints == []
    assert [url.split(":")[0] for url in page.requests if not url.startswith("data:")] == ["file"]
    assert page.count(".front .plot svg.main-svg") >= 1


def test_hostile_text_stays_text(page: Page) -> None:
    assert page.count("img") == 0
    assert page.count("script") == 3
    target = candidate_of("pretrained", HOSTILE).id
    bits = next(p["bits"] for p in programs(page) if p["candidate"] == target)
    click_point(page, "pretrained", bits)
    shown = page.page.locator("#panel pre.prompt").text_content()
    assert shown == f"{HOSTILE}\n"
    # Plotly reads a few tags: the label of the overlay is none of them.
    label = page.page.evaluate(
        """() => document.querySelector(".front .plot")._fullData.find(
            ({ meta }) => meta?.kind === "published").text[0]"""
    )
    assert "&lt;img" in label
    assert page.count("img") == 0
    assert page.complaints == []


def test_a_click_on_a_point_shows_its_program(page: Page) -> None:
    wanted = next(
        p for p in programs(page) if p["candidate"] == candidate_of("posttrained", "Number:").id
    )
    click_point(page, "posttrained", wanted["bits"])
    panel = page.page.locator("#panel").inner_text()
    assert f"{wanted['bits']:,} bits · posttrained" in panel
    assert wanted["candidate"] in panel
    assert "certified at δ = 0.8" in panel
    assert "bounds 0.830" in panel
    assert page.page.locator("#panel pre.prompt").text_content() == "Number:\n"
    assert "AutoModelForCausalLM" in page.page.locator("#panel pre.script").inner_text()
    assert '"codec": "stored"' in page.page.locator("#panel pre.recipe").inner_text()
    link = page.page.locator("#panel dl a").get_attribute("href")
    assert link == f"programs/posttrained-{wanted['candidate']}/"
    page.page.keyboard.press("Escape")
    page.page.wait_for_selector("#panel:not([open])", state="attached")


def test_the_pointer_shows_a_program_in_short(page: Page) -> None:
    wanted = next(
        p for p in programs(page) if p["candidate"] == candidate_of("posttrained", "Number:").id
    )
    card = page.page.evaluate(
        """(name) => {
            const program = report.programs.find((p) => p.candidate === name);
            showHover(program, { clientX: 1270, clientY: 890 });
            const box = hoverCard.getBoundingClientRect();
            return [hoverCard.innerText, box.right, box.bottom];
        }""",
        wanted["candidate"],
    )
    assert "Number:" in card[0]
    assert "verified, certified at δ = 0.8" in card[0]
    assert f"program.py {wanted['sections']['script']}, prompt text 8 bytes" in card[0]
    # In the corner of the window it stands on the other side of the pointer.
    assert card[1] < 1270
    assert card[2] < 890


def test_hiding_a_base_model_hides_it_everywhere(page: Page) -> None:
    kinds = """() => [...document.querySelectorAll(".plot")].map((plot) =>
        [...new Set(plot._fullData.map((t) => t.meta?.model).filter(Boolean))].sort())"""
    both = ["posttrained", "pretrained"]
    assert page.page.evaluate(kinds) == [both, both, both]
    points = front_points(page).count()
    rows = page.count("#list tbody tr")
    page.page.locator(".regimes input[value=pretrained]").uncheck()
    assert page.page.evaluate(kinds) == [["posttrained"]] * 3
    assert front_points(page).count() < points
    assert page.count("#list tbody tr") == rows - 4
    assert "pretrained" not in " ".join(page.texts(".front table, #composition .group, .heat"))
    page.page.locator(".regimes input[value=pretrained]").check()
    assert page.page.evaluate(kinds) == [both, both, both]
    assert front_points(page).count() == points
    assert page.complaints == []


def test_the_table_is_sorted_by_each_column(page: Page) -> None:
    heads = page.page.locator("#list thead th")
    keys = page.page.evaluate(
        "() => COLUMNS.filter((c) => !c.needed || c.needed()).map((c) => c.key)"
    )
    assert heads.count() == len(keys) >= 11
    every = {p["candidate"]: p for p in programs(page)}
    for place, key in enumerate(keys):
        seen = set()
        for _ in range(2):
            heads.nth(place).locator("button").click()
            ids = page.page.locator("#list tbody tr").evaluate_all(
                "(rows) => rows.map((row) => row.dataset.candidate)"
            )
            found = [every[name] for name in ids]
            values = [
                (p["certificate"] or {}).get("lower") if key == "sealed" else p[key] for p in found
            ]
            known = [value for value in values if value is not None]
            direction = heads.nth(place).get_attribute("aria-sort")
            seen.add(direction)
            assert known == sorted(known, reverse=direction == "descending"), key
            # What is unknown comes last.
            assert values == [*known, *[None] * (len(values) - len(known))], key
        assert seen == {"ascending", "descending"}
        others = heads.evaluate_all("(all) => all.map((one) => one.getAttribute('aria-sort'))")
        assert others.count("none") == len(keys) - 1


def test_the_table_is_filtered(page: Page) -> None:

    def candidates() -> set[str]:
        return set(page.texts("#list tbody tr td:first-child"))

    page.page.locator("#programs input[type=search]").fill("COUNT. count.")
    assert candidates() == {candidate_of("pretrained", "Count. " * 40).id}
    page.page.locator("#programs input[type=search]").fill("nothing has this")
    assert candidates() == set()
    page.page.locator("#programs input[type=search]").fill("")
    page.page.locator("#programs input[name=front]").check()
    assert len(candidates()) == 5
    page.page.locator("#programs select[name=model]").select_option("posttrained")
    assert candidates() == {candidate_of("posttrained", text).id for text in ("", "Number:")}
    page.page.locator("#programs select[name=family]").select_option("prompt")
    assert len(candidates()) == 2
    assert "2 of 2 programs" in page.texts("#programs .count")[0]
    page.page.locator("#programs input[name=front]").uncheck()
    for name in ("model", "family"):
        page.page.locator(f"#programs select[name={name}]").select_option("")
    assert len(candidates()) == 7


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_follows_the_theme(
    chromium: Any, report: Path, width: int, scheme: str
) -> None:
    viewport = {"width": width, "height": 900}
    page = Page(chromium, report, viewport=viewport, color_scheme=scheme)
    sizes = "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    scrolled, there = page.page.evaluate(sizes)
    assert scrolled <= there == width
    colours = """() => [getComputedStyle(document.body).backgroundColor,
        document.querySelector(".front .plot")._fullLayout.font.color]"""
    before = page.page.evaluate(colours)
    assert before == (
        ["rgb(255, 255, 255)", "#1b1f24"] if scheme == "light" else ["rgb(20, 23, 27)", "#e7eaee"]
    )
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        file = Path(folder) / f"report-{scheme}-{width}.png"
        page.page.screenshot(path=file, full_page=True)
    page.page.locator("#theme").click()
    after = page.page.evaluate(colours)
    assert all(one != other for one, other in zip(before, after, strict=True))
    clipped = """() => [...document.querySelectorAll(".plot")].flatMap((plot) => {
        const box = plot.getBoundingClientRect();
        return [...plot.querySelectorAll("svg text")].filter((text) => {
            const own = text.getBoundingClientRect();
            return own.width && (own.left < box.left - 1 || own.right > box.right + 1
                || own.top < box.top - 1 || own.bottom > box.bottom + 1);
        }).map((text) => text.textContent);
    })"""
    assert page.page.evaluate(clipped) == []
    assert page.complaints == []
    page.context.close()


def test_a_program_off_the_front_waits_for_no_verification(page: Page) -> None:
    """Front and verified of each row: nothing verifies what is off the front."""
    cells = page.page.evaluate("""() => {
        const heads = [...document.querySelectorAll("#list th")].map((one) => one.textContent);
        return [...document.querySelectorAll("#list tbody tr")].map((row) =>
            ["front", "verified"].map((name) => row.children[heads.indexOf(name)].textContent));
    }""")
    assert {tuple(cell) for cell in cells} == {("yes", "yes"), ("yes", "not yet"), ("no", "\u2013")}


def test_all_columns_are_seen(page: Page) -> None:
    """A long line of what a program is makes no column leave the page, and is there to be read."""
    beyond, title = page.page.evaluate("""() => {
        const before = report.programs.map((p) => p.about);
        report.programs.forEach((p) => { p.about = "lora rank 1 on down_proj ".repeat(9); });
        redraw();
        const box = document.querySelector("#programs .scroll");
        const found = [box.scrollWidth - box.clientWidth, document.querySelector("td.what").title];
        report.programs.forEach((p, place) => { p.about = before[place]; });
        redraw();
        return found;
    }""")
    assert beyond == 0
    assert title.count("lora") == 9


def test_the_buttons_of_a_plot_cover_no_data(page: Page) -> None:
    """The buttons that the pointer brings out end above the area that is drawn."""
    page.page.locator(".plot.low").first.hover()
    below = page.page.evaluate("""() => [...document.querySelectorAll(".plot")].map((plot) =>
        plot.querySelector(".modebar").getBoundingClientRect().bottom
        - plot.querySelector(".nsewdrag").getBoundingClientRect().top)""")
    assert len(below) == 3
    assert max(below) <= 0


def test_coarser_versions_are_told_apart(chromium: Any, tmp_path: Path) -> None:
    run = record(tmp_path / "runs", coarser=True)
    out = tmp_path / "report.html"
    out.write_bytes(html_of(make(open_sources([run])[0], "program", [], out)))
    opened = Page(chromium, out)
    about = opened.page.locator("#about").inner_text()
    assert "7 candidates, with 1 coarser version, completed the last rung" in about
    bars = opened.page.evaluate("""() => [...document.querySelectorAll(".plot.low")].at(-1).data
        .filter((bar) => bar.name.includes("coarser")).map((bar) => [bar.meta.model, bar.y])""")
    assert dict(bars) == {"pretrained": [0, 0], "posttrained": [0, 2]}
    opened.context.close()


def test_paper_gets_light_colours_and_no_controls(page: Page) -> None:
    page.page.emulate_media(media="print")
    page.page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    assert page.page.evaluate("() => document.documentElement.dataset.theme") == "light"
    assert not page.page.locator("#programs .controls").is_visible()
    widths = page.page.evaluate(
        "() => [...document.querySelectorAll('.plot')].map((plot) => plot._fullLayout.width)"
    )
    # A4 has about 700 px between its margins.
    assert max(widths) <= 700
    page.page.emulate_media(media="screen")
    page.page.evaluate("() => window.dispatchEvent(new Event('afterprint'))")
    assert page.page.evaluate("() => document.documentElement.dataset.theme") == "dark"
