"""The report in a real browser: what a person hovers, clicks, sorts and copies."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

pytestmark = pytest.mark.browser

# How a test reads the plot: the marker of a point, and the state of an axis, as drawn.
MARKER = "#scatter .scatterlayer .trace:has(.textpoint) .points path.point"
AXIS = "name => { const a = document.getElementById('scatter')._fullLayout[name]; return [a.title.text, a.type]; }"
FRONT = "() => { const t = document.getElementById('scatter').data.find(t => t.name === 'front'); return [t.x, t.y]; }"
OVERFLOW = "() => document.documentElement.scrollWidth - innerWidth"


def rows(opened: Any) -> list[int]:
    """Return the ids of the points in the order of the table."""
    return [int(r.get_attribute("data-row")) for r in opened.page.locator("#front-rows tr").all()]


def test_page_opens_on_its_advice(opened: Any) -> None:
    """The headline names a point, and that point is the one selected and marked in the table."""
    page = opened.page
    headline = page.locator(".headline:visible").inner_text()
    ident = headline.split()[1]
    assert headline.startswith(f"Point {ident} is the smallest model within 1 % of the baseline")
    expect(page.locator("#point-title")).to_have_text(f"Point {ident}")
    expect(page.locator("#front-rows tr[aria-current=true]")).to_have_attribute("data-row", ident)
    expect(page.locator("#point-pick")).to_have_text(f"paretopress pick runs/digits --point {ident}")


def test_hover_shows_figures_with_their_range(opened: Any) -> None:
    """Resting on a point shows its metrics and its interval, as text."""
    opened.page.locator(MARKER).nth(4).hover(force=True)
    shown = opened.page.locator("#scatter .hoverlayer .hovertext").first
    point = opened.page.evaluate("data.points[4]")
    expect(shown).to_contain_text(f"Point {point['id']}, trial {point['trial']}")
    expect(shown).to_contain_text(point["final"]["accuracy"]["range"])
    expect(shown).to_contain_text(point["final"]["latency"]["text"])


def test_click_on_a_point_selects_it_everywhere(opened: Any) -> None:
    """Plot, panel, table, map and address agree on the selected point."""
    page = opened.page
    page.locator(MARKER).nth(6).click(force=True)
    expect(page.locator("#point-title")).to_have_text("Point 7")
    expect(page.locator("#point-pick")).to_have_text("paretopress pick runs/digits --point 7")
    expect(page.locator("#front-rows tr[aria-current=true]")).to_have_attribute("data-row", "7")
    expect(page.locator("#matrix thead th.on")).to_have_text("7")
    expect(page.locator("#layer-list-title")).to_have_text("Point 7, layer by layer")
    expect(page.locator("#layer-list tr")).to_have_count(len(opened.data["points"][6]["layers"]))
    assert page.url.endswith("#point-7")
    page.reload()
    expect(page.locator("#point-title")).to_have_text("Point 7")


@pytest.mark.parametrize(("heading", "metric"), [("size", "size"), ("accuracy", "accuracy"), ("latency", "latency")])
def test_headings_sort_by_value(opened: Any, heading: str, metric: str) -> None:
    """A heading sorts by the number behind the text, once up and once down, and says so to a screen reader."""
    button = opened.page.get_by_role("button", name=heading, exact=True)
    value = {p["id"]: p["final"][metric]["value"] for p in opened.data["points"]}
    button.click()
    assert rows(opened) == sorted(value, key=lambda i: value[i])
    expect(opened.page.locator("th", has=button)).to_have_attribute("aria-sort", "ascending")
    button.click()
    assert rows(opened) == sorted(value, key=lambda i: -value[i])
    expect(opened.page.locator("th[aria-sort=descending]")).to_have_count(1)


def test_axes_can_be_chosen(opened: Any) -> None:
    """Any metric can be put on either axis, linear or logarithmic, and the points move there."""
    page = opened.page
    page.select_option("#x-axis", "latency")
    assert page.evaluate(AXIS, "xaxis") == ["latency × baseline (less is better)", "linear"]
    assert page.evaluate(FRONT)[0] == [p["final"]["latency"]["value"] for p in opened.data["points"]]
    page.check("#x-log")
    assert page.evaluate(AXIS, "xaxis")[1] == "log"
    page.select_option("#y-axis", "size")
    assert page.evaluate(AXIS, "yaxis")[0] == "size in bytes (less is better)"
    assert page.evaluate(FRONT)[1] == [p["final"]["size"]["value"] for p in opened.data["points"]]


def test_staircase_holds_no_beaten_point(opened: Any) -> None:
    """For the axes shown, the line passes through exactly the points that no other one beats on both."""
    page = opened.page
    drawn = "() => { const t = document.getElementById('scatter').data.find(t => t.mode === 'lines'); return t.x; }"
    for x in ("size", "latency"):
        page.select_option("#x-axis", x)
        pairs = [(p["final"][x]["value"], p["final"]["accuracy"]["value"]) for p in opened.data["points"]]
        best = sorted(a for a, b in pairs if not any(c <= a and d >= b and (c, d) != (a, b) for c, d in pairs))
        assert page.evaluate(drawn) == best
    assert len(best) < len(pairs)


def test_outliers_do_not_flatten_the_rest(opened: Any, make_report: Any) -> None:
    """A ruined point lies outside the first view, which says so, and comes back with one click."""
    page = opened.page
    limits = "() => document.getElementById('scatter')._fullLayout.yaxis.range"
    points = opened.data["points"]
    points[-1]["final"]["accuracy"] = {"value": 0.1}
    page.goto(make_report(len(points), points=points).as_uri())
    page.reload()
    expect(page.locator("#outside")).to_have_text("1 point lies outside this range.")
    lowest = min(p["final"]["accuracy"]["interval"][0] for p in points[:-1])
    assert 0.1 < page.evaluate(limits)[0] <= lowest
    page.get_by_label("whole range").check()
    assert page.evaluate(limits)[0] < 0.1
    expect(page.locator("#outside")).to_be_empty()


def test_no_button_sends_figures_away(opened: Any) -> None:
    """The charting library's buttons for sharing in its cloud are not there."""
    titles = [b.get_attribute("data-title") for b in opened.page.locator("#scatter .modebar-btn").all()]
    assert len(titles) == 4
    assert not [t for t in titles if t and re.search("share|cloud|edit|plotly", t, re.IGNORECASE)]


