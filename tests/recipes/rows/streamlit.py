"""Streamlit: a page that lives on its WebSocket."""

from visitor import expect

SECTION = "Streamlit"
PYPI = ["streamlit==1.67.0"]
BOARD = """
import streamlit as st
name = st.text_input("Name")
if name:
    st.write(f"Hello, {name}!")
file = st.file_uploader("File")
if file:
    st.write(f"{len(file.read())} bytes")
"""
# Puts a file into the page's field, as the dialogue of a browser does.
UPLOAD = """
const field = document.querySelector("input[type=file]"), files = new DataTransfer();
files.items.add(new File([new Uint8Array(300000)], "a.bin"));
field.files = files.files;
field.dispatchEvent(new Event("change", { bubbles: true }));
"""


def run(recipe):
    recipe.write("board.py", BOARD)
    app = recipe.start(recipe.text("sh"))
    with recipe.browser() as browser:
        with recipe.step("the page appears in a browser"):
            browser.open(recipe.url)
            browser.wait_for("the page's field", "!!document.querySelector('input[type=text]')", 90)
        with recipe.step("what is typed goes home by WebSocket, and the answer appears"):
            browser.evaluate("document.querySelector('input[type=text]').focus()")
            browser.do("Input.insertText", text="Ann")
            for kind in ("keyDown", "keyUp"):
                browser.do("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
            browser.wait_for("the answer", "document.body.innerText.includes('Hello, Ann!')")
        with recipe.step("a file is uploaded"):
            browser.evaluate(UPLOAD)
            browser.wait_for("the size of the file", "document.body.innerText.includes('300000 bytes')")
        with recipe.step("the browser had nothing to complain about"):
            assert not browser.complaints, browser.complaints

    with recipe.step("a page of another origin cannot open the WebSocket"):
        assert refused(recipe.visitor()) == 403

    recipe.protect()
    with recipe.step("the WebSocket opens behind the tunnel's password"):
        opens(recipe.signed_in())
    recipe.offer(recipe.services + 'host_header = "local"\n')
    with recipe.step("and with host_header = local"):
        opens(recipe.visitor())


def opens(visitor):
    expect(visitor.get("/"))
    with visitor.websocket("/_stcore/stream", subprotocols=["streamlit"]) as socket:
        assert socket.subprotocol == "streamlit", socket.subprotocol
        socket.ping()


def refused(visitor):
    from websockets.exceptions import InvalidStatus

    try:
        with visitor.websocket("/_stcore/stream", subprotocols=["streamlit"], origin="https://elsewhere.example"):
            return 101
    except InvalidStatus as error:
        return error.response.status_code
