# Every target makes its own set-up in .venv; another interpreter: make PYTHON=python3.12 …
PYTHON ?= python3
BIN := .venv/bin
RUN := .venv/.run-ready
DEV := .venv/.dev-ready

# make soak SECONDS=3600 SEED=7
SECONDS ?= 600
SEED ?= $(shell date +%s)

.PHONY: demo test lint types check soak store-crashes lmdb-tests clean
.DEFAULT_GOAL := test

demo: $(RUN)
	@$(BIN)/zrep demo

test: lint types check

lint: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(DEV)
	$(BIN)/mypy --strict

check: $(DEV)
	$(BIN)/pytest -q

soak: $(DEV)
	$(BIN)/python -m tests.processes.chaos --seconds $(SECONDS) --seed $(SEED)

# The store after a crash of the operating system, at every moment of 200 runs: some minutes.
store-crashes: $(DEV)
	ZREP_STORE_CRASHES=200 $(BIN)/pytest -q -s tests/test_store_crashes.py

# py-lmdb's own tests, on a group of one and on the master of three.
lmdb-tests: $(DEV)
	$(BIN)/python -m tests.lmdb_suite
	$(BIN)/python -m tests.lmdb_suite --three

$(RUN): pyproject.toml .ci/venv.py
	@$(PYTHON) .ci/venv.py .venv .
	@touch $@

$(DEV): pyproject.toml .ci/venv.py
	@$(PYTHON) .ci/venv.py .venv '.[dev]'
	@touch $@ $(RUN)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
