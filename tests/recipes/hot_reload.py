"""What development servers have in common: a page whose source changes while a browser shows it."""

import contextlib


def text_is(text):
    return f"document.querySelector('#text')?.textContent === {text!r}"


@contextlib.contextmanager
def page(recipe, path="/"):
    """A browser that shows the application's page, whose text is `first`."""
    with recipe.browser() as browser:
        browser.open(f"{recipe.url}{path}")
        browser.wait_for("the page", text_is("first"), 60)
        yield browser


def check(recipe, source, websocket, ready=("received", ""), loaded="true"):
    """Changes the source under an open page: the new text comes without a reload. Not before this has happened to the
    page's WebSocket, and a script's expression shows that the page is `loaded`."""
    before = source.read_text()
    assert before.count("first") == 1, before
    try:
        with page(recipe) as browser:
            browser.websocket_stays(websocket, *ready)
            browser.wait_for("a page that is loaded", loaded)
            browser.evaluate("window.opened = 'once'")
            source.write_text(before.replace("first", "second"))
            browser.wait_for("the new text", text_is("second"))
            assert browser.evaluate("window.opened") == "once", f"the page was reloaded; {browser.websockets}"
            browser.websocket_stays(websocket)
    finally:
        source.write_text(before)
