# Needs python3 (3.11) and nothing else. Everything lands in .venv, with the versions of requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo-out

.PHONY: setup demo test test-slow bench lint format lock clean
.DEFAULT_GOAL := setup

setup: .venv/.installed

# The lock is installed once for each of its versions; the package itself is linked, so an edit needs no new install.
.venv/.locked: requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "autopoly is tested with Python 3.11; set PYTHON=python3.11")'
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.lock
	touch $@

.venv/.installed: .venv/.locked pyproject.toml hatch_build.py
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	$(BIN)/autopoly demo $(DEMO)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -q -m "not slow and not bench"

test-slow: setup
	$(BIN)/pytest -q -m "slow"

# Quiet machine, nothing beside it: about ten minutes. benchmarks/ has more.
bench: setup
	$(BIN)/python benchmarks/speed.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:
	{ sed -n '/^#/p' requirements.lock; $(BIN)/python -m pip freeze --exclude-editable --exclude autopoly | grep -v ' @ ' \
	  | sed -E '/^(nvidia-|cuda-|triton==)/s/$$/ ; sys_platform == "linux"/'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
