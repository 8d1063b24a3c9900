"""`/openapi.json`: all protected routes, and nothing of what the host app has beside them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Blueprint, Flask
from flask.testing import FlaskClient
from marshmallow import Schema, fields

from jobserver import JobServer
from jobserver.http import guard
from tests.integration.web.conftest import MakeShop
from tests.integration.web.shop import TOKEN

ADMIN = {"Authorization": f"Bearer {TOKEN}"}


class OrderSchema(Schema):
    """An order of the shop's."""

    number = fields.Integer(required=True)


def document(client: FlaskClient, prefix: str = "/engine") -> dict[str, Any]:
    response = client.get(f"{prefix}/openapi.json", headers=ADMIN)
    assert response.status_code == 200
    found: dict[str, Any] = response.get_json()
    return found


def operations(found: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (path, method): operation
        for path, item in found["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    }


def protected(app: Flask) -> set[tuple[str, str]]:
    """Every method of every rule that `protect` guards as API."""
    return {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        if (blueprint := app.blueprints.get(rule.endpoint.rpartition(".")[0])) is not None
        if guard.protection_of(blueprint) is not None
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


@pytest.fixture
def described(make_shop: MakeShop) -> Flask:
    """A shop with a plain blueprint of its own that the job server protects."""
    app = make_shop()
    orders = Blueprint("orders", __name__, url_prefix="/orders")

    @orders.post("/<int:number>")
    @JobServer.describe(body=OrderSchema, answers={201: OrderSchema}, errors=(409,))
    def place(number: int) -> tuple[dict[str, int], int]:
        """Place an order."""
        return {"number": number}, 201

    @orders.get("/<int:number>")
    def show(number: int) -> dict[str, int]:
        """Show an order."""
        return {"number": number}

    JobServer.protect(orders, role="user", seed=True)
    app.register_blueprint(orders)
    return app


def test_every_protected_route_is_in_the_document_and_no_other(described: Flask) -> None:
    found = document(described.test_client())
    assert set(operations(found)) == protected(described)
    assert found["openapi"].startswith("3.1.")


def test_every_operation_says_what_it_is_and_has_an_id_of_its_own(described: Flask) -> None:
    found = operations(document(described.test_client()))
    assert all(operation["summary"] for operation in found.values())
    ids = [operation["operationId"] for operation in found.values()]
    assert len(set(ids)) == len(ids)


def test_a_plain_view_is_described_by_what_is_noted_on_it(described: Flask) -> None:
    found = document(described.test_client())
    place = found["paths"]["/orders/{number}"]["post"]
    order = {"$ref": "#/components/schemas/Order"}
    assert place["requestBody"]["content"] == {"application/json": {"schema": order}}
    assert place["responses"]["201"]["content"] == {"application/json": {"schema": order}}
    assert {"400", "401", "403", "404", "409", "413", "415", "422", "503"} <= set(
        place["responses"]
    )
    assert found["components"]["schemas"]["Order"]["required"] == ["number"]


def test_errors_are_described_as_problems(admin: FlaskClient) -> None:
    found = document(admin)
    response = found["components"]["responses"]["NOT_FOUND"]
    assert response["content"] == {
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
    }


def test_an_open_route_asks_for_no_credential_and_others_do(admin: FlaskClient) -> None:
    found = document(admin)
    assert operations(found)["/engine/health", "get"]["security"] == []
    assert found["security"] == [{"bearer": []}, {"session": []}]
    assert "401" not in operations(found)["/engine/health", "get"]["responses"]


@pytest.mark.parametrize("prefix", ["", "/deep/er"])
def test_the_document_lies_below_the_prefix(make_shop: MakeShop, prefix: str) -> None:
    client = make_shop(url_prefix=prefix).test_client()
    assert f"{prefix}/api/v1/jobs/{{job_id}}" in document(client, prefix)["paths"]


def test_the_document_takes_a_viewers_token(visitor: FlaskClient, ada: FlaskClient) -> None:
    assert visitor.get("/engine/openapi.json").status_code == 401
    assert ada.get("/engine/openapi.json").status_code == 403


def test_the_document_can_be_opened_to_everybody(make_shop: MakeShop) -> None:
    client = make_shop(open_routes=frozenset({"docs"})).test_client()
    found = client.get("/engine/openapi.json")
    assert found.status_code == 200
    assert operations(found.get_json())["/engine/openapi.json", "get"]["security"] == []


def test_two_apps_have_documents_of_their_own(described: Flask, make_shop: MakeShop) -> None:
    other = make_shop(url_prefix="/other")
    assert "/orders/{number}" in document(described.test_client())["paths"]
    assert "/orders/{number}" not in document(other.test_client(), "/other")["paths"]


def test_making_the_document_leaves_the_hosts_errors_alone(described: Flask) -> None:
    client = described.test_client()
    document(client)
    assert client.get("/missing").text == "the shop has no such page"
    assert client.get("/wrong").text == "the shop's own handler"
