"""The dashboard in a real browser: nothing goes wrong, everything can be read, by hand, keyboard and ear."""

import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from axolotl_cache.dashboard import Dashboard
from axolotl_cache.observe import Call, Failure, Observer, PrefixView, State, TierState
from axolotl_cache.observe.state import NodeState
from axolotl_cache.request import Answer, Message, Miss, Request, Saved, Served, Usage
from axolotl_cache.server.observability import observability_routes

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
uvicorn = pytest.importorskip("uvicorn", reason="needs uvicorn")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
    # Websockets are not used; uvicorn loads what it finds for them.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets.*"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:uvicorn.*"),
]
PAGES = ("#/", "#/requests", "#/requests/r1", "#/requests/r2", "#/requests/x0", "#/prefixes", "#/nodes")
KEY = "an operator's key"
CHECKS = Path(__file__).with_name("dashboard_checks.js").read_text().partition("\n")[2].strip()
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


class Watched:
    """Gauges that look like those of a busy server."""

    def state(self) -> State:
        return State(
            tiers=(
                TierState("prefix_memory", "prefixes in memory", 1.6e9, 2e9, 9, pinned_bytes=9**8),
                TierState("response_memory", "answers in memory", 10**6, None, 400, 2000),
            ),
            running=2, waiting=1,
            nodes=(NodeState("one", "0.1.0", "cpu", True, 90, 0.4, 8, 10**9, 10**10, 2, 1, 90),),
            exactness="invariant", block_size=32, switches={"response": True, "prefix": True},
        )  # fmt: skip

    def prefixes(self, limit):
        return [
            PrefixView(0, None, "n", 0, 6, 9, 50, 3.0, True, 1, (1, 2), 16384, f"You are kind. {HOSTILE}"),
            PrefixView(1, 0, "n", 192, 2, 2, 9, 5.0, False, 0, (3, 4), 16384, "When do you open?"),
            PrefixView(2, 0, "n", 192, 1, 1, 0, 9.0, False, 0, (5, 6), 16384, "Where is my card?"),
        ]  # fmt: skip


def busy_observer() -> Observer:
    now = [time.time() - 3000]
    observer = Observer(model="small", keeps_text=True, clock=lambda: now[0])
    observer.watch(Watched())
    for n in range(200):
        kind = (Served.MISS, Served.HIT_PREFIX, Served.HIT_EXACT)[n % 3]
        cached = {Served.MISS: 0, Served.HIT_PREFIX: 384, Served.HIT_EXACT: 412}[kind]
        request = Request(messages=(Message("user", HOSTILE),), tenant=HOSTILE, session="c1")
        stored = kind is Served.HIT_EXACT
        answer = Answer(
            HOSTILE, "stop", kind, Usage(412, cached, 30), 2e-4 if stored else 0.1 + (412 - cached) / 1000,
            2e-4 if stored else 2.0, saved=Saved(cached, 0.5 if cached else 0.0), key="k" * 40,
            response_miss=None if stored else Miss("never seen"),
            prefix_miss=None if stored else Miss("the prompt differs", cached + 7, HOSTILE, "this one's"),
        )  # fmt: skip
        observer.finished(request, answer, Call(f"r{n}", now[0], "/v1/chat/completions", "small"))
        now[0] += 15
    observer.failed(Failure.OVERLOADED, Call("x0", now[0]), detail=HOSTILE)
    observer.clock = time.time
    return observer


@contextmanager
def served(observer, authorize):
    app = Starlette(routes=observability_routes(Dashboard(observer), authorize))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/dashboard/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def address():
    with served(busy_observer(), lambda request: None) as url:
        yield url


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@contextmanager
def opened(chromium, url, *, width=1280, scheme="light", allowed=()):
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    wrong, elsewhere = [], []
    page.on("console", lambda said: wrong.append(said.text) if said.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append("a dialog"), dialog.dismiss()))
    page.on("request", lambda asked: None if asked.url.startswith(url) else elsewhere.append(asked.url))
    page.goto(url)
    page.wait_for_selector("main h1")
    yield page
    context.close()
    assert [text for text in wrong if not any(part in text for part in allowed)] == []
    assert elsewhere == []


