"""Asks a running Prometheus every question of the dashboard, and says which ones it does not understand.

    dashboard.py ADDRESS DASHBOARD
"""

import json
import sys
import urllib.error
import urllib.parse
import urllib.request

address, path = sys.argv[1:]
with open(path, encoding="utf-8") as file:
    dashboard = json.load(file)
variables = {"$__rate_interval": "1m", "$instance": ".*", "$client": ".*"}
ids = [panel["id"] for panel in dashboard["panels"]]
assert len(ids) == len(set(ids)), f"two panels have the same id: {sorted(ids)}"
asked = empty = 0
for panel in dashboard["panels"]:
    for target in panel.get("targets", []):
        question = target["expr"]
        for name, value in variables.items():
            question = question.replace(name, value)
        assert "$" not in question, f"{panel['title']}: {question} has a variable that nobody sets"
        query = urllib.parse.urlencode({"query": question})
        try:
            with urllib.request.urlopen(f"http://{address}/api/v1/query?{query}", timeout=5) as answer:
                asked += 1
                empty += not json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            sys.exit(f"{panel['title']}: {question}: {error.read().decode()}")
# What nothing has happened of yet has no value; most of it has.
assert asked > 30 and empty < asked / 2, f"{empty} of {asked} questions have no answer"
print(f"{asked} questions, {asked - empty} with an answer")
