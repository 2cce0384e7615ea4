"""Wagtail: its admin pages behind HTTPS."""

import re

from visitor import expect

SECTION = "Wagtail"
PYPI = ["wagtail==8.0.1"]
OWNER = {"DJANGO_SUPERUSER_USERNAME": "ann", "DJANGO_SUPERUSER_PASSWORD": "as5hAe3o", "DJANGO_SUPERUSER_EMAIL": "ann@example.com"}
# The smallest GIF that Wagtail takes.
IMAGE = bytes.fromhex("47494638396101000100800000ffffff00000021f90401000000002c00000000010001000002024401003b")


def run(recipe):
    recipe.run("wagtail start news . && python manage.py migrate && python manage.py createsuperuser --noinput", env=OWNER)
    recipe.write("news/settings/local.py", recipe.text("python"))
    serve = f"python manage.py runserver --noreload {recipe.port}"
    app = recipe.start(serve)
    with recipe.step("the login's form is accepted"):
        visitor = logged_in(recipe, 200)
    with recipe.step("an image is uploaded"):
        token = field(expect(visitor.get("/admin/images/multiple/add/")).text)
        form = {"csrfmiddlewaretoken": token, "title": "dot"}
        script = {"X-Requested-With": "XMLHttpRequest", "X-CSRFToken": token}
        sent = visitor.post("/admin/images/multiple/add/", data=form, files={"files[]": ("dot.gif", IMAGE, "image/gif")}, headers=script)
        assert expect(sent).json()["success"], sent.text
    with recipe.step("the site's page is shown, without mixed content"):
        expect(recipe.visitor().get("/"))
    app.end()

    recipe.write("news/settings/local.py", recipe.text("python", without=["SECURE_PROXY_SSL_HEADER"]))
    recipe.start(serve)
    with recipe.step("without SECURE_PROXY_SSL_HEADER the login is refused"):
        logged_in(recipe, 403)


def field(html):
    return re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', html).group(1)


def logged_in(recipe, status):
    visitor = recipe.visitor()
    page = expect(visitor.get("/admin/"))
    form = {"username": "ann", "password": OWNER["DJANGO_SUPERUSER_PASSWORD"], "csrfmiddlewaretoken": field(page.text), "next": "/admin/"}
    answer = expect(visitor.post(page.url, data=form), status)
    assert status != 200 or answer.url == f"{recipe.url}/admin/", answer.url
    return visitor
