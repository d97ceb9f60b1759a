PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint install clean

demo: install  ## a picture of the bundled model's work, offline
	$(BIN)/outmask demo --out out/demo

test: install  ## the test suite; set OUTMASK_DATA to run the tests on real data too
	$(BIN)/python -m pytest

lint: install  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: .venv/installed

# torch comes first and alone, so that the pinned build is the one that everything else is resolved against.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "outmask needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv out