def go(page, place):
    page.evaluate("place => { location.hash = place }", place)
    page.wait_for_selector("main .wait", state="detached")
    page.wait_for_selector("main h1")
    page.wait_for_timeout(150)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_fits_and_says_nothing_in_the_console(chromium, address, width, scheme):
    with opened(chromium, address, width=width, scheme=scheme) as page:
        for place in PAGES:
            go(page, place)
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, place
            assert page.locator("main h1").count() == 1, place
            for check in ("nameless", "pale", "twice"):
                assert page.evaluate(f"({CHECKS}).{check}()") == [], (place, check)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(11, 14, 20)") is (scheme == "dark")


def test_charts_can_be_walked_and_read_as_tables(chromium, address):
    with opened(chromium, address) as page:
        chart = page.locator(".stage").first
        assert "Requests over time" in chart.get_attribute("aria-label")
        chart.focus()
        page.keyboard.press("Home")
        first = page.locator("#say").text_content()
        page.keyboard.press("End")
        page.keyboard.press("ArrowLeft")
        assert page.locator("#say").text_content() not in ("", first)
        assert page.locator(".tip").first.is_visible()
        page.keyboard.press("Escape")
        assert not page.locator(".tip").first.is_visible()
        page.locator("details.as-table summary").first.click()
        table = page.locator("details.as-table table").first
        assert table.locator("tbody tr").count() > 20
        assert "exact answer" in table.locator("thead").inner_text()


def test_everything_is_reached_by_keyboard(chromium, address):
    with opened(chromium, address) as page:
        reached = []
        for _ in range(14):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate("document.activeElement.textContent.trim() || document.activeElement.ariaLabel")
            )
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        assert reached[0] == "Skip to the content"
        assert {"Overview", "Requests", "Prefixes", "Nodes", "Live", "15 min", "7 days"} <= set(reached)


def test_figures_are_read_again_without_taking_the_focus(chromium, address):
    with opened(chromium, address) as page:
        page.locator("details.as-table summary").first.click()
        page.locator(".spans button", has_text="15 min").focus()
        before = page.locator("#foot").text_content()
        page.wait_for_function(
            "before => document.getElementById('foot').textContent !== before", arg=before, timeout=9000
        )
        assert page.evaluate("document.activeElement.textContent") == "15 min"
        assert page.locator("details.as-table").first.get_attribute("open") is not None


def test_figures_are_what_they_say(chromium, address):
    script = """async () => {
        const { bytes, count, percent } = await import('./format.js');
        return [count(120000), count(2e8), count(1.5e6), bytes(1e8), percent(0.996), percent(1)];
    }"""
    with opened(chromium, address) as page:
        told = page.evaluate(script)
    assert told == ["120 k", "200 M", "1.5 M", "100 MB", "99.6 %", "100 %"]


def test_a_request_is_explained(chromium, address):
    with opened(chromium, address) as page:
        go(page, "#/requests")
        page.locator("tbody a", has_text="r199").click()
        page.wait_for_selector("svg.mask")
        text = page.locator("main").inner_text()
        assert "384 of 412 prompt tokens were reused" in text
        assert "number 392 of 412" in text
        assert "7 more agreed, but not a whole block of 32" in text
        assert HOSTILE in text, "shown as what it is: text"
        red = page.evaluate("getComputedStyle(document.querySelector('.mask-reused')).fill")
        assert red == "rgb(209, 36, 47)"


def test_the_tree_can_be_looked_into(chromium, address):
    with opened(chromium, address) as page:
        go(page, "#/prefixes")
        assert page.locator(".run").count() == 3
        page.locator("button.link", has_text="When do you open").click()
        assert "193 to 256" in page.locator(".chosen").inner_text()


def test_colours_can_be_chosen_and_stay(chromium, address):
    with opened(chromium, address) as page:
        page.locator("#theme").click()
        page.locator("#theme").click()
        assert page.locator("#theme").get_attribute("aria-label") == "Colours: dark"
        page.reload()
        page.wait_for_selector("main h1")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(11, 14, 20)"


def test_a_key_is_asked_for_where_one_is_needed(chromium):
    def authorize(request):
        if request.headers.get("authorization") != f"Bearer {KEY}":
            raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})

    with (
        served(busy_observer(), authorize) as url,
        opened(chromium, url, allowed=("status of 401",)) as page,
    ):
        assert "operator" in page.locator("h1").inner_text()
        assert page.evaluate("document.activeElement.id") == "key"
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=alert]")
        page.locator("#key").fill(KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector(".hero-figure")
        assert page.context.cookies() == []
        assert KEY not in page.url
