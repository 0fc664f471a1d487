PYTHON ?= python3
BIN := .venv/bin

unexport PYTHONDONTWRITEBYTECODE # the demo and the tests start hundreds of processes

.PHONY: demo test quick check assure clean

demo: .venv/installed
	$(BIN)/vesica demo

test: .venv/installed
	$(BIN)/python -m pytest -q -n 3 --dist worksteal

quick: check
	VESICA_QUICK=1 $(BIN)/python -m pytest -q -n 2 -m 'not two_nodes'

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks tests/psi tests/protocol tests/cli tests/support tests/scripts tests/node

assure: .venv/installed
	$(BIN)/python tests/assure/assure.py

.venv/installed: pyproject.toml setup.py $(wildcard psi/*.c psi/curve/*)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vesica needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
