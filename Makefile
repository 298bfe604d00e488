# What to type: `make repro`, then `make ui`. The README has the same commands for people without make.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# DVC and matplotlib would otherwise keep small files outside the project.
export DVC_SITE_CACHE_DIR := $(CURDIR)/.cache/dvc
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
# For the UI: one worker and no job runner take a sixth of the memory of the defaults.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: repro test quick lint ui clean

repro: .venv/installed
	dvc repro
	@python -m stages.show

test: lint
	pytest

quick: lint
	pytest -m "not slow"

lint: .venv/installed
	ruff check .
	ruff format --check .
	mypy

ui: .venv/installed
	@python -m stages.show | tail -n 1
	mlflow server --workers 1 --host 127.0.0.1 --port 5000 \
		--backend-store-uri sqlite:///$(CURDIR)/mlflow.db

# What `make repro` made, the cache included; committed results stay.
clean:
	rm -rf artifacts checkpoints dvc_plots mlruns mlflow.db* .cache .dvc/cache .dvc/tmp

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	pip install --quiet --disable-pip-version-check -r requirements.lock
	pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
