# make run: see the whole series succeed. make test: check it. Neither needs another step before it.
BIN := .venv/bin
export PYTHON

.PHONY: run test lab refresh lint bench

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
	@$(BIN)/python benchmarks/run.py

.venv/installed: requirements.txt constraints.txt tests/requirements.txt
	@tools/install.sh
