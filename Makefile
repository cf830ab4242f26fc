# All commands for development and CI. `make` without a target lists them.

SHELL := /bin/bash
CARGO ?= cargo
BUILD := $(or $(CARGO_TARGET_DIR),target)
# The programs that `make` installs.
TOOLS ?= $(BUILD)/tools

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-14s %s\n", $$1, $$2 }'

# The inputs of the web page.
WEB := $(shell find web/client/src web/app/src web/app/public web/app/scripts -type f) web/app/index.html \
	web/app/vite.config.ts web/tsconfig.base.json web/client/tsconfig.build.json
NPM_CI = npm ci --no-audit --no-fund --loglevel=error

.PHONY: demo
demo: headwater ## Run everything on this machine, with simulated upstreams
	$(BUILD)/debug/headwater up --simulated

.PHONY: up
up: headwater ## Run everything on this machine, with the live upstreams
	$(BUILD)/debug/headwater up

.PHONY: headwater
headwater: tools web
	@test -x $(BUILD)/debug/headwater || echo 'Building Headwater. The first build compiles about 450 crates, which takes about four minutes on two cores.'
	$(CARGO) build --bin headwater

.PHONY: test
test: tools ## Run all tests
	@$(MAKE) --no-print-directory test-rust
	@$(MAKE) --no-print-directory test-web

.PHONY: test-rust
test-rust: tools web ## Run the Rust tests
	@$(CARGO) nextest --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-nextest
	$(CARGO) build --workspace --bins
	$(CARGO) nextest run --workspace -E 'not binary(aws)'

.PHONY: test-roles
test-roles: tools web ## Run the black-box tests on a stand-in for AWS that enforces the roles
	$(CARGO) build --workspace --bins
	HEADWATER_TEST_ROLES=1 $(CARGO) nextest run --workspace -E 'package(tests) & binary(it)'

# The profile of Cargo for the simulation.
PROFILE ?= simulation

.PHONY: simulate
simulate: tools web ## Simulate all parts with faults: SEEDS=500 for more seeds, SEED=7 for one
	$(CARGO) run --profile $(PROFILE) --package tests --bin simulate -- $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),100) --first $(or $(FIRST),0))

.PHONY: mutants
mutants: tools web ## Put defects into the source, one at a time, and check that the tests notice them
	$(CARGO) build --workspace --bins
	@infra/mutants $(MUTANTS)

.PHONY: snapshots
snapshots: tools ## Record the snapshots of the Rust tests anew; review them with git diff
	INSTA_UPDATE=always INSTA_FORCE_PASS=1 $(CARGO) test --workspace --lib --quiet

.PHONY: test-web
test-web: tools web chromium ## Run the tests of the page and the client library
	$(CARGO) build --bin headwater
	cd web && npm test

.PHONY: lint
lint: tools web/node_modules/.installed $(TOOLS)/cargo/bin/cargo-machete $(TOOLS)/cargo/bin/cargo-deny ## Check format, lints, documentation and dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --quiet
	$(TOOLS)/cargo/bin/cargo-machete
	$(TOOLS)/cargo/bin/cargo-deny --all-features --log-level error check licenses bans sources
	cd web && npm run --silent lint

.PHONY: audit
audit: tools web/node_modules/.installed $(TOOLS)/cargo/bin/cargo-deny ## Check the dependencies for known vulnerabilities; requires github.com and the npm registry
	$(TOOLS)/cargo/bin/cargo-deny --all-features --log-level error check advisories
	cd web && npm audit --audit-level=moderate

# Without optimization, they build in half the time, and they run only for a few seconds.
$(TOOLS)/cargo/bin/%:
	CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install --locked --debug --quiet --root $(TOOLS)/cargo $*

.PHONY: web
web: web/app/dist/index.html ## Build the web page, if it has changed

web/app/dist/index.html: web/node_modules/.installed $(WEB)
	cd web && npm run --silent build

web/node_modules/.installed: web/package-lock.json web/package.json web/client/package.json web/app/package.json web/.npmrc | node
	cd web && $(NPM_CI)
	@touch $@

.PHONY: node
node:
	@node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 19) ? 0 : 1)' 2>/dev/null \
		|| { echo 'Install Node.js 20.19 or later first: https://nodejs.org' >&2; exit 1; }

# The browser for the tests, from Debian or from Playwright.
.PHONY: chromium
chromium: web/node_modules/.installed
	@if [ ! -x /usr/bin/chromium ]; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -qq && apt-get install -y -qq chromium >/dev/null; \
		else \
			cd web && npx playwright install chromium; \
		fi; \
	fi

.PHONY: fuzz
fuzz: tools web $(TOOLS)/cargo/bin/cargo-bolero ## Fuzz the parsers of foreign input for MINUTES=15 in all, and test properties with many inputs
	PROPTEST_CASES=$${PROPTEST_CASES:-20000} $(CARGO) test --workspace --lib
	infra/fuzz $(or $(MINUTES),15) $(TARGETS)

.PHONY: bench
bench: tools ## Measure speed and memory, with the release build
	$(CARGO) build --release --bin headwater
	$(BUILD)/release/headwater bench

# AWS, and stand-ins for AWS.

