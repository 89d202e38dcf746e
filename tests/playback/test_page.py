"""The page, in a real browser without network."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from metta_train.playback.moments import Moment
from metta_train.playback.page import replay_page
from tests.playback.test_episodes import source

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TITLE = 'mine:1 </script><script>document.title="owned"</script> <b>&'
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Moment], Path]:
    """An episode as it was played, and its page."""
    one = source(greedy=False, recording=True)
    moments = list(one.moments(1))
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(replay_page(one.replay(), one.cast, TITLE, {"altar", "mine"}), encoding="utf-8")
    return moments, file


def test_the_page_holds_everything_and_asks_for_nothing(episode: tuple[list[Moment], Path]) -> None:
    text = episode[1].read_text()
    assert not re.search(r"(src|href)=|https?:|url\(|@import|fetch\(|XMLHttp|WebSocket", text)
    assert "default-src 'none'" in text and "@" + "REPLAY@" not in text
    assert text.count("<script") == 3, "a title ends no script"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        program = next(filter(None, map(shutil.which, CHROMIUM)), str(own) if own.exists() else None)
        if program is None:
            pytest.skip("no Chromium on this machine (apt-get install chromium, or playwright install chromium)")
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, episode: tuple[list[Moment], Path]) -> Iterator[Page]:
    """The page, opened from the disk; errors and requests of it fail the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, offline=True)
    page = context.new_page()
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: troubles.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(episode[1].as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    yield page
    assert troubles == []
    context.close()


def until(page: Page, condition: str) -> None:
    """Wait for it; the page's own policy forbids Playwright's way."""
    end = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def facts(page: Page, where: str) -> dict[str, str]:
    names = page.locator(f"{where} dt").all_inner_texts()
    return dict(zip(names, page.locator(f"{where} dd").all_inner_texts(), strict=True))


def test_it_tells_what_was_played(page: Page, episode: tuple[list[Moment], Path]) -> None:
    moments = episode[0][1:]
    assert page.inner_text("#title") == TITLE and page.title() == TITLE
    assert page.locator("#legend").inner_text().split() == ["altar", "mine"]
    for step, moment in enumerate(moments):
        assert page.inner_text("#where") == f"step {step + 1} of 12"
        assert facts(page, "#episode")["reward, mean of agents"] == f"{moment.score:.4f}"
        assert moment.scene is not None
        for agent in (0, 3):
            page.select_option("#agent", str(agent))
            told, thing = facts(page, "#facts"), moment.scene.agent(agent)
            assert thing is not None
            assert told["at"] == f"row {thing.row}, column {thing.column}"
            assert told["holds"] == (", ".join(f"{name} {amount}" for name, amount in thing.holds) or "nothing")
            decision = moment.decision
            if decision is None:
                assert page.inner_text("#bars") == "the end" and "value" not in told
                continue
            assert decision.probabilities is not None and decision.values is not None
            assert float(told["value"]) == pytest.approx(decision.values[agent], abs=1e-4)
            shares = [float(text.rstrip("%")) for text in page.locator("#bars b").all_inner_texts()]
            assert shares == pytest.approx((100 * decision.probabilities[agent]).tolist(), abs=0.06)
            taken = ("noop", "move_north", "move_south", "move_west", "move_east")[decision.actions[agent]]
            assert page.locator("#bars .taken span").inner_text() == taken
        page.keyboard.press("ArrowRight")


def colour_at(page: Page, row: int, column: int) -> list[int]:
    """Near the upper left of a cell, where no letters are."""
    script = """([row, column]) => {
        const tile = player.tile * devicePixelRatio, pen = document.getElementById("map").getContext("2d");
        return [...pen.getImageData((column + .28) * tile, (row + .28) * tile, 1, 1).data].slice(0, 3);
    }"""
    return page.evaluate(script, [row, column])


def test_it_draws_the_map(page: Page, episode: tuple[list[Moment], Path]) -> None:
    scene = episode[0][1].scene
    assert scene is not None
    wall, floor = [92, 99, 112], [24, 26, 31]
    assert colour_at(page, 0, 0) == wall
    taken = {(thing.row, thing.column) for thing in scene.things}
    free = next((r, c) for r in range(1, 9) for c in range(1, 9) if (r, c) not in taken | scene.walls)
    assert colour_at(page, *free) == floor
    for kind, colour in (("altar", [240, 228, 66]), ("mine", [86, 180, 233])):
        thing = next(thing for thing in scene.things if thing.kind == kind)
        assert colour_at(page, thing.row, thing.column) == colour
    agent = scene.agent(1)
    assert agent is not None and colour_at(page, agent.row, agent.column) == [255, 170, 120]
    page.keyboard.press("v")
    far = max(scene.walls, key=lambda cell: abs(cell[0] - agent.row) + abs(cell[1] - agent.column))
    assert colour_at(page, *far)[0] <= wall[0]
    assert len(page.screenshot()) > 10_000


def test_playing_scrubbing_and_keys(page: Page) -> None:
    def step() -> int:
        return page.evaluate("player.step")

    page.keyboard.press("End")
    assert step() == 11 and page.inner_text("#where") == "step 12 of 12"
    page.keyboard.press("ArrowLeft")
    page.click("#back")
    page.click("#on")
    assert step() == 10
    page.keyboard.press("Home")
    assert step() == 0
    page.locator("#scrub").fill("7")
    assert step() == 7
    page.select_option("#speed", label="100 steps/s")
    page.click("#play")
    until(page, "!player.playing")
    assert step() == 11
    assert page.inner_text("#play") == "Play"
    page.locator("body").click(position={"x": 5, "y": 100})
    page.select_option("#speed", label="1 steps/s")
    page.keyboard.press("Space")
    assert page.inner_text("#play") == "Pause" and step() == 0, "from the start again"
    page.keyboard.press("+")
    assert page.evaluate("player.speed") == 1
    page.keyboard.press("Space")
    assert page.inner_text("#play") == "Play"


def test_agents_are_chosen_by_keys_and_clicks(page: Page, episode: tuple[list[Moment], Path]) -> None:
    page.keyboard.press("ArrowUp")
    assert page.evaluate("player.agent") == 3
    scene = episode[0][1].scene
    agent = None if scene is None else scene.agent(2)
    assert agent is not None
    tile = page.evaluate("player.tile")
    page.click("#map", position={"x": (agent.column + 0.5) * tile, "y": (agent.row + 0.5) * tile})
    assert page.evaluate("player.agent") == 2 and page.input_value("#agent") == "2"


def test_it_fits_a_small_window(page: Page) -> None:
    page.set_viewport_size({"width": 400, "height": 700})
    fits = """() => {
        const map = document.getElementById("map").getBoundingClientRect();
        return innerWidth === 400 && document.documentElement.scrollWidth <= 400 && map.left >= 0 && map.right <= 400;
    }"""
    until(page, fits)


def test_a_damaged_replay_is_told_of(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    file.write_text(replay_page(b"not a replay", source(greedy=True).cast, "bad", ()), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    page.wait_for_selector("body[data-ready=failed]")
    assert "The replay cannot be shown" in page.inner_text("#failed")
    page.close()
