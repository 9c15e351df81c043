# make run: see the whole series succeed. make test: check it. Neither needs another step before it.
BIN := .venv/bin
export PYTHON

.PHONY: run test test-all lab refresh address lint bench soak pictures load

run: .venv/installed
	@$(BIN)/python tools/notebooks.py run

# Under 8 minutes on two cores.
test: .venv/installed
	@$(BIN)/python tools/test.py fast

# All tests, the fast ones first: under 25 minutes on two cores.
test-all: test .venv/installed-for-system-tests
	@$(BIN)/python tools/test.py rest

lab: .venv/installed
	@$(BIN)/jupyter lab notebooks

refresh: .venv/installed
	@$(BIN)/python tools/notebooks.py refresh

# The project's page on GitHub, in badges, first cells and wherever else it stands: make address URL=https://github.com/...
address: .venv/installed
	@$(BIN)/python tools/notebooks.py address "$(URL)"

lint: .venv/installed
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

bench: .venv/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt -c constraints.txt
	@$(BIN)/python -m benchmarks.run

# At length: the dashboard 50 times open and close, 20 kills of it and of trainings; 8 clients log 200 runs each,
# here and on a server.
soak: .venv/installed-for-system-tests
	@DASHBOARD_CYCLES=50 DASHBOARD_KILLS=20 CLIENT_RUNS=200 TRAINING_KILLS=20 $(BIN)/python -m pytest -q tests/system \
		-k "cycles or kills or many_processes or random_moment or eight_clients"

# The dashboard's pictures.
pictures: .venv/installed-for-system-tests
	@PYTHONPATH=.:tests $(BIN)/python tools/screenshots.py

# 50 clients for a minute.
load: .venv/installed
	@$(BIN)/python -m benchmarks.dashboard_load

.venv/installed: requirements.txt constraints.txt tests/requirements.txt tools/install.sh
	@tools/install.sh requirements.txt tests/requirements.txt
	@touch $@

.venv/installed-for-system-tests: .venv/installed tests/requirements-system.txt
	@tools/install.sh tests/requirements-system.txt
	@touch $@
