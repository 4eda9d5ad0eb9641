PYTHON ?= python3

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env demo test docs benchmark reproduce-mnist lint format clean

help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22

env: .venv/.installed ## Create .venv with the project and its tools, at the pinned versions.

.venv/.installed: pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check \
		--editable '.[dev]' --constraint constraints.txt
	touch $@

demo: env ## Meta-train a small rule and compare it; then train a Keras model with `general`, untuned.
	.venv/bin/python -m experiments.quadratic \
		--flagfile=experiments/configs/quadratic_demo.flags --output_dir=results/demo
	.venv/bin/python -m experiments.keras_fit --rule=general --network=mlp64x2_relu --batch_size=64 \
		--baselines=adam,muon_cosine --output_dir=results/demo_keras_fit

test: env ## Run all the tests that this machine can run.
	.venv/bin/pytest -n 2 --dist=loadfile --no-loadscope-reorder

docs: env ## Build the documentation into build/site.
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict
	@echo "Open build/site/index.html"

benchmark: env ## Time meta-steps and inner steps next to JAX and PyTorch, where installed.
	.venv/bin/python -m benchmarks.engine --output=benchmarks/results.json

# Rules by name, and the paper's curves to draw behind ours: make reproduce-mnist REFERENCE_CURVES=FILE
MNIST_RULES = mnist_lstm mnist_rnnprop
MNIST = .venv/bin/python -m experiments.mnist --flagfile=experiments/configs/mnist_tables.flags \
	--rule=$(subst $(eval) ,$(comma),$(MNIST_RULES)) $(MNIST_REFERENCES)
MNIST_REFERENCES = $(if $(REFERENCE_CURVES),--reference_curves=$(REFERENCE_CURVES))
comma = ,
# Where a search for rates would take longest.
MNIST_QUICK = --baselines=adam,nag --num_tuning_tasks=2
MNIST_TABLES = $(addprefix results/mnist/,base steps200 units40 layers2 relu)
MNIST_LONG_TABLES = $(addprefix results/mnist/,steps2000 relu_steps2000)
.PHONY: $(MNIST_TABLES) $(MNIST_LONG_TABLES) results/mnist/figure6

# The longest first, two at a time: one alone leaves a core idle while it traces.
reproduce-mnist: env ## Remake MNIST tables and figures from the saved rules (TFDS_DATA_DIR).
	$(MAKE) --jobs=2 --output-sync=target \
		results/mnist/figure6 $(MNIST_LONG_TABLES) $(MNIST_TABLES)
	.venv/bin/python -m experiments.mnist.report --output_dir=results/mnist $(MNIST_REFERENCES)

$(MNIST_TABLES): env
	$(MNIST) --variant=$(notdir $@) $(MNIST_FLAGS) --output_dir=$@

$(MNIST_LONG_TABLES): env
	$(MNIST) --variant=$(notdir $@) --num_tasks=4 --num_other_tasks=2 $(MNIST_QUICK) $(MNIST_FLAGS) \
		--output_dir=$@

results/mnist/figure6: env
	$(MNIST) --figure6 --num_tasks=8 $(MNIST_QUICK) --output_dir=$@

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
