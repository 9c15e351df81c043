# make run: see the whole series succeed. make test: check it. Neither needs another step before it.
BIN := .venv/bin
export PYTHON

.PHONY: run test lab refresh lint bench soak pictures load

run: .venv/installed
	@$(BIN)/python tools/notebooks.py run

test: .venv/installed
	@$(BIN)/python tools/test.py

lab: .venv/installed
	@$(BIN)/jupyter lab notebooks

refresh: .venv/installed
	@$(BIN)/python tools/notebooks.py refresh

lint: .venv/installed
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

bench: .venv/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt -c constraints.txt
	@$(BIN)/python -m benchmarks.run

# At length: the dashboard 50 times open and close, 20 kills of it and of trainings; 8 clients log 200 runs each,
# here and on a server.
# Then the dashboard's pictures; 50 clients for a minute.
soak: .venv/installed
	@DASHBOARD_CYCLES=50 DASHBOARD_KILLS=20 $(BIN)/python -m pytest -q tests/test_dashboard.py -k "cycles or kills"
	@CLIENT_RUNS=200 TRAINING_KILLS=20 $(BIN)/python -m pytest -q tests/test_survival.py tests/test_team.py \
		-k "many_processes or random_moment or eight_clients"

pictures: .venv/installed
	@PYTHONPATH=.:tests $(BIN)/python tools/screenshots.py

load: .venv/installed
	@$(BIN)/python -m benchmarks.dashboard_load

.venv/installed: requirements.txt constraints.txt tests/requirements.txt
	@tools/install.sh
