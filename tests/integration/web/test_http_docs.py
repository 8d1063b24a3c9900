"""`/docs`: the document as a page, for people who may see it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from flask.testing import FlaskClient
from marshmallow import Schema, fields

from jobserver import JobServer, job
from tests.integration.web.conftest import MakeShop
from tests.integration.web.shop import TOKEN

ADMIN = {"Authorization": f"Bearer {TOKEN}"}


class Page(HTMLParser):
    """What a page links to, embeds, and can be linked to at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if "id" in values:
            self.ids.add(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        elif "src" in values or "href" in values:
            self.sources.append(values.get("src") or values["href"])


def test_the_page_shows_every_operation_and_schema(admin: FlaskClient) -> None:
    document = admin.get("/engine/openapi.json").get_json()
    response = admin.get("/engine/docs")
    assert (response.status_code, response.mimetype) == (200, "text/html")
    page = Page(response.text)
    ids = {
        operation["operationId"]
        for item in document["paths"].values()
        for method, operation in item.items()
        if method != "parameters"
    }
    assert ids <= page.ids
    assert {f"schema-{name}" for name in document["components"]["schemas"]} <= page.ids
    # No link within the page leads nowhere.
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids


def test_the_page_needs_no_script_and_no_other_host(admin: FlaskClient) -> None:
    response = admin.get("/engine/docs")
    page = Page(response.text)
    assert "script" not in page.tags
    assert "style" not in page.tags
    assert not re.search(r"\son\w+=|\sstyle=", response.text)
    assert page.sources
    assert all(source.startswith("/engine/") for source in page.sources)
    for source in page.sources:
        with admin.get(source) as found:
            assert found.status_code == 200
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]


def test_what_is_declared_is_shown_as_text(admin: FlaskClient, server: JobServer) -> None:
    class Odd(Schema):
        name = fields.String(metadata={"description": "<script>alert(1)</script>"})

    odd = job(queue="mail", schema=Odd, name="shop.odd")(lambda name: None)
    object.__setattr__(odd.function, "__doc__", '<img src="x"> & more')
    server.registry.add(odd)
    text = admin.get("/engine/docs").text
    assert "<script>" not in text
    assert '<img src="x">' not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_visitors_sign_in_first_and_users_are_refused(
    visitor: FlaskClient, ada: FlaskClient
) -> None:
    response = visitor.get("/engine/docs")
    assert (response.status_code, response.headers["Location"]) == (
        303,
        "/engine/sign-in?next=/engine/docs",
    )
    assert ada.get("/engine/docs").status_code == 403
    visitor.post("/engine/sign-in", data={"token": TOKEN})
    assert visitor.get("/engine/docs").status_code == 200


def test_the_page_can_be_opened_to_everybody(make_shop: MakeShop) -> None:
    client = make_shop(open_routes=frozenset({"docs"})).test_client()
    assert client.get("/engine/docs").status_code == 200


def test_the_page_lies_below_the_prefix(make_shop: MakeShop) -> None:
    for prefix in ("", "/deep/er"):
        client = make_shop(url_prefix=prefix).test_client()
        page = Page(client.get(f"{prefix}/docs", headers=ADMIN).text)
        assert f"{prefix}/openapi.json" in page.links
