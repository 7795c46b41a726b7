# Two commands for a fresh machine: `make run` opens the app, `make test` runs the suite.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: run test check audit lock format clean cluster-test

run: $(VENV)/.app
	$(BIN)/python app.py $(ARGS)

# In two processes; tests/conftest.py says which tests stay together. ARGS="-n 0 …" runs them in one.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# Ray lives in an environment of its own: it is large, and only a cluster needs it.
cluster-test: $(VENV)-cluster/.done
	$(VENV)-cluster/bin/python -m pytest -s tests/cluster $(ARGS)

$(VENV)-cluster/.done: requirements-cluster.txt requirements-dev.txt requirements.txt
	$(PYTHON) -m venv $(VENV)-cluster
	$(VENV)-cluster/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-cluster.txt -r requirements-dev.txt
	@touch $@

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.audit

# Known holes in the locked versions; says so plainly where the advisory database cannot be reached.
audit: $(VENV)/.dev
	$(BIN)/python -m tests.audit

# Exact versions with the hashes of all their files, for every platform at once. The second is for an image whose torch
# comes from another index, where its files (and so their hashes) are others.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	--custom-compile-command "make lock" requirements.txt

lock: $(VENV)/.dev
	$(LOCK) -o requirements.lock
	echo "torch; python_version < '3'" | $(LOCK) --override - -o requirements-without-torch.lock

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.app: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.app
