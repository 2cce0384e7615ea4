"""noVNC: a desktop in a browser."""

from stack import free_port

SECTION = "noVNC"
DEBIAN = {"websockify": "websockify", "novnc": "novnc", "Xtigervnc": "tigervnc-standalone-server"}


def run(recipe):
    desktop = free_port()
    # It takes a display that is free, and prints its number.
    recipe.start(f"Xtigervnc -SecurityTypes None -localhost -rfbport {desktop} -displayfd 1", desktop)
    recipe.start(recipe.text("sh").replace(":5900\n", f":{desktop}\n"))
    path_route = recipe.text("text").strip()
    with recipe.step("the desktop comes on a subdomain"):
        connects(recipe, f"{recipe.url}/vnc.html?autoconnect=1", f"wss://{recipe.host}/websockify")
    with recipe.step("the desktop comes on a path route with path="):
        connects(recipe, f"{path_route}&autoconnect=1", f"wss://{path_route.split('/')[2]}/{recipe.names[0]}/websockify")
    with recipe.step("not on a path route without it"), recipe.browser() as browser:
        browser.open(f"{path_route.partition('?')[0]}?autoconnect=1")
        browser.wait_for_websocket("failed", "404")
    recipe.protect()
    with recipe.step("the desktop comes behind the tunnel's password"):
        connects(recipe, recipe.url_with_password("/vnc.html?autoconnect=1"), f"wss://{recipe.host}/websockify")


def connects(recipe, url, websocket):
    with recipe.browser() as browser:
        browser.open(url)
        browser.wait_for("a connection", "document.documentElement.classList.contains('noVNC_connected')")
        browser.wait_for("the screen", "document.querySelector('#noVNC_container canvas').width > 0")
        browser.websocket_stays(websocket)
