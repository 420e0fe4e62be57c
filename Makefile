# Every target is one call of `timberline VERB`; stages already done are skipped.
MODEL    ?= forest_cover
MODELS   ?= models
# Unset: [paths] data of model.toml, which is var/data by default.
DATA     ?=
REGISTRY ?= var/registry
HOST     ?= 127.0.0.1
PORT     ?= 8000
# Overrides of model.toml, as in SET="training.epochs=3 network.kind=mlp"
SET      ?=
PYTHON   ?= python3
ENGINE   ?= docker
# More for the engine, as in BUILD_FLAGS="--network host --build-arg PYTHON_IMAGE=registry.example/python:3.11"
BUILD_FLAGS ?=
# Where `make push` puts images, as in TO=registry.example/team
TO       ?=
VENV     ?= .venv

PY    := $(VENV)/bin/python
# One word to the shell, whatever stands in it: blanks, quotes, # and the rest; a $ is written $$, as to any make.
quoted = '$(subst ','\'',$(1))'
PLACE := $(if $(DATA),--data $(call quoted,$(DATA)))
STORE := --registry $(call quoted,$(REGISTRY))
# An image says which commit it was made of, and carries its date: the same commit makes the same labels.
REVISION = $(or $(shell git describe --always --abbrev=40 --dirty --exclude '*' 2>/dev/null),unknown)
CREATED  = $(or $(shell TZ=UTC git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd 2>/dev/null),1970-01-01T00:00:00Z)
BUILD    = $(ENGINE) build --build-arg REVISION=$(REVISION) --build-arg CREATED=$(CREATED) $(foreach date,$(SOURCE_DATE_EPOCH),--build-arg SOURCE_DATE_EPOCH=$(date) )$(BUILD_FLAGS)
STAGE := $(MODEL) --models $(call quoted,$(MODELS)) $(PLACE) $(foreach s,$(SET),--set '$(s)')

# One stage after the other, whatever -j says.
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help setup fetch etl train evaluate export gate gate-calibrate calibrate-training gate-selftest \
        history promote rollback release serve bench bench-load bench-etl bench-service bench-registry bench-attacks \
        bench-rivals-setup check test coverage test-docs test-buckets test-roles test-clients test-platforms images-test \
        deploy-test cluster-test soak fuzz-features docs diagrams \
        pictures dist lock images push sbom clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'
	@printf '%s\n' $(call quoted,  variables: MODEL=$(MODEL) DATA=$(or $(DATA),var/data) REGISTRY=$(REGISTRY) HOST=$(HOST) PORT=$(PORT) SET='section.key=value')

setup: $(VENV)/.installed ## make the environment from the lock file

# Without the mark a setup was killed: what it has left looks installed to pip and is not.
$(VENV)/.installed: requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("timberline needs Python 3.11 to 3.13") if not (3, 11) <= sys.version_info < (3, 14) else None'
	$(PYTHON) -m venv $(if $(wildcard $@),,--clear) $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index --editable .
	@touch $@

fetch: setup ## download the raw table
	@$(PY) -m timberline fetch $(STAGE)

etl: fetch ## raw table -> Parquet, features, profile
	@$(PY) -m timberline etl $(STAGE)

train: etl ## train the network
	@$(PY) -m timberline train $(STAGE)

evaluate: train ## score the test split, draw the plots
	@$(PY) -m timberline evaluate $(STAGE)

export: evaluate ## write one ONNX model and publish it as the candidate
	@$(PY) -m timberline export $(STAGE) $(STORE)

gate: setup ## judge the candidate against production
	@$(PY) -m timberline gate $(MODEL) $(PLACE) $(STORE)

gate-calibrate: setup ## measure how far identical processes differ on this kind of machine
	@$(PY) -m timberline calibrate $(MODEL)@production $(PLACE) $(STORE)

calibrate-training: etl ## train the production version's recipe on other seeds: how far do equal runs differ?
	@$(PY) -m timberline calibrate-training $(STAGE) $(STORE)

gate-selftest: setup ## hundreds of gates on known candidates: is the gate as sure as it states? hours; goes on where it stopped
	@$(PY) -m timberline selftest $(MODEL)@production $(PLACE) $(STORE)

