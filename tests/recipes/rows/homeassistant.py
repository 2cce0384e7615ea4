"""Home Assistant: the API and the WebSocket of its frontend, and the tunnel's password in front."""

import json

from stack import PATIENCE
from visitor import expect

SECTION = "Home Assistant"
# The last version for Python 3.11, and what the parts of it that are used here would install when they start.
PYPI = [
    "homeassistant==2024.3.3", "home-assistant-frontend==20240307.0", "aiohttp_cors==0.7.0", "aiohttp-fast-url-dispatcher==0.3.0",
    "aiohttp-zlib-ng==0.3.1", "Pillow==10.2.0", "janus==1.0.0",
    "SQLAlchemy==2.0.27", "fnv-hash-fast==0.5.0", "psutil-home-assistant==0.0.1", "securetar==2024.2.1", "josepy==1.14.0",
]

PASSWORD = "ohNg4ahn"
ONBOARDED = {"version": 4, "minor_version": 1, "key": "onboarding", "data": {"done": ["user", "core_config", "analytics", "integration"]}}


def run(recipe):
    own = "frontend:\napi:\n"
    port = f"  server_port: {recipe.port}\n"
    recipe.write("config/configuration.yaml", own + recipe.text("yaml") + port)
    recipe.write("config/.storage/onboarding", json.dumps(ONBOARDED))
    recipe.run(f"hass --script auth --config config add ann {PASSWORD}")
    app = recipe.start("hass --config config --skip-pip --ignore-os-check")
    visitor = recipe.visitor()
    with recipe.step("a user logs in"):
        token = log_in(recipe, visitor)
        expect(visitor.get("/api/states", headers={"Authorization": "Bearer wrong"}), 401)
    with recipe.step("the WebSocket carries commands and events"):
        hears_events(recipe.visitor(), token)
    with recipe.step("the dashboard appears in a browser after the login"), recipe.browser() as browser:
        see(browser, recipe.url)

    recipe.protect()
    with recipe.step("behind the tunnel's password, API and WebSocket work with the token of Home Assistant"):
        hears_events(recipe.signed_in(), token)
    with recipe.step("and without it neither does"):
        expect(recipe.visitor().get("/api/", headers={"Authorization": f"Bearer {token}"}), 401)
    recipe.offer(recipe.services)
    app.end()

    recipe.write("config/configuration.yaml", own + "http:\n" + port)
    recipe.start("hass --config config --skip-pip --ignore-os-check")
    with recipe.step("without the lines in configuration.yaml it is 400"):
        expect(recipe.visitor().get("/"), 400)


def log_in(recipe, visitor):
    """As the login page does it."""
    client = f"{recipe.url}/"
    expect(visitor.get("/"))
    asked = {"client_id": client, "handler": ["homeassistant", None], "redirect_uri": f"{client}?auth_callback=1"}
    flow = expect(visitor.post("/auth/login_flow", json=asked)).json()["flow_id"]
    answer = {"client_id": client, "username": "ann", "password": PASSWORD}
    code = expect(visitor.post(f"/auth/login_flow/{flow}", json=answer)).json()["result"]
    form = {"grant_type": "authorization_code", "code": code, "client_id": client}
    return expect(visitor.post("/auth/token", data=form)).json()["access_token"]


def hears_events(visitor, token):
    bearer = {"Authorization": f"Bearer {token}"}
    expect(visitor.get("/api/states", headers=bearer))
    with visitor.websocket("/api/websocket") as socket:
        receive = lambda: json.loads(socket.recv(timeout=PATIENCE))
        assert receive()["type"] == "auth_required"
        socket.send(json.dumps({"type": "auth", "access_token": token}))
        assert receive()["type"] == "auth_ok"
        socket.send(json.dumps({"id": 1, "type": "subscribe_events", "event_type": "bell"}))
        assert receive()["success"]
        expect(visitor.post("/api/events/bell", json={"door": "front"}, headers=bearer))
        assert receive()["event"]["data"] == {"door": "front"}


# Fields and pages are in shadow roots.
FIND = """((selector) => {
    const look = (root) => root.querySelector(selector) ??
        [...root.querySelectorAll("*")].map((one) => one.shadowRoot && look(one.shadowRoot)).find((found) => found);
    return look(document);
})"""


def see(browser, url):
    browser.open(url)
    browser.wait_for("the login's form", f"!!{FIND}('input[type=password]')", 90)
    for field, text in (("input[name=username]", "ann"), ("input[type=password]", PASSWORD)):
        browser.evaluate(f"{FIND}('{field}').focus()")
        browser.do("Input.insertText", text=text)
    for kind in ("keyDown", "keyUp"):
        browser.do("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    # The page has its contents from the WebSocket.
    browser.wait_for("the sidebar", f"!!{FIND}('.user-badge, ha-user-badge')", 90)
