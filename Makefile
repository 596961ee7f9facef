# Everything a clone needs. `make demo` and `make test` set up .venv by themselves the first time.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
export PYTHON VENV QUERY IMAGES OUT

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format build clean

help: ## list these targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

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

clean: ## remove builds and caches; .venv stays
	rm -rf build dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