history: setup ## every release of a model, and what changed between them
	@$(PY) -m timberline history $(MODEL) $(PLACE) $(STORE)

promote: setup ## point production at the candidate, if its verdict passes
	@$(PY) -m timberline promote $(MODEL) $(STORE)

rollback: setup ## point production back at the version before
	@$(PY) -m timberline rollback $(MODEL) $(STORE)

release: setup ## fetch, train, export, gate and promote
	@$(PY) -m timberline release $(STAGE) $(STORE)

serve: release ## release, then serve on http://HOST:PORT
	@$(PY) -m timberline serve $(MODEL) $(STORE) --host $(HOST) --port $(PORT)

bench: setup ## latency, throughput, start-up and memory of the production version
	@$(PY) -m timberline bench $(MODEL) $(PLACE) $(STORE)

bench-load: setup ## the highest rate under the latency objective, in an open loop
	@$(PY) -m timberline load $(MODEL)@production $(PLACE) $(STORE) --sweep

bench-etl: fetch ## ETL beside DuckDB's bare copy and pandas, in one run
	@$(PY) -m timberline.benchmarks etl $(STAGE)

bench-service: setup ## CPU a request of the production version, beside a no-op and other services
	@$(PY) -m timberline.benchmarks service $(MODEL) $(PLACE) $(STORE)

bench-registry: setup ## what a registry's operations take, in a folder and in a bucket, beside their bounds
	@$(PY) -m timberline.benchmarks registry $(MODEL) $(PLACE) $(STORE)
	@$(PY) -m timberline.benchmarks bucket-start $(MODEL) $(PLACE) $(STORE)

bench-attacks: setup ## what honest clients notice of attacks on the production version's service, one run
	@$(PY) -m timberline.benchmarks attacks $(MODEL) $(PLACE) $(STORE)

bench-rivals-setup: setup ## install the services that bench-service compares with, under var/rivals
	@$(PY) -m timberline.benchmarks rivals

# Files stay whole, so that what a file prepares is prepared once; in their order, in which the short ones come last.
WHOLE_FILES := --dist loadfile --no-loadscope-reorder
# mypy uses one processor: the tests need not wait for it.
beside_types = $(PY) -m mypy & types=$$!; $(PY) -m pytest $(WHOLE_FILES) $(1); tests=$$?; wait $$types || { echo "mypy found errors: see above"; exit 1; }; exit $$tests
# The thousand processes that the tests start would each compile what they import.
check test test-docs test-buckets coverage: export PYTHONDONTWRITEBYTECODE =
# Workers share the processors already: threads of TensorFlow and OpenBLAS would wait for one another, spinning.
check test coverage: export TF_NUM_INTRAOP_THREADS = 1
check test coverage: export OPENBLAS_NUM_THREADS = 1

check: setup ## what takes a minute: style, types and the unit tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(call beside_types,-n logical -q tests/unit)

test: setup ## style, types and the tests that need no environment of their own
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(call beside_types,-n auto)

coverage: setup ## the tests again, counting the lines and branches they reach; pages under var/coverage/html
	$(PY) -m coverage erase
	$(PY) -m coverage run -m pytest $(WHOLE_FILES) -n auto
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage html --quiet --fail-under=0
	$(PY) -m coverage report

test-docs: setup ## follow the README, the tutorial, its notebook and every how-to page, command by command
	$(PY) -m pytest $(WHOLE_FILES) -n auto tests/docs

test-buckets: setup ## releases with nothing shared but a bucket; kills at its requests; a server that freezes, dies or is full
	$(PY) -m pytest $(WHOLE_FILES) -n auto tests/buckets

test-roles: setup ## install each role alone from its lock file, under var/roles, import all of it; every lock file with every pip
	@$(PY) -m tests.support.roles
	TIMBERLINE_SOAK=full $(PY) -m pytest -n auto tests/contract/test_locks.py

test-platforms: setup ## the numeric and end-to-end tests under other kernels, precisions and pips; hours
	@$(PY) -m tests.platforms.matrix

