# Everything a user or CI runs. `make test` from a fresh clone needs Python 3.11 to 3.13, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
WORKERS ?= 2

.PHONY: help test lint types imports unit random demo bench performance gpu gpu-check notebook clean

help:
	@echo "make test      lint, type check, import check and all tests"
	@echo "make random    random programs that no run before has met, eagerly and compiled"
	@echo "make demo      train three models eagerly and compiled, compare, plot"
	@echo "make bench     time the workloads of benchmarks/ beside PyTorch and JAX"
	@echo "make performance  the same into docs/performance.md, and how steps grow with batch, width and depth"
	@echo "make gpu       check and time this machine's GPU beside the CPU and PyTorch, in at most 8 minutes"
	@echo "make gpu-check run all tests of GPU kernels on this machine's GPU, beside the PTX machine"
	@echo "make notebook  run the notebook and store its outputs"
	@echo "make clean     remove the environment and everything generated"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "tracejit needs Python 3.11 to 3.13; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each extra, so that the demo does not wait for the test tools.
$(VENV)/.extra-%: pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[$*]'
	@touch $@

lint: $(VENV)/.extra-test
	$(BIN)/ruff check .

types: $(VENV)/.extra-test
	$(BIN)/mypy

imports: $(VENV)/.extra-test
	$(BIN)/lint-imports --no-logo

unit: $(VENV)/.extra-test
	$(BIN)/python -m pytest -q -n $(WORKERS)

test: lint types imports unit

# Random programs that no run before has met, unless SEED names its seed.
random: SEED ?= $(shell date +%s)
random: $(VENV)/.extra-test
	TRACEJIT_RANDOM_PROGRAMS=3000 $(BIN)/python -m pytest -q -n $(WORKERS) --hypothesis-seed=$(SEED) -k random tests

demo: $(VENV)/.extra-demo
	$(BIN)/python -m tracejit.tools.demo --out demo_out

bench: $(VENV)/.extra-bench
	$(BIN)/tracejit bench --json bench.json

# BENCH='--rounds 5 --seconds 0.25' takes half an hour.
performance: $(VENV)/.extra-bench
	@# The first command fails if a peer's results differ, which is no reason to leave out the second.
	$(BIN)/tracejit bench $(BENCH) --json benchmarks/results/latest.json --write docs/performance.md; failed=$$?; \
	  PYTHONPATH=src:. $(BIN)/python benchmarks/scaling.py --json benchmarks/results/scaling.json \
	  --plot docs/scaling.svg && exit $$failed

gpu: $(VENV)/.extra-test
	PYTHONPATH=src:. $(BIN)/python -m benchmarks.gpu.suite

gpu-check: $(VENV)/.extra-test
	$(BIN)/tracejit doctor
	$(BIN)/python -m pytest -q tests/cuda

notebook: $(VENV)/.extra-test
	$(BIN)/jupyter-execute --inplace notebooks/*.ipynb

clean:
	rm -rf $(VENV) build dist demo_out .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
