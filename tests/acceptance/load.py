"""Visitors who ask over HTTPS until SIGTERM, and then say how often, and how often in vain.

    load.py HOST AUTHORITY

Each comes from an address of its own and asks 50 times a second at most: the server limits what one address may do. Half of
them keep their connection, the others make a new one for each request.
"""

import http.client
import signal
import ssl
import sys
import threading

VISITORS = 8
PACE = 1 / 50

host, authority = sys.argv[1:]
trust = ssl.create_default_context(cafile=authority)
done = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: done.set())
asked, failed = [0] * VISITORS, []


def visitor(who):
    connection = None
    while not done.wait(PACE):
        source = (f"127.0.1.{who + 1}", 0)
        connection = connection or http.client.HTTPSConnection(host, timeout=20, context=trust, source_address=source)
        keep = who % 2 == 0
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200 or body != b"Hello from home\n":
                failed.append(f"{answer.status} {body[:100]}")
        except (OSError, http.client.HTTPException) as error:
            failed.append(repr(error))
            keep = False
        if not keep:
            connection.close()
            connection = None
        asked[who] += 1
        if who == 0 and asked[who] == 20:
            print("running", flush=True)


visitors = [threading.Thread(target=visitor, args=(who,)) for who in range(VISITORS)]
for thread in visitors:
    thread.start()
done.wait()
for thread in visitors:
    thread.join()
print(f"{sum(asked)} requests, {len(failed)} in vain", flush=True)
for why in failed[:5]:
    print(" ", why, flush=True)
sys.exit(bool(failed))
