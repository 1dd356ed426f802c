"""The report as a person meets it: opened from disk in a real browser, looked at, sorted, filtered, without an error in the console."""

import json
import os
import shutil

import inscribed
import pytest

from autopoly.jobs.convert import ConvertOptions, convert

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]
HOSTILE = "<script>document.title='broken'</script><img src=x onerror=alert(1)>"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1600",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Convert a small set, some of it with truth, with failures and a hostile category."""
    folder = tmp_path_factory.mktemp("report")
    source = inscribed.make_dataset(folder / "data", images=16)

    def edit(document):
        document["categories"][0]["name"] = HOSTILE
        document["annotations"][0]["bbox"] = [4.0, 4.0, -3.0, 5.0]

    inscribed.change(source, edit)
    convert(ConvertOptions(source=source, out=folder / "scored", workers=0, device="cpu"), network=inscribed.network())
    convert(ConvertOptions(source=source, out=folder / "plain", workers=0, device="cpu", score=False), network=inscribed.network())
    return folder


def opened(browser, page):
    browser.get(f"file://{page}")
    return lambda script, *arguments: browser.execute_script(script, *arguments)


def shown(js, key):
    return js(f"return [...document.querySelectorAll('.card')].filter(c => !c.hidden).map(c => c.dataset.{key})")


def choose(js, control, value):
    js("const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('change'));", control, value)


@pytest.mark.parametrize("name", ["scored", "plain"])
def test_the_report_works_in_a_browser(browser, run, name, tmp_path):
    js = opened(browser, run / name / "report.html")
    # Pictures and tables are there; nothing was loaded; no name ran as code.
    assert js("return [...document.images].filter(i => i.naturalWidth === 0).length") == 0
    assert js("return document.images.length") >= 40
    assert js("return document.querySelectorAll('table tbody tr').length") > 3
    assert js("return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    assert "broken" not in browser.title
    assert HOSTILE in js("return document.getElementById('categories').textContent")
    png = browser.get_screenshot_as_png()
    assert len(png) > 50_000
    (tmp_path / "report.png").write_bytes(png)
    if kept := os.environ.get("AUTOPOLY_SCREENSHOTS"):
        shutil.copy(tmp_path / "report.png", os.path.join(kept, f"{name}.png"))

    # Sorting: the worst first, then the other way round; what has no value stays at the end.
    key = "iou" if name == "scored" else "quality"
    js("document.getElementById('more').click()")
    every = shown(js, key)
    values = [float(one) for one in every if one]
    assert len(values) > 10
    assert values == sorted(values)
    js("document.getElementById('down').click()")
    turned = shown(js, key)
    assert [float(one) for one in turned if one] == sorted(values, reverse=True)
    assert sorted(turned) == sorted(every)
    choose(js, "sort", "side")
    sides = [float(one) for one in shown(js, "side") if one]
    assert sides == sorted(sides)

    # Filtering: by group, by category, by id, and nothing at all.
    choose(js, "group", "worst")
    assert set(shown(js, "group")) == {"worst"}
    choose(js, "group", "")
    choose(js, "category", HOSTILE)
    assert set(shown(js, "category")) == {HOSTILE}
    choose(js, "category", "")
    box = "const e = document.getElementById('find'); e.value = arguments[0]; e.dispatchEvent(new Event('input'));"
    js(box, "1007")
    assert all("1007" in one for one in shown(js, "find"))
    assert 0 < len(shown(js, "find")) < len(every)
    js(box, "no such thing")
    assert shown(js, "find") == []
    assert js("return getComputedStyle(document.getElementById('nothing')).display") != "none"
    js(box, "")

    # Outlines can be hidden, pictures enlarged.
    visible = "return getComputedStyle(document.querySelector('.picture path.predicted')).display"
    assert js(visible) != "none"
    js("document.getElementById('show-predicted').click()")
    assert js(visible) == "none"
    js("document.querySelector('.card:not([hidden])').click()")
    assert js("return document.getElementById('large').open && document.querySelectorAll('#enlarged .card').length") == 1
    js("document.getElementById('large').close()")

    # Tables sort by number.
    js("document.querySelectorAll('#categories th button')[1].click()")
    counts = js("return [...document.querySelectorAll('#categories tbody tr')].map(r => Number(r.cells[1].dataset.value))")
    assert counts == sorted(counts)
    assert "box_empty" in js("return document.getElementById('failures').textContent")
    errors = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert errors == []


def test_a_script_that_got_into_the_page_would_not_run(browser, run, tmp_path):
    page = (run / "plain/report.html").read_text().replace("<main>", "<main><script>document.title='broken'</script>")
    (tmp_path / "forged.html").write_text(page)
    js = opened(browser, tmp_path / "forged.html")
    assert "broken" not in js("return document.title")
    refused = json.dumps([entry["message"] for entry in browser.get_log("browser")])
    assert "Content Security Policy" in refused
