"""`python -m benchmarks [name ...]`: run the benchmarks; exit code 1 when a target is missed."""

from __future__ import annotations

import importlib
import sys

from benchmarks.measure import Report

NAMES = (
    *("enqueue", "imports", "follows", "http", "drain", "cost", "pickup", "memory"),
    *("schedules", "ledger", "search", "scrape", "users"),
)

report = Report()
for name in sys.argv[1:] or NAMES:
    print(f"-- {name}", flush=True)
    importlib.import_module(f"benchmarks.{name}").run(report)
if report.missed:
    sys.exit(f"missed: {', '.join(report.missed)}")