def test_validation_figures_can_be_shown(opened: Any) -> None:
    """The plot can show what the search saw instead of the final figures."""
    opened.page.select_option("#split", "search")
    assert opened.page.evaluate(FRONT)[1] == [p["search"]["accuracy"]["value"] for p in opened.data["points"]]


def test_margin_changes_the_advice(opened: Any) -> None:
    """Giving up more quality changes the headline and selects the smaller model."""
    page = opened.page
    before = page.locator("#point-title").inner_text()
    page.get_by_role("radio", name="5 %", exact=True).check()
    expect(page.locator(".headline:visible")).to_contain_text("within 5 % of the baseline")
    ident = page.locator(".pick:visible").first.get_attribute("data-point")
    expect(page.locator("#point-title")).to_have_text(f"Point {ident}")
    assert page.locator("#point-title").inner_text() != before


def test_map_shows_one_knob(opened: Any) -> None:
    """The map can be reduced to one parameter, shaded from its gentlest to its strongest value."""
    page = opened.page
    page.select_option("#knob", "integer.bits")
    bits = [
        step["params"]["bits"]
        for point in opened.data["points"]
        for steps in point["layers"].values()
        for step in steps
        if step["technique"] == "integer"
    ]
    shown = page.locator("#matrix td[data-strength]")
    assert sorted(int(t) for t in shown.all_inner_texts()) == sorted(bits)
    expect(page.locator("#scale-from")).to_have_text(str(max(bits)))
    strengths = {t.inner_text(): float(t.get_attribute("data-strength")) for t in shown.all()}
    assert strengths[str(min(bits))] == 1
    assert strengths[str(max(bits))] == 0
    page.locator("#matrix tbody tr").first.locator("td").nth(8).click()
    expect(page.locator("#point-title")).to_have_text("Point 9")


def test_keyboard_alone_is_enough(opened: Any) -> None:
    """Every point can be selected and every column sorted without a mouse."""
    page = opened.page
    page.locator("#front-rows button").nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#point-title")).to_have_text("Point 2")
    page.locator("#next").focus()
    page.keyboard.press("Space")
    expect(page.locator("#point-title")).to_have_text("Point 3")
    page.get_by_role("button", name="MACs", exact=True).focus()
    page.keyboard.press("Enter")
    assert rows(opened)[0] == 9