.PHONY: cluster
cluster: tools web ## Run a cluster of plain processes behind HAProxy, with simulated upstreams
	@command -v haproxy >/dev/null || test -x /usr/sbin/haproxy || { echo 'Install HAProxy first, such as: apt-get install haproxy' >&2; exit 1; }
	$(CARGO) build --bin headwater --bin headwater-poller
	@infra/cluster

# Programs from PyPI. Each group has a virtual environment of its own.
IN_TOOLS = PATH="$(abspath $(TOOLS))/aws/bin:$$PATH" SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=$${AWS_DEFAULT_REGION:-us-east-1}
$(TOOLS)/%/.done: infra/tools/%.txt
	@command -v python3 >/dev/null || { echo 'Install Python 3.9 or newer first' >&2; exit 1; }
	rm -rf $(@D)
	python3 -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# arm64 is cheaper on AWS. It requires the target of Rust: rustup target add aarch64-unknown-linux-gnu
ARCH ?= $(shell test -d "$$(rustc --print sysroot)/lib/rustlib/aarch64-unknown-linux-gnu" && echo arm64 || echo x86_64)

.PHONY: package
package: tools web $(TOOLS)/aws/.done ## Build the zips of the four functions; ARCH=arm64 or x86_64
	$(IN_TOOLS) CARGO_PROFILE_RELEASE_OPT_LEVEL=s cargo lambda build --release --locked --package functions --bins \
		--output-format zip $(if $(filter arm64,$(ARCH)),--arm64,--x86-64)
	@infra/package-report "$(BUILD)/lambda"

.PHONY: lambda
lambda: tools web $(TOOLS)/aws/.done ## Run the functions under cargo lambda watch, behind the gateway
	$(CARGO) build --bin headwater --bin headwater-poller
	@$(IN_TOOLS) infra/lambda

.PHONY: test-lambda
test-lambda: export CARGO_PROFILE_DEV_OPT_LEVEL = 1
test-lambda: tools web $(TOOLS)/aws/.done ## Attack the functions under cargo lambda watch
	$(CARGO) build --workspace --bins
	$(IN_TOOLS) $(CARGO) nextest run --workspace --run-ignored only -E 'package(tests) & binary(hostile)'

# Arguments of `docker build`, such as --build-arg FINAL_BASE=headwater-final-base.
IMAGE_FLAGS ?=
IMAGE ?= headwater-poller

.PHONY: image image-poller
image: web image-poller ## Build the images headwater and headwater-poller
	docker build --file infra/Dockerfile --target headwater --tag headwater $(IMAGE_FLAGS) .
image-poller:
	@command -v docker >/dev/null || { echo 'Install Docker first: https://docs.docker.com/engine/install' >&2; exit 1; }
	docker build --file infra/Dockerfile --target poller --tag $(IMAGE) $(IMAGE_FLAGS) .

# Further parameters of the template, such as PollerImage=… AlarmEmail=…
PARAMETERS ?=
DEPLOY_FLAGS ?=

.PHONY: deploy
deploy: tools web $(TOOLS)/aws/.done ## Build and deploy to AWS; PARAMETERS='PollerImage=… AlarmEmail=…'
	$(IN_TOOLS) CARGO_PROFILE_RELEASE_OPT_LEVEL=s sam build --parameter-overrides Architecture=$(ARCH)
	$(IN_TOOLS) sam deploy --parameter-overrides Architecture=$(ARCH) $(PARAMETERS) $(DEPLOY_FLAGS)

DEPLOYMENT_TESTS = HEADWATER_TOOLS="$(abspath $(TOOLS))" HEADWATER_PACKAGES="$(abspath $(1))" \
	$(CARGO) nextest run --workspace -E 'package(tests) & binary(aws)'

.PHONY: test-deploy
test-deploy: tools web $(TOOLS)/aws/.done $(TOOLS)/stand-in/.done ## Deploy the development build to a stand-in for AWS, and test the deployment
	$(CARGO) build --workspace --bins
	@infra/development-packages "$(BUILD)/debug" "$(BUILD)/packages"
	$(call DEPLOYMENT_TESTS,$(BUILD)/packages)

.PHONY: test-release
test-release: package $(TOOLS)/stand-in/.done ## Deploy the release packages to the stand-in, and test the deployment
	@test "$(ARCH)" = "$$(uname -m | sed s/aarch64/arm64/)" || { echo 'Packages for another processor cannot run here: add ARCH=x86_64' >&2; exit 1; }
	$(IN_TOOLS) CARGO_PROFILE_RELEASE_OPT_LEVEL=s sam build --config-env local --parameter-overrides Architecture=$(ARCH)
	$(CARGO) build --bin headwater --bin headwater-poller
	$(call DEPLOYMENT_TESTS,$(BUILD)/lambda)

.PHONY: lint-templates
lint-templates: $(TOOLS)/aws/.done ## Check the templates
	$(IN_TOOLS) sam validate --lint
	$(IN_TOOLS) cfn-lint template.yaml infra/poller.yaml infra/watch.yaml

.PHONY: tools
tools:
	@command -v $(CARGO) >/dev/null || { echo 'Install Rust first: https://rustup.rs' >&2; exit 1; }
	@command -v cc >/dev/null || { echo 'Install a C compiler first, such as: apt-get install build-essential' >&2; exit 1; }
