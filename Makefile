# Needs Python 3.11 or 3.12 and make, nothing else; `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
TEST_PROCESSES ?= 2
BIN := $(VENV)/bin
# A file of tests stays in one process, which makes what its tests share once. ARGS="-n 0" undoes it, for --pdb and -s.
PYTEST := $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist worksteal
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# pyright comes whole from its package; it need not ask the network for a newer one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help train test faults check format install install-dev clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 20
	@echo
	@echo '  Overrides go into ARGS: make train ARGS="py_agent=fast trainer.total_timesteps=100000"'
	@echo '  Another interpreter:    make train PYTHON=python3.12'

train: $(VENV)/.installed  ## install, then train agent=fast with the default configuration
	$(BIN)/metta-train $(if $(findstring agent=,$(ARGS)),,agent=fast) $(ARGS)

test: $(VENV)/.installed-dev  ## install, then run the tests (ARGS goes to pytest)
	$(PYTEST) $(ARGS)

faults: $(VENV)/.installed-dev  ## break runs in every way of docs/reliability.md and print what survived (half an hour)
	$(BIN)/python -m pytest tests/faults -m "slow or not slow" --durations=5 $(ARGS)

check: $(VENV)/.installed-dev  ## format, lint, types, import contracts and tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(PYTEST) $(ARGS)

format: $(VENV)/.installed-dev  ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(VENV)/.installed  ## create .venv with metta-train in it
install-dev: $(VENV)/.installed-dev  ## the same with the development tools

clean:  ## remove .venv, builds and caches; runs in train_dir stay
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 12) else 1)' || { \
	  echo 'metta-train needs Python 3.11 or 3.12; "$(PYTHON)" is '"$$($(PYTHON) --version 2>&1 || echo missing)"'.' \
	       'Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamps are newer than the files that say what to install, so an installation happens once.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing metta-train into $(VENV) (the first time takes a few minutes)'
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'Installing metta-train and its development tools into $(VENV) (the first time takes a few minutes)'
	$(PIP_INSTALL) -e ".[dev]"
	@touch $@ $(VENV)/.installed
