# Two commands for a newcomer: `make quickstart` and `make test`. Both create .venv on first use, install pinned versions
# (constraints.txt), say what they do, and can be repeated at will.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# PIP_CONSTRAINT rather than --constraint: it also pins what builds the package.
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-kubernetes check lint bench clean

help:  ## list the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Fondaco needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ...")'
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# One stamp per set of extras: pip runs again only when what it would install has changed.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing fondaco[$*] (pinned in constraints.txt; a minute or two the first time)"
	@$(PIP) install --editable '.[$*]'
	@echo "compiling the kernels into the cache"
	@$(BIN)/python -m fondaco.warm
	@touch $@

quickstart: $(VENV)/.installed-quickstart  ## the main job on real data: graph, features, training set, model, push, reads (under 3 minutes)
	@$(BIN)/fondaco quickstart

test: $(VENV)/.installed-quickstart,dev,bench  ## the whole test suite, but what needs a Kubernetes API server
	@env -u KUBECONFIG $(BIN)/python -m pytest -n 3 --dist loadgroup --ignore=tests/kubernetes --ignore=tests/deploy

# On a user's own cluster: make test-kubernetes KUBECONFIG=...; what it needs: tests/kubernetes_cluster.py. Otherwise on a real control plane
# of our own, built once.
test-kubernetes: $(VENV)/.installed-quickstart,dev,bench  ## data services and manifests on a real Kubernetes API server (built at the first call: 4 to 12 minutes)
	@if [ -z "$$KUBECONFIG" ]; then tests/kubernetes/build_control_plane.sh; fi
	@$(BIN)/python -m pytest tests/kubernetes tests/deploy -n 3 --dist loadgroup

lint: $(VENV)/.installed-quickstart,dev,bench  ## ruff, mypy --strict, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## what CI runs: ruff, mypy --strict, the import layers, then the tests

bench: $(VENV)/.installed-quickstart,dev,bench  ## every benchmark against its peers (about 50 minutes; results in benchmarks/results/)
	@benchmarks/install_peers.sh
	@$(BIN)/python -m benchmarks

clean:  ## remove .venv and caches
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
