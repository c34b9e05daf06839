# Every target sets up what it needs; after the first time, `make demo` and `make test` start at once.
#
#   make demo     search the digits example: Pareto front, report and models in runs/digits/
#   make test     all tests, the browser tests included
#   make lint     style, types
#
# PYTHON=python3.12       another interpreter (3.11 or newer)
# TORCH_INDEX=<url>       another index for torch, e.g. https://download.pytorch.org/whl/cpu
# ARGS="-k recipe -x"     arguments for pytest
# WORKERS=2               processes that share the tests

PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3.12),python3)
TORCH_INDEX ?=
ARGS ?=
WORKERS ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
STAMP := .venv/.installed
ROOMS := spaces compressors evaluators search
CODE := $(ROOMS) tests benchmarks

.DEFAULT_GOAL := test
.PHONY: setup demo test lint format bench clean chromium postgresql

setup: $(STAMP)

# torch goes first and pinned: resolved together with the rest, it may bring gigabytes of other builds.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "paretopress needs Python 3.11 or newer; name one with PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || { echo "Creating .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "Installing into .venv (a few minutes the first time)"
	@$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/paretopress search runs/digits.yaml --fresh

test: $(STAMP) chromium postgresql
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# $(call install,PACKAGE,WHAT IT IS FOR,WHAT ELSE CAN BE DONE,ITS TESTS' MARKER): by apt, where it may be.
define install
	if [ "$$(id -u)" = 0 ]; then as_root=""; else as_root="sudo -n"; fi; \
	echo "Installing $(1) for the tests of $(2)"; \
	if command -v apt-get >/dev/null && $$as_root apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -y -qq $(1) >/dev/null; then exit 0; fi; \
	echo "The tests of $(2) need $(1), and it couldn't be installed here."; \
	echo "Install it (Debian: apt-get install -y $(1)), or $(3),"; \
	echo "or leave those tests out: make setup && $(BIN)/pytest -m 'not $(4)'"; exit 1
endef

# The report is tested in a real browser. CHROMIUM=/path/to/chromium names one that isn't on the PATH.
chromium:
	@if [ -n "$$CHROMIUM" ] || command -v chromium || command -v chromium-browser; then exit 0; fi >/dev/null; \
	$(call install,chromium,the report,set CHROMIUM to the path of one,browser)

# Runs can be recorded in PostgreSQL, which is tested against a real server; the tests start one of their own.
postgresql:
	@if command -v initdb || ls /usr/lib/postgresql/*/bin/initdb; then exit 0; fi >/dev/null 2>&1; \
	$(call install,postgresql,storage,put its initdb and pg_ctl on the PATH,postgresql)

lint: $(STAMP)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy $(ROOMS:%=-p paretopress.%)

format: $(STAMP)
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

bench: $(STAMP)
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
