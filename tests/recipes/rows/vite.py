"""Vite: hot reload."""

import hot_reload
from recipe import remove
from visitor import expect

SECTION = "Vite"
NPM = ["vite@8.3.8"]
DEBIAN = {"node": "nodejs", "npm": "npm"}

WEBSOCKET = "wss://vite-alice.tunnel.example.com/"


def run(recipe):
    recipe.write(recipe.place / "index.html", "<!DOCTYPE html><p id='text'></p><script type='module' src='/main.js'></script>")
    source = recipe.write(
        recipe.place / "main.js", "document.querySelector('#text').textContent = 'first'; import.meta.hot.accept();"
    )
    app = started(recipe, "export default {};\n")
    with recipe.step("hot reload works with host_header = local"):
        hot_reload.check(recipe, source, WEBSOCKET)
    recipe.offer(remove(recipe.services, "host_header"))
    with recipe.step("with neither, every page is 403"):
        expect(recipe.visitor().get("/"), 403)
    app.end()

    started(recipe, recipe.text("js"))
    with recipe.step("hot reload works with allowedHosts"):
        hot_reload.check(recipe, source, WEBSOCKET)


def started(recipe, settings):
    recipe.write(recipe.place / "vite.config.mjs", settings)
    return recipe.start(f"vite {recipe.place} --host 127.0.0.1 --port {recipe.port} --strictPort")
