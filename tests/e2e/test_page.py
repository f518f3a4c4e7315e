"""The chat page in a real Chromium, against a real server with the demo model.

Needs `server_url` (conftest.py) and Debian's or another system Chromium. Answers that the demo model
cannot be made to give (markup, an error in mid-stream) are put on the wire by the browser's own
request interception; everything else is the server's.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect

STATS = re.compile(
    r"^(?P<ttft_s>\d+\.\d\d) s to first token · (?P<rate>\d+\.\d) tokens/s · "
    r"(?P<prompt>\d+) prompt tokens( \(\d+ cached\))? · (?P<answer>\d+) answer tokens"
)
ANSWER_MS = 120_000  # a loaded two-core machine may take this long for a short answer


@pytest.fixture
def page(browser: Browser, server_url: str) -> Iterator[Page]:
    """The page, loaded and ready; at the end nothing may have gone wrong in it or left this host."""
    context = browser.new_context()
    context.set_default_timeout(10_000)
    opened = context.new_page()
    faults: list[str] = []
    requests: list[Request] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda message: faults.append(message.text) if message.type != "log" else None)
    opened.on("request", lambda request: requests.append(request))
    opened.goto(server_url)
    expect(opened.locator("#model")).not_to_be_empty()
    yield opened
    context.close()
    # A refused request is logged by the browser itself; the tests that provoke one look at its message.
    assert [fault for fault in faults if not fault.startswith("Failed to load resource")] == []
    assert {urlsplit(request.url).netloc for request in requests} == {urlsplit(server_url).netloc}


def served_model(server_url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server_url}/v1/models") as response:
        model: dict[str, Any] = json.load(response)["data"][0]
    return model


def running_requests(server_url: str) -> float:
    """Sequences under way, from /metrics; fails when the server does not say."""
    with urllib.request.urlopen(f"{server_url}/metrics") as response:
        text = response.read().decode()
    values = re.findall(r"^\w*sequences_running(?:\{.*\})? (\S+)$", text, re.MULTILINE)
    assert values, "no …sequences_running in /metrics"
    return sum(map(float, values))


def configure(page: Page, **values: str) -> None:
    page.click("#settings-toggle")
    for name, value in values.items():
        page.fill(f"#{name.replace('_', '-')}", value)
    page.click("#settings-toggle")


def send(page: Page, text: str) -> None:
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def wait_until_done(page: Page) -> None:
    expect(page.locator("#send")).to_be_visible(timeout=ANSWER_MS)


def answer_longer_than(page: Page, length: int) -> int:
    """Wait for the last answer to grow beyond `length` characters; returns its new length."""
    page.wait_for_function(
        "length => [...document.querySelectorAll('.answer')].at(-1)?.textContent.length > length",
        arg=length,
        timeout=ANSWER_MS,
    )
    return len(page.locator(".answer").last.text_content() or "")


def events(*chunks: dict[str, Any]) -> str:
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)


def piece(text: str, finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}]}


def answer_with(page: Page, body: str) -> None:
    """Let every following question get these server-sent events."""
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body),
    )


def answer_without_end(page: Page) -> None:
    """Let the server write on past the model's end of every following answer, to the end of its context."""

    def ask(route: Route) -> None:
        route.continue_(post_data=json.dumps(route.request.post_data_json | {"ignore_eos": True}))

    page.route("**/v1/chat/completions", ask)


def test_page_loads_without_errors_and_is_ready_to_type(page: Page, server_url: str) -> None:
    expect(page.locator("h1")).to_have_text("Pascaline")
    expect(page.locator("#model")).to_contain_text(served_model(server_url)["id"])
    expect(page.locator("#prompt")).to_be_focused()
    expect(page.locator("#send")).to_be_disabled()
    assert page.evaluate("performance.getEntriesByType('resource').every(e => e.responseStatus < 400)")


def test_answer_streams_and_its_times_are_shown(page: Page) -> None:
    configure(page, temperature="0", max_tokens="48")
    started = time.monotonic()
    send(page, "Write a long story about a clockmaker.")
    lengths = [0]
    for _ in range(4):
        lengths.append(answer_longer_than(page, lengths[-1]))
    expect(page.locator("#stop")).to_be_visible()  # so all of these were seen while it was being written
    wait_until_done(page)
    elapsed_s = time.monotonic() - started
    found = STATS.match(page.inner_text(".stats"))
    assert found, page.inner_text(".stats")
    tokens = int(found["answer"])
    assert 8 <= tokens <= 48
    assert int(found["prompt"]) >= 8  # the question alone has that many words
    # The two times shown cover no more than what passed here; 5 % for their rounding.
    assert float(found["ttft_s"]) + (tokens - 1) / float(found["rate"]) <= elapsed_s * 1.05 + 0.01


