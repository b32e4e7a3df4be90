# Two commands do everything: `make demo` and `make test`. Both make .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint bench soak lock clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   two agents, two sidecars, mutual TLS: the whole story on this machine"
	@echo "make test   every test; names what is missing on this machine and skips that (with CI set: fails)"
	@echo "make lint   ruff, mypy strict"
	@echo "make bench  what a pair of proxies costs, against others; PEERS=nginx,envoy ROWS=http ROUNDS=3 SECONDS=2 for a part"
	@echo "make soak   the long forms of the tests that have one"

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "sidecar needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing pinned dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP)
	@$(BIN)/sidecar demo

test: $(STAMP)
	@$(BIN)/python -m tests.run

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

BENCH := $(if $(PEERS),--peers $(PEERS)) $(if $(ROWS),--rows $(ROWS)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	$(if $(SECONDS),--seconds $(SECONDS))

bench: export GHOSTUNNEL := $(GHOSTUNNEL)
bench: $(STAMP)
	$(BIN)/python -m bench $(BENCH)

soak: $(STAMP)
	SIDECAR_SOAK=1 $(BIN)/python -m tests.run -m soak

lock:
	@echo "needs uv: writes requirements.lock from pyproject.toml"
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--python-version 3.11 --all-extras --group dev pyproject.toml --output-file requirements.lock

clean:
	rm -rf $(VENV) .bench .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
