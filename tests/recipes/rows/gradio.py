"""Gradio: its queue (Server-Sent Events) and uploads."""

import json

from stack import PATIENCE
from visitor import expect

SECTION = "Gradio"
PYPI = ["gradio==6.31.0"]


def run(recipe):
    recipe.write("demo.py", recipe.text("python"))
    recipe.start("python demo.py", env={"GRADIO_ANALYTICS_ENABLED": "False"})
    with recipe.step("a file is uploaded, the queue answers, the result is downloaded from the public address"):
        works(recipe, recipe.visitor())
    with recipe.step("the page works in a browser"), recipe.browser() as browser:
        browser.open(recipe.url)
        browser.wait_for("the form", "!!document.querySelector('textarea')", 90)
        browser.evaluate("document.querySelector('textarea').focus()")
        browser.do("Input.insertText", text="Ann")
        browser.evaluate("[...document.querySelectorAll('button')].find((one) => one.textContent.trim() == 'Submit').click()")
        browser.wait_for("the answer", "[...document.querySelectorAll('textarea')].some((one) => one.value == 'Hello, Ann!')")
        refused = [one for one in browser.complaints if recipe.host in one or "Mixed Content" in one]
        assert not refused, refused

    recipe.protect()
    with recipe.step("the same behind the tunnel's password"):
        works(recipe, recipe.signed_in())


def works(recipe, visitor):
    page = expect(visitor.get("/"))
    root = f'"root":"{recipe.url}"'
    assert root in page.text, "the page has another root"
    path = expect(visitor.post("/gradio_api/upload", files={"files": ("a.txt", b"x" * 300_000)})).json()[0]
    file = {"path": path, "orig_name": "a.txt", "meta": {"_type": "gradio.FileData"}}
    asked = {"data": ["Ann", file], "fn_index": submit(visitor), "session_hash": "aezah4"}
    expect(visitor.post("/gradio_api/queue/join", json=asked))
    greeting, file = done(visitor)
    assert greeting == "Hello, Ann!", greeting
    assert file["url"].startswith(f"{recipe.url}/"), file
    assert len(expect(visitor.get(file["url"])).content) == 300_000


def submit(visitor):
    """Which function the button calls."""
    functions = expect(visitor.get("/config")).json()["dependencies"]
    return next(one["id"] for one in functions if one["api_name"] == "greet")


def done(visitor):
    """What the queue's stream of events says in the end."""
    with visitor.get("/gradio_api/queue/data?session_hash=aezah4", headers={"Accept": "text/event-stream"}, stream=True, timeout=PATIENCE) as events:
        for line in expect(events).iter_lines():
            said = json.loads(line.removeprefix(b"data: ")) if line else {}
            if said.get("msg") == "process_completed":
                assert said["success"], said
                return said["output"]["data"]
    raise AssertionError("the stream of events ended without a result")
