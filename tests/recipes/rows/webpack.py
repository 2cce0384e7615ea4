"""webpack-dev-server: hot reload."""

import hot_reload
from recipe import remove
from visitor import expect

SECTION = "webpack-dev-server"
NPM = ["webpack@5.113.0", "webpack-cli@5.1.4", "webpack-dev-server@5.2.7"]
DEBIAN = {"node": "nodejs", "npm": "npm"}

WEBSOCKET = "wss://webpack-alice.tunnel.example.com/ws"
ALLOWED = "allowedHosts: ['webpack-alice.tunnel.example.com'],"


def run(recipe):
    recipe.write(recipe.place / "public/index.html", "<!DOCTYPE html><p id='text'></p><script src='/main.js'></script>")
    source = recipe.write(recipe.place / "src/index.js", "document.querySelector('#text').textContent = 'first'; module.hot.accept();")
    app = started(recipe, recipe.text("js"))
    with recipe.step("hot reload works with host_header = local"):
        hot_reload.check(recipe, source, WEBSOCKET)
    recipe.offer(remove(recipe.services, "host_header"))
    with recipe.step("without host_header, every page is 403"):
        expect(recipe.visitor().get("/"), 403)
    app.end()

    app = started(recipe, recipe.text("js").replace("client:", f"{ALLOWED} client:"))
    with recipe.step("hot reload works with allowedHosts instead"):
        hot_reload.check(recipe, source, WEBSOCKET)
    recipe.offer(recipe.services)
    app.end()

    started(recipe, recipe.text("js", without=["webSocketURL"]))
    with recipe.step("without webSocketURL, the page dials another address"), hot_reload.page(recipe) as browser:
        browser.wait_for_websocket("opened")
        assert not [where for what, where in browser.websockets if what == "opened" and where == WEBSOCKET], browser.websockets


def started(recipe, settings):
    recipe.write(recipe.place / "webpack.config.js", settings)
    return recipe.start(f"cd {recipe.place} && webpack serve")