test-clients: setup ## KServe's, Triton's, MLServer's and generated clients and the oldest ONNX Runtime, each in an environment under var/clients
	$(PY) -m pytest tests/clients

# A tool that is not there fails these three, unless SKIP="skopeo helm" names it; their last line counts what was proven how.
images-test deploy-test cluster-test: export SKIP ?=

images-test: setup ## build the images and run them as operators do: limits, users, signals, sizes; needs Debian's Docker
	$(PY) -m pytest tests/images

deploy-test: setup ## check deploy/: chart, AWS, pipelines and the virtual machine, by running or by their makers' tools
	$(PY) -m pytest $(WHOLE_FILES) -n auto tests/deploy

cluster-test: setup ## install the chart in a real Kubernetes, built once of Debian's source; minutes
	$(PY) -m pytest tests/cluster

dist: setup ## sdist and wheel of the last commit in dist/, built twice, compared, and each tried in an empty environment
	@$(PY) -m tests.support.dist

# Of a registry in a bucket: races, kills, lost answers, flipped bits, a server that freezes, dies or is full.
BUCKET_PROOFS = tests/buckets tests/fault/test_registry_bits.py tests/fault/test_registry_answers.py tests/fault/test_registry_races.py

soak: setup ## the long proofs in full: releases and restarts under load, a million fuzzed bodies, leaks, registries
	TIMBERLINE_SOAK=full $(PY) -m pytest -s tests/soak tests/property/test_registry_machine.py $(BUCKET_PROOFS)

fuzz-features: setup ## COUNT=200000 random features in DuckDB and in the graph, by SEED; DUCKDB=a folder of another one
	$(if $(DUCKDB),PYTHONPATH=$(DUCKDB)) $(PY) -m tests.support.feature_fuzz --count $(or $(COUNT),200000) $(if $(SEED),--seed $(SEED))

docs: setup ## the site of docs/ with search and the API reference, under var/site
	@$(PY) -m tests.support.site

diagrams: setup ## render docs/diagrams/*.dot; needs Graphviz (Debian's package graphviz)
	@$(PY) -m tests.support.diagrams

pictures: setup ## take docs/images of a real release; needs Chromium (Debian's package chromium); minutes
	@$(PY) -m tests.support.pictures

lock: setup ## write the lock files again from pyproject.toml
	$(PY) -m uv pip compile -q --universal --no-strip-extras --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --extra dev pyproject.toml -o requirements/dev.txt
	for role in serve tools train bench; do $(PY) -m uv pip compile -q --universal --no-strip-extras --generate-hashes --no-emit-index-url --no-header --python-version 3.11 $$(test $$role != serve || echo --extra s3) --extra $$role -c requirements/dev.txt pyproject.toml -o requirements/$$role.txt; done
	for rival in fastapi mlserver; do $(PY) -m uv pip compile -q --universal --no-strip-extras --generate-hashes --no-emit-index-url --no-header --python-version 3.11 requirements/rivals/$$rival.in -o requirements/rivals/$$rival.txt; done
	for client in requirements/clients/*.in; do $(PY) -m uv pip compile -q --universal --no-strip-extras --generate-hashes --no-emit-index-url --no-header --python-version 3.11 "$$client" -o "$${client%.in}.txt"; done
	for client in requirements/clients/*/; do (cd "$$client" && npm install --package-lock-only --omit-lockfile-registry-resolved=true --no-audit --no-fund) || exit; done

images: ## build the train, tools and serve images with the container engine at hand
	$(BUILD) -f Dockerfile.train -t timberline-train .
	$(BUILD) -f Dockerfile.train --target tools -t timberline-tools .
	$(BUILD) -f Dockerfile.serve -t timberline-serve .

push: ## push the images to the registry TO=registry.example/team, and print each by its digest
	@ENGINE=$(call quoted,$(ENGINE)) deploy/push $(call quoted,$(TO))

sbom: setup ## what is in the images and under which licences, under var/images: CycloneDX and a list
	@$(PY) -m tests.support.sbom $(call quoted,$(ENGINE))

clean: ## remove everything generated (data, runs, registry)
	rm -rf var
