# One entry point for every command. `make demo` and `make test` are all that a newcomer needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: demo test check format bench capture-run faults fuzz mutation conformance audit-deps sbom wheel requirements readme screenshots clean
demo: $(VENV)/.run
	@$(BIN)/quarterhour demo $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

# Formats, lints, checks types and layers. Types are checked on an installed copy: see DECISIONS.md.
check: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check .
	rm -rf build/typed && $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target build/typed .
	MYPYPATH=build/typed $(BIN)/python -m mypy -p quarterhour
	$(BIN)/python -m pytest tests/test_layers.py

bench: $(VENV)/.dev
	$(BIN)/python bench/calculate.py
	$(BIN)/python bench/recalculate.py
	$(BIN)/python bench/cds.py
	$(BIN)/python bench/sign_off.py
	$(BIN)/python bench/round_trips.py

# 10,000 visits captured while requests fail and workers are killed. Takes a quarter of an hour.
capture-run: $(VENV)/.dev
	$(BIN)/python bench/capture.py $(ARGS)

# At least 10,000 injected faults against every way out; writes docs/faults.md. Takes a while.
faults: $(VENV)/.dev
	$(BIN)/python bench/faults.py $(ARGS)

# Whether the tests notice a changed rule: docs/mutation.md. About ten minutes of one core; not part of CI.
mutation: $(VENV)/.dev
	PYTHONHASHSEED=0 $(BIN)/python bench/mutation.py $(ARGS)

wheel: $(VENV)/.dev
	$(BIN)/python -m build --no-isolation --wheel --outdir dist .

# After a change of dependencies in pyproject.toml; needs uv.
requirements:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet pyproject.toml --group build -o requirements.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet pyproject.toml --group dev -o requirements-dev.txt

# What is published in manifests/ and docs/conformance.md, from the code and the names of the tests.
conformance: $(VENV)/.dev
	$(BIN)/quarterhour manifests manifests
	$(BIN)/python tests/test_manifests.py

# Known vulnerabilities of everything that is pinned; ends with 2 where some of it could not be checked, for instance
# without a way to the package index. Findings are answered in docs/audit-answers.toml.
audit-deps: $(VENV)/.dev
	@$(BIN)/python docs/pip_audit_latest.py --requirement requirements.txt --disable-pip --require-hashes --format json --progress-spinner off 2>/dev/null | $(BIN)/python docs/audit_dependencies.py

# The software bill of materials of what is installed to run, CycloneDX JSON.
sbom: $(VENV)/.dev
	mkdir -p dist && $(BIN)/cyclonedx-py requirements requirements.txt --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.cdx.json

# 120,000 inputs, in parts of 20,000 that are not done again when it is stopped and started anew; about a quarter of an hour of
# one quiet core. `make fuzz FUZZ=500000` for more.
fuzz: $(VENV)/.dev
	$(BIN)/python bench/fuzz.py $(or $(FUZZ),120000) $(ARGS)

readme: $(VENV)/.dev
	$(BIN)/python tests/test_readme.py

screenshots: $(VENV)/.dev
	$(BIN)/python docs/screenshots.py

clean:
	rm -rf $(VENV) build dist *.egg-info

define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Quarterhour needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python -a -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Python could not make a virtual environment. On Debian: apt install python3-venv"; exit 1; }
	@echo "Installing pinned dependencies from $(1) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(1)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
endef

$(VENV)/.run: requirements.txt pyproject.toml
	$(call install,requirements.txt)

$(VENV)/.dev: requirements-dev.txt pyproject.toml
	$(call install,requirements-dev.txt)
	@touch $(VENV)/.run
