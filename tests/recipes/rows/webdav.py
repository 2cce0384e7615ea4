"""WebDAV: files listed, copied and moved by rclone."""

import os

from document import DOMAIN
from recipe import PASSWORD

SECTION = "WebDAV with rclone"
DEBIAN = {"rclone": "rclone"}


def run(recipe):
    served, here = recipe.folder / "files", recipe.folder / "here"
    for folder in (served, here):
        folder.mkdir()
    (served / "old ü.txt").write_text("here already")
    (here / "large.bin").write_bytes(os.urandom(30 << 20))
    recipe.start(recipe.text("sh"))
    recipe.protect()
    client = recipe.as_client()

    with recipe.step("rclone lists the files, with the password alone"):
        listed = recipe.run(recipe.text("sh", 1).replace("PASSWORD", f"'{PASSWORD}'"), env=client)
        assert listed.splitlines()[-1].split() == ["12", "old", "ü.txt"], listed
        said = recipe.fails("rclone --webdav-user= --webdav-pass= --retries=1 ls files:", env=client)
        assert "401" in said, said
    with recipe.step("30 MiB are uploaded and downloaded"):
        recipe.run("rclone copy here files: && rclone check --one-way --download here files:", env=client)
    with recipe.step("COPY and MOVE reach a name that has to be encoded"):
        copy_and_move(recipe, served, client)
    recipe.offer(f'{recipe.services}host_header = "local"\n')
    with recipe.step("the same with host_header = local"):
        copy_and_move(recipe, served, client)

    # The document sends readers to a subdomain, because of this.
    with recipe.step("on a path route rclone shows an empty folder, without an error"):
        path_route = f"https://{DOMAIN}/{recipe.names[0]}/"
        assert recipe.run(f"rclone --webdav-url={path_route} --webdav-user= --webdav-pass= ls files:", env=client) == ""


def copy_and_move(recipe, served, client):
    recipe.run("rclone copyto files:large.bin 'files:a folder/ü copy.bin'", env=client)
    recipe.run("rclone moveto files:large.bin 'files:a folder/ü moved.bin'", env=client)
    assert sorted(path.name for path in (served / "a folder").iterdir()) == ["ü copy.bin", "ü moved.bin"]
    assert (served / "a folder/ü moved.bin").read_bytes() == (recipe.folder / "here/large.bin").read_bytes()
    assert not (served / "large.bin").exists()
    recipe.run("rclone moveto 'files:a folder/ü moved.bin' files:large.bin", env=client)
    assert (served / "large.bin").exists()
