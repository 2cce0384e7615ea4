"""Next.js: hot reload and server actions of its development server."""

import hot_reload
from recipe import remove

SECTION = "Next.js"
NPM = ["next@16.4.6", "react@19.3.1", "react-dom@19.3.1"]
DEBIAN = {"node": "nodejs", "npm": "npm"}

FILES = {
    "layout.js": """
        import Hydrated from './hydrated';
        export default ({ children }) => <html><body>{children}<Hydrated/></body></html>;
    """,
    # A change before the page is hydrated, or before it knows the server's state, makes Next.js reload it.
    "hydrated.js": """
        'use client';
        import { useEffect } from 'react';
        export default () => { useEffect(() => { window.hydrated = true; }, []); };
    """,
    "page.js": "export default () => <p id='text'>first</p>;",
    "form/page.js": """
        import { send } from '../actions';
        export default () => <form action={send}><input name='value' defaultValue='7'/><button id='go'>go</button></form>;
    """,
    "actions.js": """
        'use server';
        import { redirect } from 'next/navigation';
        export async function send(form) { redirect('/done?value=' + form.get('value')); }
    """,
    "done/page.js": "export default async ({ searchParams }) => <p id='text'>{(await searchParams).value}</p>;",
}
WEBSOCKET = "wss://next-alice.tunnel.example.com/_next/"


def run(recipe):
    for name, text in FILES.items():
        # Beside its packages, as in a project of one's own.
        recipe.write(recipe.place / "app" / name, text)
    app = started(recipe, "export default {};\n")
    check(recipe, "with host_header = local")

    recipe.offer(remove(recipe.services, "host_header"))
    with recipe.step("with neither, the WebSocket for hot reload is refused"), hot_reload.page(recipe) as browser:
        browser.wait_for_websocket("failed")
    app.end()

    started(recipe, recipe.text("js"))
    check(recipe, "with allowedDevOrigins")


def started(recipe, settings):
    recipe.write(recipe.place / "next.config.mjs", settings)
    command = f"next dev {recipe.place} --hostname 127.0.0.1 --port {recipe.port}"
    return recipe.start(command, env={"NEXT_TELEMETRY_DISABLED": "1"})


def check(recipe, words):
    with recipe.step(f"hot reload works {words}"):
        ready = ("received", '"type":"sync"')
        hot_reload.check(recipe, recipe.place / "app/page.js", WEBSOCKET, ready, loaded="window.hydrated === true")
    with recipe.step(f"a server action redirects to the public address {words}"), recipe.browser() as browser:
        browser.open(f"{recipe.url}/form")
        browser.wait_for("the form", "window.hydrated === true && (document.querySelector('#go').click(), true)", 60)
        browser.wait_for("what the action leads to", hot_reload.text_is("7"))
        assert browser.evaluate("location.href") == f"{recipe.url}/done?value=7"
