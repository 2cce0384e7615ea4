"""What all parts of the test go by: names, places, how to run something and how to wait for it."""

import pathlib
import subprocess
import time

HERE = pathlib.Path("/acceptance")
HOME = pathlib.Path("/root")
DOMAIN = "tunnel.example.com"
SITE = f"alice.{DOMAIN}"
AUTHORITY = HERE / "authority.pem"
PATIENCE = 40


class NotTrue(Exception):
    pass


def explained(error):
    return f"{error} {getattr(error, 'stderr', '') or ''}"


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def until(what, done):
    end = time.monotonic() + PATIENCE
    while not (found := done()):
        if time.monotonic() > end:
            raise NotTrue(f"waited in vain for: {what}")
        time.sleep(0.1)
    return found


def none_of(left):
    if left:
        raise NotTrue(f"not in the documents any more: {sorted(left)}")
