"""verdaccio: packages published and installed by npm."""

import json

from document import DOMAIN
from visitor import expect

SECTION = "verdaccio"
NPM = ["verdaccio@6.2.4"]
DEBIAN = {"node": "nodejs", "npm": "npm"}

CONFIG = """
storage: {folder}/storage
auth: {{ htpasswd: {{ file: {folder}/htpasswd }} }}
packages: {{ "**": {{ access: $all, publish: $authenticated }} }}
log: {{ type: stdout, format: pretty, level: warn }}
"""
USER = {"name": "ann", "password": "Iengoo5ie3ph"}


def run(recipe):
    subdomain, path_route = f"{recipe.url}/", f"https://{DOMAIN}/{recipe.names[0]}/"
    app = started(recipe)
    token = expect(recipe.visitor().put("/-/user/org.couchdb.user:ann", json=USER), 201).json()["token"]
    with recipe.step("a package is published and installed"):
        use(recipe, subdomain, token)
        publish(recipe, "@alice/one")
        assert installed(recipe, "@alice/one") == f"{subdomain}@alice/one/-/one-1.0.0.tgz"
    with recipe.step("the page opens in a browser"), recipe.browser() as browser:
        browser.open(subdomain)
        browser.wait_for("the list of packages", "document.body.innerText.includes('@alice/one')")
        assert not browser.complaints, browser.complaints
    with recipe.step("on a path route without url_prefix, the URLs of packages are 404"):
        use(recipe, path_route, token)
        publish(recipe, "@alice/two")
        expect(recipe.visitor(f"https://{DOMAIN}").get(tarball(recipe, "@alice/two")), 404)
    app.end()

    started(recipe, recipe.text("yaml"))
    with recipe.step("on a path route with url_prefix, a package is published and installed"):
        publish(recipe, "@alice/three")
        assert installed(recipe, "@alice/three") == f"{path_route}@alice/three/-/three-1.0.0.tgz"
        expect(recipe.visitor(f"https://{DOMAIN}").get(tarball(recipe, "@alice/two")))


def started(recipe, settings=""):
    config = recipe.write("config.yaml", CONFIG.format(folder=recipe.folder) + settings)
    return recipe.start(f"verdaccio --config {config} --listen 127.0.0.1:{recipe.port}")


def use(recipe, registry, token):
    """Configures npm for this registry."""
    settings = f"registry={registry}\n{registry.removeprefix('https:')}:_authToken={token}\ncafile={recipe.stack.ca}\n"
    recipe.write(".npmrc", settings + "audit=false\nfund=false\nfetch-retries=0\nupdate-notifier=false\n")


def npm(recipe, words):
    return recipe.run(f"npm {words}", env={**recipe.as_client(), "NPM_CONFIG_USERCONFIG": str(recipe.folder / ".npmrc")})


def publish(recipe, name):
    recipe.write(f"{name}/package.json", json.dumps({"name": name, "version": "1.0.0", "main": "main.js"}))
    recipe.write(f"{name}/main.js", f"module.exports = {json.dumps(name)};")
    npm(recipe, f"publish ./{name}")


def installed(recipe, name):
    """Installs a package as a dependency; where it came from."""
    recipe.write("user/package.json", "{}")
    npm(recipe, f"install --prefix user {name}")
    assert recipe.run(f"cd user && node --print \"require('{name}')\"").strip() == name
    lock = json.loads((recipe.folder / "user/package-lock.json").read_text())
    return lock["packages"][f"node_modules/{name}"]["resolved"]


def tarball(recipe, name):
    return npm(recipe, f"view {name} dist.tarball").strip()
