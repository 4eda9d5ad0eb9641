PYTHON ?= python3
export TF_CPP_MIN_LOG_LEVEL ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env demo test benchmark lint format clean

help: ## List the targets.
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

env: .venv/.installed ## Create .venv with the project and its tools, at the pinned versions.

.venv/.installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[dev]' --constraint constraints.txt
	touch $@

demo: env ## Meta-train a small rule and compare it; then train a Keras model with a learned rule.
	.venv/bin/python -m experiments.quadratic \
		--flagfile=experiments/configs/quadratic_demo.flags --output_dir=results/demo
	TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m experiments.keras_fit --output_dir=results/demo_keras_fit

test: env ## Run all the tests that this machine can run.
	.venv/bin/pytest -n 2 --dist=loadfile

benchmark: env ## Time meta-steps and inner steps beside JAX and PyTorch, where installed.
	.venv/bin/python -m benchmarks.engine --output=benchmarks/results.json

lint: env ## Check style, formatting and types.
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: env ## Format the code, and fix what ruff can fix.
	.venv/bin/ruff check --fix-only .
	.venv/bin/ruff format .

clean: ## Remove what make, pip and the tools have built, but not results/.
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
