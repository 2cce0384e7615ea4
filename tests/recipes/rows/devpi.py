"""devpi: its own client and pip."""

import zipfile

from recipe import without
from visitor import expect

SECTION = "devpi"
PYPI = ["devpi-server==6.20.3", "devpi-client==7.3.0"]
WHEEL = {
    "spade.py": "",
    "spade-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: spade\nVersion: 1.0\n",
    "spade-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: recipes\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "spade-1.0.dist-info/RECORD": "spade.py,,\nspade-1.0.dist-info/METADATA,,\nspade-1.0.dist-info/WHEEL,,\nspade-1.0.dist-info/RECORD,,\n",
}


def run(recipe):
    init, serve = recipe.text("sh"), recipe.text("sh", 1).strip()
    recipe.run(init)
    app = recipe.start(f"{serve} --offline-mode", patience=90)
    with recipe.step("the addresses that the client is told are public"):
        told = addresses(recipe)
        assert told["login"] == f"{recipe.url}/+login", told
    client = {**recipe.as_client(), "PIP_CONFIG_FILE": "/dev/null"}
    with recipe.step("devpi's client logs in and makes an index"):
        recipe.run(f"devpi use {recipe.url} && devpi login root --password= && devpi index -c tools bases= && devpi use root/tools", env=client)
    with recipe.step("a package is uploaded, and pip installs it"):
        with zipfile.ZipFile(recipe.folder / "spade-1.0-py3-none-any.whl", "w") as wheel:
            for name, text in WHEEL.items():
                wheel.writestr(name, text)
        recipe.run("devpi upload spade-1.0-py3-none-any.whl", env=client)
        index = f"{recipe.url}/root/tools/+simple/"
        recipe.run(f"pip install --quiet --no-deps --index-url {index} --target installed spade==1.0 && test -e installed/spade.py", env=client)
    app.end()

    recipe.start(f"{without(serve, '--trusted-proxy 127.0.0.1', '--trusted-proxy-headers x-forwarded-proto')} --offline-mode", patience=90)
    with recipe.step("without the trusted proxy they are http"):
        told = addresses(recipe)
        assert told["login"] == f"http://{recipe.host}/+login", told


def addresses(recipe):
    return expect(recipe.visitor().get("/+api", headers={"Accept": "application/json"})).json()["result"]
