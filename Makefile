# The two commands of this project: `make demo` and `make test`. Both install into .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: help demo test test-browser torture check format clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

demo: $(VENV)/.train ## rollouts to pairs to a trained policy, on the samples
	@bash data/samples/demo.sh $(BIN) runs/demo

test: check ## what CI runs: check, then all tests but those of the browser
	$(BIN)/python -m pytest -m "not browser" --numprocesses auto --dist loadfile --no-loadscope-reorder

test-browser: $(VENV)/.test ## what CI runs too: the pages in Chromium, which the system has to have
	@$(BIN)/python -m tests.browser
	$(BIN)/python -m pytest -m browser --numprocesses auto --dist loadfile --no-loadscope-reorder

torture: $(VENV)/.test ## kill -9 at 200 points of a run; each must end as if nothing had been
	DPO_TORTURE_KILLS=$${DPO_TORTURE_KILLS:-200} $(BIN)/python -m pytest --capture no tests/test_torture.py -k killed

check: $(VENV)/.test ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.test ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and the demo's run
	rm -rf $(VENV) runs/demo

$(VENV)/.train: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing dpo with the extra train into $(VENV) (a minute or two)"
	@$(PIP) --editable '.[train]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing dpo with the extras train, test and dev into $(VENV) (a minute or two)"
	@$(PIP) --editable '.[train,test,dev]'
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
