# Every target makes its own set-up in .venv; another interpreter: make PYTHON=python3.12 …
PYTHON ?= python3
BIN := .venv/bin
RUN := .venv/.run-ready
DEV := .venv/.dev-ready

.PHONY: demo test lint types check clean
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

$(RUN): pyproject.toml .ci/venv.py
	@$(PYTHON) .ci/venv.py .venv .
	@touch $@

$(DEV): pyproject.toml .ci/venv.py
	@$(PYTHON) .ci/venv.py .venv '.[dev]'
	@touch $@ $(RUN)

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
