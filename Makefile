# `make` alone lists what there is.

CARGO ?= cargo
# The port of the demo; 0 takes any that is free.
PORT ?= 9090

.DEFAULT_GOAL := help
.PHONY: help build demo test scale day fidelity admin fmt check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build target/release/adit
	@$(CARGO) build --locked --release

demo: ## build it, then server, agent and a small site in one process (PORT=9090)
	@$(CARGO) build --locked --release
	@$(CARGO) run --locked --release --quiet -- demo --port $(PORT)

test: ## everything: format, lints, all tests; installs what the tests need first
	@echo "== what the tests need"
	@tests/install.sh
	@$(MAKE) --no-print-directory check
	@echo "== tests"
	@$(CARGO) test --locked
	@echo "== exchanges, direct beside tunnelled: the rows that need little"
	@python3 tests/fidelity --quick target/debug/adit
	@echo "== an operator's day"
	@tests/day/run.sh target/debug/adit

# How many agents are logged in while the operator changes the clients file.
AGENTS ?= 10000
scale: ## the same with ten thousand clients, all of them connected, in one process (AGENTS=10000)
	@ADIT_SCALE=$(AGENTS) $(CARGO) test --locked --release --test end_to_end scale:: -- --nocapture

day: ## an operator's day, as commands: tenants come, change their minds, are sent away
	@$(CARGO) build --locked
	@tests/day/run.sh target/debug/adit

# Which groups of exchanges; all of them also write docs/fidelity.md.
ONLY ?=
fidelity: ## real applications, direct beside tunnelled; installs what it needs (ONLY=http2,grpc)
	@$(CARGO) build --locked
	@python=$$(tests/fidelity/install.sh) && \
		"$$python" tests/fidelity target/debug/adit $(if $(ONLY),--only $(ONLY),--write docs/fidelity.md)

admin: ## the admin API against its own description, with schemathesis; installs it first
	@$(CARGO) build --locked
	@python=$$(tests/admin/install.sh) && "$$python" tests/admin target/debug/adit

fmt: ## format the sources
	@$(CARGO) fmt

check: ## format check and lints
	@echo "== format"
	@$(CARGO) fmt --check
	@echo "== lints"
	@$(CARGO) clippy --locked --all-targets -- -D warnings

clean: ## remove everything that was built
	@$(CARGO) clean
