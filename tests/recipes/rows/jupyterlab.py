"""JupyterLab: a kernel by WebSocket, uploads, and the tunnel's password in front."""

import json
import os
import uuid

from recipe import without
from stack import PATIENCE
from visitor import expect

SECTION = "JupyterLab"
PYPI = ["jupyterlab==4.6.6"]
TOKEN = "ahGh1ooyae6eiNg3"


def run(recipe):
    if os.geteuid() == 0:
        # Jupyter insists on that for root, which the document's reader is not.
        recipe.write(".jupyter/jupyter_server_config.py", "c.ServerApp.allow_root = True\n")
    command = recipe.text("sh")
    app = recipe.start(command, env={"JUPYTER_TOKEN": TOKEN})
    with recipe.step("a cell runs: the kernel's WebSocket carries data"):
        assert computed(logged_in(recipe.visitor())) == "42\n"
    with recipe.step("the login's cookie is Secure"):
        assert login_is_secure(logged_in(recipe.visitor()))
    with recipe.step("a terminal opens, and runs a command"):
        assert "six times seven is 42" in typed(logged_in(recipe.visitor()))
    with recipe.step("a file is uploaded and downloaded"):
        visitor = logged_in(recipe.visitor())
        sent = {"type": "file", "format": "text", "content": "x" * 100_000}
        expect(visitor.put("/api/contents/a.txt", json=sent, headers=xsrf(visitor)), 201)
        assert expect(visitor.get("/files/a.txt?download=1")).text == sent["content"]
    with recipe.step("JupyterLab starts in a browser"), recipe.browser() as browser:
        browser.open(f"{recipe.url}/lab?token={TOKEN}")
        browser.wait_for("the launcher", "document.querySelectorAll('.jp-LauncherCard').length > 0", 90)
        assert not browser.complaints, browser.complaints

    recipe.protect()
    with recipe.step("the same behind the tunnel's password"):
        assert computed(logged_in(recipe.signed_in())) == "42\n"
    with recipe.step("behind the password, Jupyter's token in Authorization reaches Jupyter"):
        visitor = recipe.signed_in()
        expect(visitor.get("/api/status", headers={"Authorization": "token wrong"}), 403)
        expect(visitor.get("/api/status", headers={"Authorization": f"token {TOKEN}"}))
    recipe.offer(recipe.services)
    app.end()

    bare = without(command, "--ServerApp.allow_remote_access=True", "--ServerApp.trust_xheaders=True")
    recipe.start(bare, env={"JUPYTER_TOKEN": TOKEN})
    with recipe.step("without allow_remote_access it is 403"):
        expect(recipe.visitor().get("/lab"), 403)
    recipe.offer(recipe.services + 'host_header = "local"\n')
    with recipe.step("but host_header = local makes up for it"):
        assert computed(logged_in(recipe.visitor())) == "42\n"
    with recipe.step("without trust_xheaders the login's cookie is not Secure"):
        assert not login_is_secure(logged_in(recipe.visitor()))


def logged_in(visitor):
    expect(visitor.get(f"/lab?token={TOKEN}"))
    return visitor


def login_is_secure(visitor):
    return next(cookie.secure for cookie in visitor.cookies if cookie.name.startswith("username-"))


def xsrf(visitor):
    return {"X-XSRFToken": visitor.cookies["_xsrf"]}


def computed(visitor):
    """What a kernel prints, asked as JupyterLab asks it."""
    kernel = expect(visitor.post("/api/kernels", json={}, headers=xsrf(visitor)), 201).json()
    session = uuid.uuid4().hex
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "", "session": session, "date": "", "version": "5.3"}
    content = {"code": "print(6 * 7)", "silent": False}
    message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content, "buffers": []}
    with visitor.websocket(f"/api/kernels/{kernel['id']}/channels?session_id={session}") as socket:
        socket.send(json.dumps(message))
        while True:
            answer = json.loads(socket.recv(timeout=PATIENCE))
            if answer["msg_type"] == "stream":
                return answer["content"]["text"]


def typed(visitor):
    """What a terminal shows up to the result of a command."""
    name = expect(visitor.post("/api/terminals", json={}, headers=xsrf(visitor))).json()["name"]
    shown = ""
    with visitor.websocket(f"/terminals/websocket/{name}") as socket:
        socket.send(json.dumps(["stdin", "echo six times seven is $((6 * 7))\r"]))
        while "is 42" not in shown:
            kind, *text = json.loads(socket.recv(timeout=PATIENCE))
            shown += text[0] if kind == "stdout" else ""
    return shown
