"""A container registry: images pushed and pulled by `skopeo`."""

import gzip
import hashlib
import io
import json
import os
import tarfile

from recipe import PASSWORD
from visitor import expect

SECTION = "Container registry"
DEBIAN = {"docker-registry": "docker-registry", "skopeo": "skopeo", "curl": "curl"}

CONFIG = """
version: 0.1
storage: {{ filesystem: {{ rootdirectory: {folder}/data }} }}
http: {{ addr: 127.0.0.1:{port} }}
"""


def run(recipe):
    config = recipe.write("config.yml", CONFIG.format(folder=recipe.folder, port=recipe.port))
    recipe.start(f"docker-registry serve {config}")
    write_image(recipe.folder / "image")
    client, public = recipe.as_client(), f"docker://{recipe.host}/image"
    copy = "skopeo --insecure-policy copy --quiet"

    with recipe.step("an image of 8 MiB is pushed and pulled"):
        recipe.run(f"{copy} dir:image {public}:1 && {copy} {public}:1 dir:back", env=client)
        assert contents(recipe.folder / "back") == contents(recipe.folder / "image")
    with recipe.step("an upload is sent to the public address"):
        answer = expect(recipe.visitor().post("/v2/image/blobs/uploads/"), 202)
        assert answer.headers["Location"].startswith(f"{recipe.url}/v2/image/blobs/uploads/"), answer.headers

    recipe.protect()
    with recipe.step("behind the tunnel's password, clients need it"):
        said = recipe.fails(f"{copy} dir:image {public}:2", env=client)
        assert "unauthorized" in said, said
        login = f"'ann:{PASSWORD}'"
        recipe.run(f"{copy} --dest-creds {login} dir:image {public}:2", env=client)
        recipe.run(f"{copy} --src-creds {login} {public}:2 dir:again", env=client)
        assert contents(recipe.folder / "again") == contents(recipe.folder / "image")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_image(folder):
    """Writes an image of one layer, in the form that `skopeo` calls `dir`."""
    folder.mkdir()

    def blob(kind, content):
        digest = hashlib.sha256(content).hexdigest()
        (folder / digest).write_bytes(content)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}

    archive, content = io.BytesIO(), os.urandom(8 << 20)
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("content")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    root = {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(archive.getvalue()).hexdigest()]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": root, "config": {}}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": blob("application/vnd.docker.container.image.v1+json", config),
        "layers": [blob("application/vnd.docker.image.rootfs.diff.tar.gzip", gzip.compress(archive.getvalue()))],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "version").write_text("Directory Transport Version: 1.1\n")
