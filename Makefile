# The whole developer interface: make demo, make test, make check, make parity, make mutants, make bench.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := 2.13.0

.PHONY: demo test check lint parity mutants bench clean

demo: $(VENV)/.installed
	$(BIN)/concordant demo

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(VENV)/.installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

check: lint test

# Peers live in an environment of their own: they pin other versions than ours.
parity:
	$(PYTHON) tests/parity/run.py

# torch comes first and by its exact version, so that nothing else picks another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q "torch==$(TORCH)"
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[test]"
	touch $@

# Plants one bug after another in a copy of the repository: do the tests notice? ONLY="NAME NAME" plants some.
mutants: $(VENV)/.installed-test
	$(BIN)/python -m tests.mutants --jobs 2 $(if $(ONLY),--only $(ONLY))

bench: $(VENV)/.installed-test
	$(BIN)/python -m bench $(if $(QUICK),--quick) $(ONLY)

clean:
	rm -rf $(VENV) .venv-parity bench/.material runs build *.egg-info
