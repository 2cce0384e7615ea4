"""Does with an unpacked OCI archive what an engine would: reads its configuration, unpacks its layers, and runs what it says, as
the user it says, on a root file system that cannot be written to but for the two volumes and /tmp.

    unshare --net --mount --pid --fork --kill-child python3 docker/try.py ARCHIVE FOLDER

What only an engine does is not tried: published ports, volumes that it makes, seccomp, dropped capabilities, HEALTHCHECK.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys

PATIENCE = 20
archive, root = (pathlib.Path(argument) for argument in sys.argv[1:])


def blob(descriptor):
    return archive / "blobs" / descriptor["digest"].replace(":", "/")


def run(*command):
    subprocess.run(command, check=True)


def unpack():
    """The image's configuration, and its files in `root`."""
    manifest = json.loads(blob(json.loads((archive / "index.json").read_text())["manifests"][0]).read_text())
    root.mkdir()
    for layer in manifest["layers"]:
        run("tar", "-C", root, "-xf", blob(layer))
    return json.loads(blob(manifest["config"]).read_text())["config"]


def mount():
    run("mount", "--make-rprivate", "/")
    run("mount", "--bind", root, root)
    for volume in ("etc/adit", "var/lib/adit/certs"):
        run("mount", "--bind", root / volume, root / volume)
    run("mount", "-o", "remount,bind,ro", root)
    run("mount", "-t", "tmpfs", "tmpfs", root / "tmp")
    run("ip", "link", "set", "lo", "up")


config = unpack()
uid, gid = (int(number) for number in config["User"].split(":"))
environment = {**dict(pair.split("=", 1) for pair in config["Env"]), "NO_COLOR": "1"}


def enter():
    os.chroot(root)
    os.chdir(config["WorkingDir"])
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def start(*arguments):
    return subprocess.Popen([*config["Entrypoint"], *arguments], env=environment, preexec_fn=enter, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def adit(*arguments, code=0):
    process = start(*arguments)
    said, _ = process.communicate(timeout=PATIENCE)
    if process.returncode != code:
        sys.exit(f"adit {' '.join(arguments)} has ended with {process.returncode}, not {code}:\n{said}")
    return said


def step(what):
    print(f"  ok  {what}", flush=True)


assert uid != 0 and gid != 0, "the image's user is root"
(root / "etc/adit/server.toml").write_text("[tunnel]\nlisten = '127.0.0.1:8080'\n[public]\nhttp = '127.0.0.1:9090'\n")
os.chown(root / "etc/adit/server.toml", uid, gid)
mount()
step(f"{adit('--version').strip()}, as user {uid}")
adit("token", "new", "alice", "--clients", "/etc/adit/clients.toml")
step("it writes into its volume")
server = start(*config["Cmd"])
for line in server.stdout:
    if "fingerprint" in line:
        break
step(f"the image's command serves ({' '.join(config['Cmd'])})")
health = ("health", "--config", "/etc/adit/server.toml")
step(f"adit health: {adit(*health).strip()}")
try:
    (root / "written").write_text("")
    sys.exit("the root file system can be written to")
except OSError as error:
    step(f"its root file system is read-only: {error.strerror}")
server.send_signal(getattr(signal, config["StopSignal"]))
said, _ = server.communicate(timeout=PATIENCE)
if server.returncode != 0:
    sys.exit(f"it has ended with {server.returncode}:\n{said}")
step(f"{config['StopSignal']} ends it with 0")
step(f"adit health, now: {adit(*health, code=1).strip()}")
