"""`/docs`: the API's document as a page, without a script."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, current_app, render_template

from jobserver.http.openapi import document

_LIMITS = (
    *("minimum", "exclusiveMinimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"),
    *("pattern", "default"),
)


def blueprint() -> Blueprint:
    """Return the page; whoever registers it says who may see it."""
    routes = Blueprint(
        "jobserver_docs",
        __name__,
        template_folder="templates",
        static_folder="docs_static",
        static_url_path="/docs/static",
    )

    @routes.get("/docs")
    def show_docs() -> str:
        """Show all routes by their tags, and the schemas."""
        found = document(current_app)
        return render_template(
            "jobserver/docs.html", document=found, tags=_by_tag(found), limits=_LIMITS
        )

    return routes


def _by_tag(found: dict[str, Any]) -> list[dict[str, Any]]:
    tags = {tag["name"]: tag | {"operations": []} for tag in found["tags"]}
    for path, item in found["paths"].items():
        shared = item.get("parameters", [])
        for method, operation in item.items():
            if method == "parameters":
                continue
            parameters = shared + operation.get("parameters", [])
            tags[operation["tags"][0]]["operations"].append(
                {"path": path, "method": method, "operation": operation, "parameters": parameters}
            )
    return [tag for tag in tags.values() if tag["operations"]]
