"""Kinto: records, and pages of them."""

from visitor import expect

SECTION = "Kinto"
PYPI = ["kinto==26.5.0"]
ANN = ("ann", "ieYae5oh")


def run(recipe):
    recipe.run("kinto init --ini kinto.ini --backend memory --cache-backend memory --host 127.0.0.1")
    text = (recipe.folder / "kinto.ini").read_text()

    def started(lines):
        recipe.write("kinto.ini", text.replace("[app:main]\n", f"[app:main]\n{lines}"))
        return recipe.start(f"kinto start --ini kinto.ini --port {recipe.port}")

    app = started(recipe.text("ini"))
    with recipe.step("records are written, and their pages are followed over HTTPS"):
        assert expect(recipe.visitor().get("/v1/")).json()["url"] == f"{recipe.url}/v1/"
        assert following(recipe).startswith(f"{recipe.url}/v1/")
    app.end()
    started("")
    with recipe.step("without kinto.http_scheme the next page is http"):
        assert following(recipe).startswith(f"http://{recipe.host}/v1/")


def following(recipe):
    """Writes three records, and asks for two; where the next page is."""
    visitor = recipe.visitor()
    expect(visitor.put("/v1/accounts/ann", json={"data": {"password": ANN[1]}}), 201)
    records = "/v1/buckets/default/collections/tasks/records"
    for name in "abc":
        expect(visitor.post(records, json={"data": {"name": name}}, auth=ANN), 201)
    page = expect(visitor.get(f"{records}?_limit=2", auth=ANN))
    assert len(page.json()["data"]) == 2, page.text
    following = page.headers["Next-Page"]
    if following.startswith("https:"):
        assert len(expect(visitor.get(following, auth=ANN)).json()["data"]) == 1
    return following
