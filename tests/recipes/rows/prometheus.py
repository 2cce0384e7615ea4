"""Prometheus: queries, and the links in its alerts."""

import http.server
import json
import queue
import shlex
import threading

from document import DOMAIN
from stack import PATIENCE
from visitor import expect

SECTION = "Prometheus"
DEBIAN = {"prometheus": "prometheus", "curl": "curl"}

RULE = """
groups:
  - name: test
    rules: [{ alert: Always, expr: "vector(1)" }]
"""
CONFIG = """
global: {{ evaluation_interval: 1s }}
rule_files: [rule.yml]
alerting: {{ alertmanagers: [{{ static_configs: [{{ targets: ["127.0.0.1:{alerts}"] }}] }}] }}
"""
PAGE = "Prometheus Time Series"


class Alertmanager(http.server.ThreadingHTTPServer):
    """Takes the alerts that Prometheus sends; `links` are what mails about them would contain."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Alerts)
        self.links = queue.Queue()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Alerts(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        for alert in json.loads(self.rfile.read(int(self.headers["Content-Length"]))):
            self.server.links.put(alert["generatorURL"])
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def run(recipe):
    check(recipe, 0, f"{recipe.url}/", "on a subdomain")
    recipe.offer(f"{recipe.services}strip_prefix = false\n")
    check(recipe, 1, f"https://{DOMAIN}/{recipe.names[0]}/", "on a path route")


def check(recipe, number, base, words):
    alerts = Alertmanager()
    recipe.write("rule.yml", RULE)
    recipe.write("prometheus.yml", CONFIG.format(alerts=alerts.server_address[1]))
    # Prometheus learns its Alertmanagers after the first evaluation, and repeats an alert after a minute by default.
    own = "--config.file=prometheus.yml --storage.tsdb.path=data --rules.alert.resend-delay=1s"
    app = recipe.start(f"{recipe.text('sh', number).strip()} {own}")
    app.wait("a server that is ready", lambda: "ready to receive web requests" in app.said())
    visitor = recipe.visitor(f"https://{DOMAIN}" if DOMAIN in base.split("/") else None)
    with recipe.step(f"redirects lead to the page {words}"):
        page = expect(visitor.get(base))
        assert PAGE in page.text and page.url.startswith(base), page.url
    with recipe.step(f"the page opens in a browser {words}"), recipe.browser() as browser:
        browser.open(base)
        browser.wait_for("the menu", "document.readyState === 'complete' && document.querySelector('nav a') !== null")
        # A script of Debian's page has an error of its own.
        missing = [complaint for complaint in browser.complaints if complaint.startswith("Failed to load")]
        assert browser.evaluate("location.href").startswith(base) and not missing, missing
    with recipe.step(f"a query with quotation marks, as curl sends it, is answered {words}"):
        query = shlex.quote(f'{base}api/v1/query?query=label_replace(vector(7),"a","b","","")')
        for version in ("--http1.1", "--http2"):
            answer = json.loads(recipe.run(f"curl --silent --globoff --fail {version} {query}", env=recipe.as_client()))
            assert answer["data"]["result"][0]["value"][1] == "7", answer
    with recipe.step(f"the link in an alert leads to its graph {words}"):
        link = alerts.links.get(timeout=PATIENCE)
        assert link.startswith(base), link
        assert PAGE in expect(visitor.get(link)).text
    app.end()
    alerts.shutdown()
    alerts.server_close()
