"""Alert rules and dashboard: every metric, label and value that they name is in a real scrape."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from click import Group
from flask import Flask
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.integration.web.conftest import AskAs

ROOT = Path(__file__).parents[3]
OPERATIONS = ROOT / "docs" / "operations"
FROM_PROMETHEUS = {"job", "instance"}  # labels that it adds to whatever it scrapes

# What PromQL has beside selectors: functions are followed by (, and these words by none.
_WORDS = {"and", "or", "unless", "bool", "offset"}
_LABEL_LIST = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"\b([a-zA-Z_:][\w:]*)\b(?!\s*\()(?:\s*\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_LABEL_VALUES = re.compile(r"label_values\((.+),\s*(\w+)\)")


class Selector(NamedTuple):
    """A metric as an expression names it: its matchers as (label, operator, value)."""

    name: str
    matchers: list[tuple[str, str, str]]


def selectors(expression: str) -> list[Selector]:
    bare = re.sub(r"\[[^\]]*\]", "", _LABEL_LIST.sub("", expression))
    return [
        Selector(name, _MATCHER.findall(matchers))
        for name, matchers in _SELECTOR.findall(bare)
        if name not in _WORDS
    ]


def grouped(expression: str) -> set[str]:
    """Return the labels by which an expression groups or joins."""
    lists = _LABEL_LIST.findall(expression)
    return {label.strip() for one in lists for label in one.split(",") if label.strip()}


def alerts() -> list[dict[str, Any]]:
    rules = yaml.safe_load((OPERATIONS / "alerts.yml").read_text())
    return [rule for group in rules["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((OPERATIONS / "grafana.json").read_text())
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            found = _LABEL_VALUES.fullmatch(variable["query"]["query"])
            assert found, variable["name"]
            yield variable["name"], f"count by ({found[2]}) ({found[1]})"


@pytest.fixture
def families(ask_as: AskAs) -> list[Metric]:
    """What the application of the seeds tells."""
    response = ask_as("viewer").get(
        "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"}
    )
    return list(text_string_to_metric_families(response.text))


def test_expressions_are_taken_apart() -> None:
    assert selectors('max by (job) (rate(a_total{q=~"$q", s="x y"}[5m])) > 1 unless b == 2') == [
        Selector("a_total", [("q", "=~", "$q"), ("s", "=", "x y")]),
        Selector("b", []),
    ]
    assert grouped("max by (job, queue) (a) / on (le) group_left () b") == {"job", "queue", "le"}


def test_what_alerts_and_dashboard_name_is_in_a_scrape(families: list[Metric]) -> None:
    samples = [sample for family in families for sample in family.samples]
    labels: dict[str, dict[str, set[str]]] = {}
    for sample in samples:
        of_metric = labels.setdefault(sample.name, {})
        for label, value in sample.labels.items():
            of_metric.setdefault(label, set()).add(value)
    wrong = []
    for where, expression in expressions():
        found = selectors(expression)
        assert found, f"{where}: no metric in {expression!r}"
        known = set(FROM_PROMETHEUS)
        for name, matchers in found:
            if name not in labels:
                wrong.append(f"{where}: there is no {name}")
                continue
            known |= set(labels[name])
            for label, operator, value in matchers:
                values = labels[name].get(label, set())
                if label not in labels[name] and label not in FROM_PROMETHEUS:
                    wrong.append(f"{where}: {name} has no {label}")
                elif operator == "=" and not value.startswith("$") and value not in values:
                    wrong.append(f"{where}: no {label} of {name} is {value!r}")
        wrong += [f"{where}: nothing has {label}" for label in grouped(expression) - known]
    assert wrong == []


def test_every_metric_is_on_the_dashboard_and_in_its_document(families: list[Metric]) -> None:
    shown = {name for _, expression in expressions() for name, _ in selectors(expression)}
    document = (OPERATIONS / "metrics.md").read_text()
    for family in families:
        assert {sample.name for sample in family.samples} & shown, f"no panel has {family.name}"
    ends = {"counter": "_total", "info": "_info"}
    told = {family.name + ends.get(family.type, "") for family in families}
    assert set(re.findall(r"^\| `(\w+)`", document, re.MULTILINE)) == told


def test_alerts_say_what_is_wrong_and_for_how_long() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names)
    for rule in alerts():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[mh]", rule["for"])
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        grouping = grouped(rule["expr"])
        for label in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
            assert label in grouping


def test_commands_that_are_recommended_exist(seeds: Flask) -> None:
    text = "".join((OPERATIONS / name).read_text() for name in ("alerts.yml", "metrics.md"))
    jobs = seeds.cli.commands["jobs"]
    assert isinstance(jobs, Group)
    assert set(re.findall(r"flask jobs ([a-z-]+)", text)) <= set(jobs.commands)


def test_the_dashboard_can_be_imported_beside_any_data_source() -> None:
    found = dashboard()
    panels = [panel for panel in found["panels"] if panel["type"] != "row"]
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert all(panel["datasource"] == source for panel in panels)
    assert found["templating"]["list"][0]["type"] == "datasource"
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)
    places = [panel["gridPos"] for panel in found["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert max(x for x, _ in cells) < 24
