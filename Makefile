# `make demo` and `make test` do everything on a fresh machine; both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test setup lint lock clean

demo: .venv/.ready
	@$(BIN)/bcaf-serve demo --output demo-events.jsonl

test: .venv/.ready lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder $(PYTEST_ARGS)

setup: .venv/.ready

lint: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# uv installs the pinned set several times faster than pip; it is fetched into the environment itself.
.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 15) else "Python 3.11 to 3.14 is needed: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "setting up .venv (once; the packages take about 7 GB)"
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

lock:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra kafka --extra postgres --extra otel --extra redis --extra alerts --extra faster-whisper \
		--no-header --no-annotate pyproject.toml -o requirements.lock

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
