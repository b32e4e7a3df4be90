# Two commands do everything: `make demo` and `make test`. Both make .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The TPM library is built from tpm2-tss's headers: where they are not installed, keys in a TPM are left out.
TPM_STAMP := $(VENV)/.installed-tpm
TPM := $(shell pkg-config --exists tss2-esys tss2-mu tss2-tctildr 2>/dev/null && command -v gcc >/dev/null && echo $(TPM_STAMP))

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

$(TPM_STAMP): requirements-tpm.lock $(STAMP)
	@echo "building the TPM library into $(VENV) ..."
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --no-build-isolation \
		-r requirements-tpm.lock >$(VENV)/tpm-build.log 2>&1; then touch $@; \
	else echo "it cannot be built, so keys in a TPM are left out: see $(VENV)/tpm-build.log"; fi

demo: $(STAMP) $(TPM)
	@$(BIN)/sidecar demo

test: $(STAMP) $(TPM)
	@$(BIN)/python -m tests.run

lint: $(STAMP) $(TPM)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

BENCH := $(if $(PEERS),--peers $(PEERS)) $(if $(ROWS),--rows $(ROWS)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	$(if $(SECONDS),--seconds $(SECONDS))

bench: export GHOSTUNNEL := $(GHOSTUNNEL)
bench: $(STAMP) $(TPM)
	$(BIN)/python -m bench $(BENCH)

soak: $(STAMP) $(TPM)
	SIDECAR_SOAK=1 $(BIN)/python -m tests.run -n 0 -m soak

COMPILE := uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --python-version 3.11

lock:
	@echo "needs uv: writes requirements.lock and requirements-tpm.lock from pyproject.toml"
	$(COMPILE) --extra demo --extra pkcs11 --group dev pyproject.toml --output-file requirements.lock
	echo 'tpm2-pytss>=3' | $(COMPILE) --no-deps - --output-file requirements-tpm.lock

clean:
	rm -rf $(VENV) .bench .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
