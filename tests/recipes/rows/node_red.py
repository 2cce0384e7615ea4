"""Node-RED: a flow deployed under an open editor."""

import json

from document import DOMAIN
from stack import wait_for
from visitor import expect

SECTION = "Node-RED"
NPM = ["node-red@4.1.8"]
DEBIAN = {"node": "nodejs", "npm": "npm"}

FLOW = [
    {"id": "n0", "type": "tab", "label": "test"},
    {"id": "n1", "type": "http in", "z": "n0", "url": "/hello", "method": "get", "wires": [["n2", "n4"]]},
    {"id": "n2", "type": "template", "z": "n0", "field": "payload", "template": "hello from a flow", "wires": [["n3"]]},
    {"id": "n3", "type": "http response", "z": "n0", "wires": []},
    {"id": "n4", "type": "debug", "z": "n0", "active": True, "tosidebar": True, "complete": "req.url", "targetType": "msg", "wires": []},
]
PALETTE = "document.querySelector('#red-ui-palette .red-ui-palette-node') !== null"
PASSWORD = "Aiw1oopho"
LOGIN = f"""
document.querySelector('#node-dialog-login-username').value = 'owner';
document.querySelector('#node-dialog-login-password').value = '{PASSWORD}';
document.querySelector('#node-dialog-login-submit').click();
"""


def run(recipe):
    app = recipe.start(f"node-red --userDir data --port {recipe.port} -D uiHost=127.0.0.1 -D telemetry.enabled=false")
    # It listens before its editor is there.
    app.wait("the flows", lambda: "Started flows" in app.said())
    check(recipe, recipe.host, "on a subdomain")
    check(recipe, f"{DOMAIN}/{recipe.names[0]}", "on a path route")
    app.end()

    hashed = recipe.run(f"printf %s {PASSWORD} | node-red admin hash-pw").split()[-1]
    user = {"username": "owner", "password": hashed, "permissions": "*"}
    settings = {"uiHost": "127.0.0.1", "uiPort": recipe.port, "adminAuth": {"type": "credentials", "users": [user]}}
    recipe.write("settings.js", f"module.exports = {json.dumps(settings)};")
    app = recipe.start("node-red --userDir data --settings settings.js")
    app.wait("the flows", lambda: "Started flows" in app.said())
    recipe.protect()
    # The editor sends its own token in `Authorization`, so it is the cookie that shows who has given the tunnel's password.
    with recipe.step("behind the tunnel's password, the editor's own login works"), recipe.browser() as browser:
        browser.open(recipe.url_with_password())
        browser.wait_for("the login", "document.querySelector('#node-dialog-login-username') !== null", 60)
        browser.evaluate(LOGIN)
        browser.wait_for("the palette", PALETTE)
        browser.wait_for_websocket("received", "ok")
        browser.websocket_stays(f"wss://{recipe.host}/comms")


def check(recipe, base, words):
    with recipe.step(f"the editor's WebSocket carries what flows report, {words}"), recipe.browser() as browser:
        browser.open(f"https://{base}/")
        browser.wait_for("the palette", PALETTE, 60)
        browser.websocket_stays(f"wss://{base}/comms")
        visitor = recipe.visitor(f"https://{base.partition('/')[0]}")
        expect(visitor.post(f"https://{base}/flows", json=FLOW, headers={"Node-RED-Deployment-Type": "full"}), 204)
        # The answer comes before the flow runs.
        wait_for("the flow", lambda: visitor.get(f"https://{base}/hello?from={base}").text == "hello from a flow")
        browser.wait_for_websocket("received", f"/hello?from={base}")
        browser.websocket_stays(f"wss://{base}/comms")
