"""The page in a browser: reached by link and by keyboard, and not to be broken by a corpus."""

import re

import pytest

from tests.page.conftest import HOSTILE, N_CODES, settled, wait_until

pytestmark = pytest.mark.browser

ROWS = "table.codes tbody tr:not([hidden])"
VIEWS = ["#", "#codes", "#code=1", "#flow", "#texts", "#text=3", "#evaluation", "#settings"]


def shown_codes(tab) -> list[int]:
    return [int(code) for code in tab.locator(f"{ROWS} td.code").all_inner_texts()]


def drawn(tab, name: str):
    return tab.wait_for_selector(f".figure.{name}[data-drawn] svg.main-svg")


@pytest.mark.parametrize("width", [1440, 800, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_opens_and_fits_the_window(watch, path, scheme, width):
    page = watch(path, color_scheme=scheme, viewport={"width": width, "height": 800})
    page.open()
    background = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 22, 26)"}[scheme]
    for view in VIEWS:
        tab = page.go(view)
        for figure in tab.locator(".figure").all():
            figure.locator("svg.main-svg").first.wait_for()
        color = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        assert color == background
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
        assert tab.evaluate("document.querySelectorAll('h1').length") == 1


def test_the_overview_shows_numbers_beside_their_baselines(watch, path, contents):
    tab = watch(path).open()
    tiles = tab.locator(".tile").all_inner_texts()
    fvu = next(tile for tile in tiles if tile.startswith("FVU"))
    assert f"{contents.evaluation.fvu:.3g}" in fvu
    assert f"random codes {contents.evaluation.fvu_random_codes:.3g}" in fvu
    drawn(tab, "usage")
    drawn(tab, "codebook")
    drawn(tab, "history")


def test_figures_are_drawn_only_when_their_view_is_shown(watch, path):
    tab = watch(path).open("#codes")
    assert tab.locator(".figure svg").count() == 0
    tab.click("text=Flow")
    drawn(tab, "flow")
    tab.evaluate("window.left = document.querySelector('.figure.flow')")
    assert tab.evaluate("left.data.length") == 1
    tab.click("text=Settings")
    assert settled(tab) == "#settings"
    assert tab.locator(".figure svg").count() == 0
    assert tab.evaluate("left.data === undefined")  # plotly has let go of it


def test_figures_take_the_ink_of_the_page_and_follow_a_change_of_scheme(watch, path):
    tab = watch(path).open("#evaluation")
    drawn(tab, "cross_entropy")
    ink = "getComputedStyle(document.querySelector('.cross_entropy .xtitle')).fill"
    assert tab.evaluate(ink) == "rgb(95, 102, 112)"
    tab.emulate_media(color_scheme="dark")
    wait_until(tab, f"{ink} === 'rgb(154, 162, 173)'")


def test_the_reader_chooses_a_diagram_of_the_flow_and_opens_a_code_from_it(watch, path):
    tab = watch(path).open("#flow")
    drawn(tab, "flow")
    n_nodes = "document.querySelector('.figure.flow').data[0].node.customdata.length"
    wait_until(tab, "document.querySelectorAll('.figure.flow[data-drawn]').length === 1")
    before = tab.evaluate(n_nodes)
    tab.select_option("#flow-choice", "flow_classes")
    wait_until(tab, "document.querySelectorAll('.figure.flow[data-drawn]').length === 1")
    wait_until(tab, f"{n_nodes} !== {before}")
    assert 0 < tab.evaluate(n_nodes) < before
    tab.evaluate(
        "document.querySelector('.figure.flow')"
        ".emit('plotly_click', {points: [{customdata: '<b>0-1: 7 x</b><br>9 tokens'}]})"
    )
    assert settled(tab) == "#code=7"


def test_tokens_have_the_color_of_their_code_in_the_layer_that_is_shown(watch, path, contents):
    tab = watch(path).open("#text=3")
    color = "getComputedStyle(document.querySelector('.strip .token')).getPropertyValue('--color')"
    for layer in contents.layers:
        code = int(layer.encoding.codes[3, 1])
        tab.click(f"label:has-text('{layer.name}')")
        assert tab.evaluate(color) == layer.encoding.colors[code]
        assert tab.get_attribute(".strip .token", "data-code") == str(code)


def test_a_click_on_the_map_opens_the_code(watch, path):
    tab = watch(path).open()
    drawn(tab, "codebook")
    tab.evaluate(
        "document.querySelector('.figure.codebook')"
        ".emit('plotly_click', {points: [{hovertext: 'code 7 x'}]})"
    )
    assert settled(tab) == "#code=7"


# ---- the list ------------------------------------------------------------------------------------


def test_every_code_is_listed_the_most_used_first(watch, path, contents):
    tab = watch(path).open("#codes")
    assert sorted(shown_codes(tab)) == list(range(N_CODES))
    assert shown_codes(tab) == contents.concepts.frame()["code"].tolist()


def test_search_looks_through_tokens_examples_and_names(watch, path, contents):
    tab = watch(path).open("#codes")
    tab.fill("#search", "WORD3")

    def texts(concept):
        examples = (*concept.typical, *concept.borderline, *concept.random)
        tokens = (*concept.tokens, *concept.distinctive, *concept.token_labels)
        return [e.before + e.token + e.after for e in examples] + [t.text for t in tokens]

    holding = {c.code for c in contents.concepts if any("word3" in text for text in texts(c))}
    assert set(shown_codes(tab)) == holding != set(range(N_CODES))
    assert f"{len(holding)} of {N_CODES} codes" in tab.inner_text(".found")
    tab.fill("#search", "nowhere to be found")
    assert shown_codes(tab) == []
    tab.press("#search", "Escape")
    assert len(shown_codes(tab)) == N_CODES


@pytest.mark.parametrize("column", ["code", "usage", "entropy"])
def test_a_click_on_a_header_sorts_and_another_one_reverses(watch, path, contents, column):
    key = {"code": "code", "usage": "usage", "entropy": "token_entropy"}[column]
    tab = watch(path).open("#codes")
    seen = {}
    for _ in range(2):
        tab.click(f"th.{column} button")
        direction = tab.get_attribute(f"th.{column}", "aria-sort")
        used = [c for c in shown_codes(tab) if contents.concepts[c].usage]
        seen[direction] = [round(float(getattr(contents.concepts[c], key)), 3) for c in used]
    assert seen["ascending"] == sorted(seen["ascending"])
    assert seen["descending"] == sorted(seen["ascending"], reverse=True)
    assert tab.locator("th[aria-sort]:not([aria-sort=none])").count() == 1


# ---- concepts ------------------------------------------------------------------------------------


def test_a_link_opens_a_concept_with_everything_about_it(watch, path, contents):
    concept = next(iter(contents.concepts.frame().query("usage > 0")["code"]))
    concept = contents.concepts[concept]
    tab = watch(path).open(f"#code={concept.code}")
    assert tab.title().startswith(f"Code {concept.code} ")
    for part in (
        *("Tokens by count", "Tokens by lift", "Token labels", "Next token, at the target"),
        *("Next token, directly", "Nearest codes", "Typical", "Borderline", "Random"),
    ):
        assert tab.locator("h2", has_text=part).count() == 1, part
    marked = [text.strip() for text in tab.locator(".typical mark").all_text_contents()]
    assert marked == [example.token.strip() for example in concept.typical]
    links = tab.locator(".nearest a")
    assert links.first.get_attribute("href") == f"#code={concept.nearest[0].code}"
    links.first.click()
    assert settled(tab) == f"#code={concept.nearest[0].code}"


def test_an_unknown_address_says_so(watch, path):
    page = watch(path)
    page.open()
    for view in ("#code=999", "#code=x", "#text=999", "#nowhere", "#code=__proto__", "#toString"):
        assert page.go(view).inner_text("h1") == "Not found"


def test_the_back_button_goes_through_the_views(watch, path):
    tab = watch(path).open("#codes")
    tab.click(f"{ROWS} td.code a")
    first = settled(tab)
    assert re.fullmatch(r"#code=\d+", first)
    tab.keyboard.press("j")
    assert settled(tab) != first
    tab.go_back()
    assert settled(tab) == first
    assert tab.inner_text("h1").startswith(f"Code {first.removeprefix('#code=')}")
    tab.go_back()
    assert settled(tab) == "#codes"
    assert tab.inner_text("h1") == "Concepts"
    assert tab.evaluate("document.activeElement.getAttribute('href')") == first


# ---- keyboard ------------------------------------------------------------------------------------


def test_the_keyboard_alone_finds_opens_and_leaves_concepts(watch, path, contents):
    order = contents.concepts.frame()["code"].tolist()
    tab = watch(path).open()
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "search"
    tab.keyboard.type("w/j")  # letters go into the field
    assert tab.input_value("#search") == "w/j"
    tab.keyboard.press("Escape")
    tab.keyboard.press("Escape")
    tab.keyboard.press("j")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("k")
    tab.keyboard.press("j")
    tab.keyboard.press("Enter")
    assert settled(tab) == f"#code={order[1]}"
    tab.keyboard.press("j")
    assert settled(tab) == f"#code={order[2]}"
    tab.keyboard.press("ArrowLeft")
    assert settled(tab) == f"#code={order[1]}"
    tab.keyboard.press("Escape")
    assert settled(tab) == "#codes"
    tab.keyboard.press("j")
    assert tab.evaluate("document.activeElement.getAttribute('href')") == f"#code={order[2]}"


def test_help_opens_with_a_question_mark_and_closes_with_escape(watch, path):
    tab = watch(path).open("#codes")
    tab.keyboard.press("?")
    assert tab.locator("dialog[open] kbd").count() > 6
    named_by = tab.get_attribute("dialog[open]", "aria-labelledby")
    assert tab.locator(f"#{named_by}").all_inner_texts() == ["Keyboard shortcuts"]
    tab.keyboard.press("Escape")
    assert tab.locator("dialog[open]").count() == 0
    assert settled(tab) == "#codes"


def test_focus_is_visible_and_everything_has_a_name(watch, path):
    page = watch(path)
    page.open()
    for view in VIEWS:
        tab = page.go(view)
        assert tab.locator("main, header, nav").count() >= 3
        unnamed = tab.evaluate(
            "[...document.querySelectorAll('a, button, input')]"
            ".filter((node) => !(node.textContent.trim() || node.getAttribute('aria-label')"
            " || node.labels?.[0]?.textContent.trim())).map((node) => node.outerHTML)"
        )
        assert unnamed == [], view
    tab.keyboard.press("Tab")
    tab.keyboard.press("Tab")
    style = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert style == "solid"


# ---- flow, texts, numbers ------------------------------------------------------------------------


def test_the_flow_is_drawn_with_nodes_and_links(watch, path):
    tab = watch(path).open("#flow")
    drawn(tab, "flow")
    assert tab.locator(".figure.flow .sankey-node").count() > 3
    assert tab.locator(".figure.flow .sankey-link").count() > 3
    assert tab.locator("table.data tbody tr").count() >= 1


def test_a_text_shows_each_token_in_its_concept_with_a_link(watch, path, contents):
    encoding = contents.layers[0].encoding
    tab = watch(path).open("#text=3")
    links = tab.locator(".strip a.token")
    codes = encoding.codes[3][encoding.mask[3]].tolist()
    assert [link.get_attribute("href") for link in links.all()] == [f"#code={c}" for c in codes]
    strings = zip(encoding.strings[3], encoding.mask[3].tolist(), strict=False)
    expected = [string.strip() for string, real in strings if real]
    assert [link.text_content().strip() for link in links.all()] == expected
    links.nth(4).hover()
    assert tab.inner_text(".card h2") == f"Code {codes[4]}"
    links.nth(2).focus()
    assert tab.inner_text(".card h2") == f"Code {codes[2]}"
    tab.keyboard.press("Enter")
    assert settled(tab) == f"#code={codes[2]}"


def test_a_switch_shows_the_codes_of_another_quantizer(watch, path, contents):
    encoding = contents.layers[1].encoding
    tab = watch(path).open("#text=3")
    tab.check("text=2-3")
    codes = [int(node.get_attribute("data-code")) for node in tab.locator(".strip .token").all()]
    assert codes == encoding.codes[3][encoding.mask[3]].tolist()
    assert tab.locator(".strip a").count() == 0  # this page has no concepts of that quantizer


def test_an_example_leads_to_its_text_with_the_concept_chosen(watch, path, contents):
    tab = watch(path).open("#codes")
    tab.click(f"{ROWS} td.code a")
    code = settled(tab).removeprefix("#code=")
    tab.locator("a.where").first.click()
    assert re.fullmatch(rf"#text=\d+&code={code}", settled(tab))
    assert tab.inner_text(".card h2") == f"Code {code}"
    assert tab.locator(".strip .token.same").count() >= 1


def test_texts_can_be_searched(watch, path, contents):
    tab = watch(path).open("#texts")
    assert tab.locator("ol.texts li").count() == 10
    tab.fill("#search", "word3")
    strings = ["".join(row) for row in contents.layers[0].encoding.strings]
    expected = [str(i) for i, text in enumerate(strings) if "word3" in text]
    shown = tab.locator("ol.texts li:not([hidden]) a .number").all_inner_texts()
    assert shown == expected


def test_evaluation_and_settings_are_filled(watch, path, contents):
    page = watch(path)
    tab = page.open("#evaluation")
    assert tab.locator("table.metrics tbody tr").count() == len(contents.evaluation.frame())
    drawn(tab, "cross_entropy")
    drawn(tab, "recovery")
    tab = page.open("#settings")
    settings = tab.inner_text("main")
    for name in ("n_codes", "blocks.0.hook_resid_post", "best_step", "clvq-lens", "n_documents"):
        assert name in settings


# ---- a hostile corpus ----------------------------------------------------------------------------


def test_hostile_texts_are_shown_literally_and_do_nothing(watch, path):
    page = watch(path)
    tab = page.open("#texts")
    listed = tab.inner_text("ol.texts")
    for text in HOSTILE:
        assert text.strip("\u2028\u2029") in listed
    for view in ("#", "#codes", *(f"#code={code}" for code in range(N_CODES)), "#flow", "#text=1"):
        tab = page.go(view)
        tab.wait_for_timeout(300)  # for figures to be drawn
        assert tab.locator("main img, main script, main [onerror], main [onload]").count() == 0
        assert tab.locator("svg a, svg image").count() == 0
        links = tab.locator("a[href]").all()
        assert all(link.get_attribute("href").startswith("#") for link in links)
        assert "49" not in tab.evaluate("document.title")
    assert tab.title().endswith('<img src="x" onerror="window.pwned=8">: concepts from '
                                "blocks.0.hook_resid_post to blocks.1.hook_resid_post")  # fmt: skip


def test_even_an_injected_script_may_not_run_nor_load(watch, path):
    page = watch(path)
    tab = page.open()
    tab.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.pwned = 9';"
        " document.body.append(s); const i = new Image(); i.src = 'https://example.com/x.png';"
        " i.setAttribute('onerror', 'window.pwned = 10'); document.body.append(i); }"
    )
    tab.wait_for_timeout(200)
    assert len(page.errors) >= 2
    assert all("Content Security Policy" in error for error in page.errors)
    assert page.refused == ["https://example.com/x.png"] == page.requests
    page.errors.clear()
    page.requests.clear()  # it was asked for and refused