def test_command_is_copied(opened: Any) -> None:
    """The button puts the command on the clipboard, or selects it where the browser forbids that."""
    page = opened.page
    button = page.locator("[data-copy=point-pick]")
    command = page.locator("#point-pick").inner_text()
    button.click()
    expect(button).to_have_text("Copied")
    page.evaluate("document.body.append(Object.assign(document.createElement('textarea'), {id: 'probe'}))")
    page.locator("#probe").focus()
    page.keyboard.press("Control+v")
    expect(page.locator("#probe")).to_have_value(command)


def test_names_from_the_model_stay_text(opened: Any) -> None:
    """A layer called <b> and an error with an image tag are shown, not built."""
    page = opened.page
    expect(page.locator("#matrix code", has_text='odd<b>name</b>"é"')).to_have_count(1)
    assert page.locator("#matrix b, img").count() == 0
    expect(page.get_by_text("<img src=x onerror=alert(1)>")).to_be_visible()


@pytest.mark.parametrize("width", [1280, 800])
def test_page_never_scrolls_sideways(opened: Any, width: int) -> None:
    """Wide tables scroll in their own frame; the page itself fits the window."""
    opened.page.set_viewport_size({"width": width, "height": 900})
    expect(opened.page.locator("#scatter .main-svg").first).to_be_visible()
    assert opened.page.evaluate(OVERFLOW) <= 0


def test_dark_scheme_redraws_the_plot(opened: Any) -> None:
    """Following the system's scheme changes page and plot together, so that text stays readable on both."""
    page = opened.page
    label, body = page.locator("#scatter .textpoint text").first, page.locator("body")
    mark, ink = label.evaluate("n => getComputedStyle(n).fill"), body.evaluate("n => getComputedStyle(n).color")
    page.emulate_media(color_scheme="dark")
    expect(label).not_to_have_css("fill", mark)
    expect(body).not_to_have_css("color", ink)


def test_paper_gets_everything(opened: Any) -> None:
    """In print no table is cut off and the plot fits the sheet."""
    page = opened.page
    page.set_viewport_size({"width": 718, "height": 1000})
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(OVERFLOW) <= 0
    assert page.evaluate("document.getElementById('scatter')._fullLayout.width") <= 718
    assert len(page.pdf(format="A4")) > 10_000


def test_policy_stops_foreign_scripts(browser: Browser, make_report: Any) -> None:
    """Even markup that got into the page could run nothing and reach nothing."""
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(make_report(2).as_uri())
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,x\" onerror=\"window.hit = 1\">')")
    reached = page.evaluate("fetch('https://example.invalid/').then(() => true, () => false)")
    assert page.evaluate("window.hit") is None
    assert not reached
    assert not [url for url in asked if url.startswith("http")]
    page.close()


def test_crowded_front_stays_usable(browser: Browser, make_report: Any) -> None:
    """With 200 points the map turns to colours, the table scrolls in its frame and selection still works."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(make_report(200).as_uri() + "#point-180")
    expect(page.locator("#point-title")).to_have_text("Point 180")
    expect(page.locator("#matrix.dense tbody tr").first.locator("td")).to_have_count(200)
    expect(page.locator("#front-rows tr")).to_have_count(200)
    visible = """() => { const frame = document.querySelector('.scroll.long').getBoundingClientRect();
        const row = document.querySelector('[data-row="180"]').getBoundingClientRect();
        return row.top >= frame.top && row.bottom <= frame.bottom; }"""
    assert page.evaluate(visible)
    assert page.evaluate(OVERFLOW) <= 0
    assert problems == []
    page.close()


def test_single_point_with_little_known_draws(browser: Browser, make_report: Any) -> None:
    """One point, no intervals, no trials: everything still draws."""
    bare = {"accuracy": {"value": 0.9}, "size": {"value": 10, "unit": "B"}}
    path = make_report(
        1,
        points=[{"id": 1, "final": bare}],
        baseline={"final": {"accuracy": {"value": 0.9}}},
        trials=[],
        hypervolume=[],
        sites=[],
    )
    page = browser.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(path.as_uri())
    expect(page.locator("#point-title")).to_have_text("Point 1")
    expect(page.locator(MARKER)).to_have_count(1)
    assert problems == []
    page.close()
