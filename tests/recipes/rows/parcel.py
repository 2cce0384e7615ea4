"""Parcel: hot reload."""

import hot_reload

SECTION = "Parcel"
NPM = ["parcel@2.16.4"]
DEBIAN = {"node": "nodejs", "npm": "npm"}

WEBSOCKET = "wss://parcel-alice.tunnel.example.com/"
HMR_HOST = "--hmr-host parcel-alice.tunnel.example.com"


def run(recipe):
    recipe.write(recipe.place / "src/index.html", "<!DOCTYPE html><p id='text'></p><script type='module' src='./main.js'></script>")
    source = recipe.write(recipe.place / "src/main.js", "document.querySelector('#text').textContent = 'first'; module.hot.accept();")
    command = f"cd {recipe.place} && {recipe.text('sh').strip()} --dist-dir {recipe.folder}/dist --cache-dir {recipe.folder}/cache"
    app = recipe.start(command)
    with recipe.step("hot reload works"):
        # Its server has nothing to say before the first change.
        hot_reload.check(recipe, source, WEBSOCKET, ready=("answered", ""))
    app.end()

    assert HMR_HOST in command
    recipe.start(command.replace(HMR_HOST, ""))
    with recipe.step("without --hmr-host, the page dials another address"), hot_reload.page(recipe) as browser:
        browser.wait_for_websocket("opened")
        assert ("opened", WEBSOCKET) not in browser.websockets, browser.websockets