def test_later_questions_carry_the_conversation_and_the_settings(page: Page) -> None:
    configure(page, system_prompt="You are brief.", temperature="0.5", top_p="0.9", max_tokens="8", seed="7")
    sent: list[dict[str, Any]] = []

    def note(request: Request) -> None:
        if request.post_data_json:
            sent.append(request.post_data_json)

    page.on("request", note)
    for question in ("Name a colour.", "Another one?"):
        send(page, question)
        wait_until_done(page)
    roles = [message["role"] for message in sent[1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert sent[1]["messages"][1]["content"] == "Name a colour."
    assert {name: sent[1][name] for name in ("temperature", "top_p", "max_tokens", "seed")} == {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 8,
        "seed": 7,
    }


@pytest.mark.parametrize(
    "stop",
    [lambda page: page.click("#stop"), lambda page: page.keyboard.press("Escape")],
    ids=["button", "escape"],
)
def test_stop_ends_the_answer_here_and_on_the_server(
    page: Page, server_url: str, stop: Callable[[Page], None]
) -> None:
    answer_without_end(page)  # or a fast one would be over before the browser came to stop it
    send(page, "Count from one to one thousand, in words, one number on each line.")
    answer_longer_than(page, 0)
    assert running_requests(server_url) == 1
    stop(page)
    expect(page.locator(".stats")).to_contain_text("stopped")
    length = len(page.inner_text(".answer"))
    deadline = time.monotonic() + 5
    while running_requests(server_url) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running_requests(server_url) == 0
    assert len(page.inner_text(".answer")) == length
    expect(page.locator("#prompt")).to_be_focused()


def test_too_long_prompt_is_refused_in_words_and_leaves_the_chat_usable(page: Page, server_url: str) -> None:
    send(page, "word " * (served_model(server_url)["max_model_len"] + 1))
    error = page.locator(".error").last
    expect(error).to_be_visible(timeout=ANSWER_MS)
    expect(error).to_contain_text(re.compile(r"\d+ tokens|context|too long", re.IGNORECASE))
    expect(error).not_to_contain_text("Traceback")
    configure(page, max_tokens="4")
    send(page, "Say hello.")
    answer_longer_than(page, 0)
    wait_until_done(page)
    expect(page.locator(".error").last).to_be_hidden()


def test_reload_keeps_the_conversation_and_new_chat_ends_it(page: Page) -> None:
    configure(page, max_tokens="12")
    send(page, "Name three metals.")
    wait_until_done(page)
    before = (page.inner_text("#messages"), page.input_value("#max-tokens"))
    page.reload()
    expect(page.locator(".turn")).to_have_count(1)
    assert (page.inner_text("#messages"), page.input_value("#max-tokens")) == before
    page.click("#new-chat")
    page.reload()
    expect(page.locator("#welcome")).to_be_visible()
    expect(page.locator(".turn")).to_have_count(0)


def test_markup_of_the_model_or_user_is_text(page: Page) -> None:
    hostile = (
        "<script>window.hacked = 1</script> <img src=x onerror='window.hacked = 2'>\n\n"
        "[click](javascript:window.hacked=3) ![pixel](https://example.invalid/p.png)\n\n"
        "```html\n<script>window.hacked = 4</script>\n```\n"
    )
    answer_with(page, events(piece(hostile), piece("", "stop")))
    send(page, hostile)
    wait_until_done(page)
    expect(page.locator(".answer")).to_contain_text("<script>window.hacked = 1</script>")
    expect(page.locator(".user")).to_contain_text("<script>window.hacked = 1</script>")
    assert page.locator("#messages :is(script, .answer img, .user img, [href^='javascript'])").count() == 0
    page.reload()  # nor when it comes back from the browser's storage
    expect(page.locator(".answer")).to_contain_text("<script>window.hacked = 1</script>")
    assert page.evaluate("window.hacked") is None


def test_markdown_becomes_structure_and_code_is_copied_verbatim(page: Page) -> None:
    code = "def add(a, b):\n    return a + b  # *not* italic"
    indented = code.replace("\n", "\n   ")
    text = (
        "# Title\n\nSome **bold**, *italic* and `x_1`.\n\n"
        f"1. one\n   ```python\n   {indented}\n   ```\n2. two\n   - inner\n"
    )
    answer_with(page, events(*map(piece, re.findall(r"(?s).{1,3}", text)), piece("", "stop")))
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    send(page, "Show me.")
    wait_until_done(page)
    answer = page.locator(".answer")
    for selector, content in {
        "h2": "Title",
        "strong": "bold",
        "em": "italic",
        "p > code": "x_1",
        "ol[start='2'] ul > li": "inner",
        "pre > code": code,
    }.items():
        expect(answer.locator(selector)).to_have_text(content)
    page.click(".code button")
    expect(page.locator(".code button")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == code


def test_error_in_mid_stream_keeps_the_text_and_says_why(page: Page) -> None:
    reason = "The engine process ended (signal 9). Start the server again"
    answer_with(page, events(piece("Once upon"), {"error": {"message": reason, "type": "server_error"}}))
    send(page, "Tell me a story.")
    expect(page.locator(".error")).to_have_text(reason)
    expect(page.locator(".answer")).to_have_text("Once upon")
    page.unroute("**/v1/chat/completions")
    configure(page, max_tokens="4")
    page.click(".retry")
    expect(page.locator(".error")).to_be_hidden()
    wait_until_done(page)
    expect(page.locator(".answer")).not_to_be_empty()
    expect(page.locator(".answer")).not_to_have_text("Once upon")


def test_api_key_is_asked_for_and_sent(page: Page) -> None:
    def guard(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer sesame":
            route.fallback()
        else:
            route.fulfill(status=401, json={"error": {"message": "The API key is missing or wrong"}})

    page.route("**/v1/**", guard)
    page.reload()
    expect(page.locator("#api-key")).to_be_focused()
    expect(page.locator("#status")).to_have_text("The API key is missing or wrong")
    page.fill("#api-key", "sesame")
    page.press("#api-key", "Enter")
    expect(page.locator("#model")).not_to_be_empty()
    expect(page.locator("#auth")).to_be_hidden()


def test_narrow_phone_shows_everything(page: Page) -> None:
    wide = "https://example.invalid/" + "long" * 60
    answer_with(page, events(piece(f"{wide}\n\n```\n{wide}\n```\n"), piece("", "stop")))
    page.set_viewport_size({"width": 320, "height": 560})
    send(page, wide)
    wait_until_done(page)
    assert page.evaluate("document.scrollingElement.scrollWidth") == 320
    assert page.evaluate("document.querySelector('#scroll').scrollWidth") <= 320
    for selector in ("#settings-toggle", "#send", ".user", ".answer"):
        box = page.locator(selector).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 320
