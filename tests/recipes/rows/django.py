"""Django: forms behind HTTPS."""

import re

from visitor import expect

SECTION = "Django"
PYPI = ["django==5.2.19"]

OWNER = {"DJANGO_SUPERUSER_USERNAME": "ann", "DJANGO_SUPERUSER_PASSWORD": "as5hAe3o", "DJANGO_SUPERUSER_EMAIL": "ann@example.com"}
# A page that shows which address Django takes as its own.
URLS = """
from django.contrib import admin
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("admin/", admin.site.urls), path("here", lambda request: HttpResponse(request.build_absolute_uri()))]
"""


def run(recipe):
    recipe.run("django-admin startproject home . && python manage.py migrate")
    recipe.run("python manage.py createsuperuser --noinput", env=OWNER)
    recipe.write("home/urls.py", URLS)
    settings = (recipe.folder / "home/settings.py").read_text()
    serve = recipe.text("sh").replace("runserver", "runserver --noreload")

    def started(more, debug=False):
        recipe.write("home/settings.py", settings.replace("DEBUG = True", f"DEBUG = {debug}") + more)
        return recipe.start(serve)

    app = started(recipe.text("python"))
    with recipe.step("the login's form is accepted"):
        assert "Site administration" in log_in(recipe, 200)
    with recipe.step("absolute links have the public address"):
        assert recipe.visitor().get("/here").text == f"{recipe.url}/here"
    app.end()

    app = started(recipe.text("python") + "SECURE_SSL_REDIRECT = True\nSESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True\n")
    with recipe.step("SECURE_SSL_REDIRECT does not redirect what came by HTTPS"):
        assert "Site administration" in log_in(recipe, 200)
    app.end()

    app = started(recipe.text("python", without=["SECURE_PROXY_SSL_HEADER"]))
    with recipe.step("without SECURE_PROXY_SSL_HEADER the login is refused and links are http"):
        assert "CSRF" in log_in(recipe, 403)
        assert recipe.visitor().get("/here").text == f"http://{recipe.host}/here"
    app.end()

    app = started(recipe.text("python", without=["SECURE_PROXY_SSL_HEADER"]) + "SECURE_SSL_REDIRECT = True\n")
    with recipe.step("without it, SECURE_SSL_REDIRECT redirects endlessly"):
        answer = recipe.visitor().get("/here", allow_redirects=False)
        assert answer.headers["Location"] == answer.url, answer.headers
    app.end()

    trusted = f'CSRF_TRUSTED_ORIGINS = ["{recipe.url}"]\n'
    app = started(recipe.text("python", without=["SECURE_PROXY_SSL_HEADER"]) + trusted)
    with recipe.step("CSRF_TRUSTED_ORIGINS alone lets forms in, but links stay http"):
        assert "Site administration" in log_in(recipe, 200)
        assert recipe.visitor().get("/here").text == f"http://{recipe.host}/here"
    app.end()

    recipe.offer(recipe.services + 'host_header = "local"\n')
    app = started(recipe.text("python", without=["ALLOWED_HOSTS"]), debug=True)
    with recipe.step("with host_header = local, ALLOWED_HOSTS is not needed in development"):
        assert "Site administration" in log_in(recipe, 200)
    app.end()
    started("", debug=True)
    with recipe.step("but SECURE_PROXY_SSL_HEADER is"):
        assert "CSRF" in log_in(recipe, 403)


def log_in(recipe, status):
    visitor = recipe.visitor()
    page = expect(visitor.get("/admin/"))
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text).group(1)
    form = {"username": "ann", "password": OWNER["DJANGO_SUPERUSER_PASSWORD"], "csrfmiddlewaretoken": token, "next": "/admin/"}
    return expect(visitor.post(page.url, data=form), status).text
