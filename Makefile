# Each target installs what it needs into .venv; only Python >= 3.11 and make have to be there.

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
BIN := .venv/bin
# Most tests wait for processes most of the time: three at once keep two cores busy.
TESTS = $(BIN)/pytest -n 3 --dist loadfile -m "not soak and not alone" && $(BIN)/pytest -m "alone and not soak" $(ALONE)
ALONE = $$(grep -rl --include='test_*.py' 'mark\.alone' tests)
SOURCES := jobserver jobs tests benchmarks wsgi.py

.DEFAULT_GOAL := help
.PHONY: help run dev test check bench soak clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/app  ## Start the whole system in the foreground; Ctrl-C stops it
	@exec $(BIN)/python -m jobserver.supervise

dev: .venv/app  ## As run, and start programs again when their code changes
	@exec $(BIN)/python -m jobserver.supervise --dev

test: .venv/all  ## Run the tests, but for the soak tests
	$(TESTS)

check: .venv/all  ## Check style, types and imports, then run the tests
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(TESTS)

bench: .venv/all  ## Measure against stock RQ
	$(BIN)/python -m benchmarks

soak: .venv/all  ## Run the soak tests, which take minutes
	$(BIN)/pytest -m soak

clean:  ## Remove what the other targets made, but not instance/ and .env
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The stamps are newer than what they were installed from, so that a second run starts at once.
.venv/app: setup.cfg pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[app]'
	@touch $@

.venv/all: setup.cfg pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[app,test,dev]'
	@touch .venv/app $@

.venv/bin/python:
	$(if $(PYTHON),,$(error Python 3.11 or later is needed: make PYTHON=/path/to/python))
	$(PYTHON) -m venv .venv
