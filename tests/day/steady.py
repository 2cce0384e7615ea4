"""A visitor who asks without a pause until SIGTERM, and then says how often, and how often in vain.

    steady.py HOST:PORT NAME
"""

import http.client
import signal
import sys
import threading

address, name = sys.argv[1:]
done = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: done.set())

asked, failed = 0, []
while not done.is_set():
    # A connection of its own for each: nothing is repeated behind our back.
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request("GET", "/", headers={"Host": f"{name}.localhost"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            failed.append(f"{answer.status} {body[:100]}")
    except OSError as error:
        failed.append(repr(error))
    finally:
        connection.close()
    asked += 1
    if asked == 20:
        print("running", flush=True)

print(f"{asked} requests, {len(failed)} in vain", flush=True)
for why in failed[:5]:
    print(" ", why, flush=True)
sys.exit(bool(failed))
