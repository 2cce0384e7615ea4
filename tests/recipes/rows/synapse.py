"""Synapse: a Matrix client's day."""

import threading

from road import VISITOR
from visitor import expect

SECTION = "Synapse"
PYPI = ["matrix-synapse==1.163.2"]
API = "/_matrix/client/v3"


def run(recipe):
    recipe.run(recipe.text("sh"))
    generated = recipe.places.fill_in((recipe.folder / "homeserver.yaml").read_text())
    more, serve = recipe.text("yaml"), recipe.text("sh", 1)
    recipe.write("homeserver.yaml", f"{generated}\n{more}")
    app = recipe.start(serve, patience=90)
    for user in ("ann", "bob"):
        recipe.run(f"register_new_matrix_user -c homeserver.yaml -u {user} -p {user}-Oozae4 --no-admin http://127.0.0.1:{recipe.port}")
    visitor = recipe.visitor()
    with recipe.step("a client finds the server by its name, and logs in"):
        found = expect(visitor.get("/.well-known/matrix/client")).json()
        assert found["m.homeserver"]["base_url"] == f"{recipe.url}/", found
        assert "v1.11" in expect(visitor.get("/_matrix/client/versions")).json()["versions"]
        ann, bob = logged_in(visitor, "ann"), logged_in(visitor, "bob")
    with recipe.step("other servers are told to use port 443"):
        assert expect(visitor.get("/.well-known/matrix/server")).json() == {"m.server": f"{recipe.host}:443"}
    with recipe.step("the account shows the visitor's own address"):
        devices = expect(visitor.get(f"{API}/devices", headers=ann)).json()["devices"]
        assert {device["last_seen_ip"] for device in devices} - {None} == {VISITOR}, devices
    with recipe.step("a long poll ends with the message that it waited for"):
        assert heard(recipe, ann, bob) == "hello"
    with recipe.step("media is uploaded and downloaded"):
        sent = b"x" * 1_000_000
        uri = expect(visitor.post("/_matrix/media/v3/upload?filename=a.bin", data=sent, headers={**ann, "Content-Type": "application/octet-stream"})).json()["content_uri"]
        media = f"/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}"
        assert expect(visitor.get(media, headers=bob)).content == sent
    app.end()

    recipe.write("homeserver.yaml", generated)
    recipe.start(serve, patience=90)
    with recipe.step("without public_baseurl a client does not find the server"):
        expect(recipe.visitor().get("/.well-known/matrix/client"), 404)


def logged_in(visitor, user):
    who = {"type": "m.id.user", "user": user}
    asked = {"type": "m.login.password", "identifier": who, "password": f"{user}-Oozae4"}
    return {"Authorization": f"Bearer {expect(visitor.post(f'{API}/login', json=asked)).json()['access_token']}"}


def heard(recipe, ann, bob):
    """What Bob's long poll ends with when Ann writes."""
    visitor = recipe.visitor()
    room = expect(visitor.post(f"{API}/createRoom", json={"preset": "public_chat"}, headers=ann)).json()["room_id"]
    expect(visitor.post(f"{API}/join/{room}", json={}, headers=bob))
    since = expect(visitor.get(f"{API}/sync", headers=bob)).json()["next_batch"]
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(recipe.visitor().get(f"{API}/sync?timeout=25000&since={since}", headers=bob)))
    waiting.start()
    # The poll may begin after the message: then it ends at once, with the same.
    expect(visitor.put(f"{API}/rooms/{room}/send/m.room.message/1", json={"msgtype": "m.text", "body": "hello"}, headers=ann))
    waiting.join(60)
    events = expect(answers[0]).json()["rooms"]["join"][room]["timeline"]["events"]
    return events[-1]["content"]["body"]
