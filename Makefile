# Every target sets up what it needs: a virtual environment at .venv with this package in it.
# PYTHON picks the interpreter (3.11 or 3.12).
PYTHON ?= $(shell command -v python3.12 >/dev/null 2>&1 && python3.12 -c 'import venv, ensurepip' 2>/dev/null && echo python3.12 || echo python3.11)
BIN := .venv/bin
READY := .venv/.ready
DEMO := runs/demo
# Two test processes on two cores: each must keep to one thread of its own.
ONE_THREAD := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=2

.PHONY: help demo test test-all bench lint scatter clean

help:
	@echo "make demo      rooms -> stage 1 -> stage 2 -> evaluation -> runs/demo/report/report.html (no GPU)"
	@echo "make test      the test suite            make test-all  with the slow tests"
	@echo "make bench     ratios against named alternatives -> runs/bench/results.json"
	@echo "make lint      ruff and mypy             make scatter   build the optional torch-scatter"

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null || \
	  { echo "error: Chorus needs Python 3.11 or 3.12; run: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" sh evaluation/demo/run.sh $(DEMO)

test: $(READY)
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2

test-all: $(READY)
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 -m 'not gpu'

bench: $(READY)
	$(BIN)/python -m tests.bench

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A source build of about four minutes; it needs the torch that is already installed.
scatter: $(READY)
	$(BIN)/python -m pip install --quiet wheel setuptools
	$(BIN)/python -m pip install --no-build-isolation 'torch-scatter>=2.1.2'

# Numba keys its cache by file: after an edit of an inlined function in another file, the old machine code would run on.
clean:
	rm -rf runs build *.egg-info
	find . -name '*.nb[ci]' -not -path './.venv/*' -delete
