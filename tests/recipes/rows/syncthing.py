"""Syncthing: its GUI, with the check of hosts and of tokens, and events by long polling."""

import queue
import threading

from recipe import remove
from stack import PATIENCE, free_port
from visitor import expect

SECTION = "Syncthing"
DEBIAN = {"syncthing": "syncthing"}

LOGIN = ("ann", "ohPh8aeB")
# It is to announce itself to nobody.
SETTINGS = ["globalAnnounceEnabled", "localAnnounceEnabled", "relaysEnabled", "natEnabled"]


def run(recipe):
    recipe.run(f"syncthing generate --home=data --no-default-folder --gui-user={LOGIN[0]} --gui-password={LOGIN[1]}")
    config = recipe.folder / "data/config.xml"
    text = config.read_text().replace("<listenAddress>default", f"<listenAddress>tcp://127.0.0.1:{free_port()}")
    for setting in SETTINGS:
        assert f"<{setting}>true" in text, setting
        text = text.replace(f"<{setting}>true", f"<{setting}>false")
    config.write_text(text)
    recipe.start(f"syncthing serve --home=data --no-browser --gui-address=127.0.0.1:{recipe.port}")

    with recipe.step("the GUI asks for its password"):
        expect(recipe.visitor().get("/"), 401)
    with recipe.step("the GUI gets its data with its token, and not without"):
        visitor = recipe.visitor()
        visitor.auth = LOGIN
        assert "Syncthing" in expect(visitor.get("/")).text
        expect(visitor.get("/rest/system/status"), 403)
        name = next(name for name in visitor.cookies.keys() if name.startswith("CSRF-Token-"))
        visitor.headers[f"X-{name}"] = visitor.cookies[name]
        assert "myID" in expect(visitor.get("/rest/system/status")).json()
    with recipe.step("a change comes back as an event, by long polling"):
        last = expect(visitor.get("/rest/events?limit=1")).json()[-1]["id"]
        seen = queue.Queue()
        threading.Thread(target=poll, args=(visitor, last, seen), daemon=True).start()
        expect(visitor.patch("/rest/config/options", json={"maxSendKbps": 4321}))
        assert seen.get(timeout=PATIENCE) == 4321

    recipe.offer(remove(recipe.services, "host_header"))
    with recipe.step("without host_header it is 403"):
        assert "Host check error" in expect(recipe.visitor().get("/", auth=LOGIN), 403).text


def poll(visitor, last, seen):
    """Asks for events, as the GUI does, until one has the changed setting."""
    while True:
        for event in expect(visitor.get(f"/rest/events?since={last}&timeout=20")).json():
            last = event["id"]
            if event["type"] == "ConfigSaved" and event["data"]["options"]["maxSendKbps"]:
                return seen.put(event["data"]["options"]["maxSendKbps"])
