# `make` alone lists what there is.

CARGO ?= cargo
# On ARM the kernel's pages may be larger where the program runs than where it is built.
ifeq ($(shell uname -m),aarch64)
export JEMALLOC_SYS_WITH_LG_PAGE ?= 16
endif
# The port of the demo; 0 takes any that is free.
PORT ?= 9090

.DEFAULT_GOAL := help
.PHONY: help build demo test-deps test scale day metrics traces fidelity recipes smuggling attack fuzz deny admin bench bench-quick bench-scale bench-instructions \
	bench-pure bench-check reference pages install deb image proxies acceptance fmt check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build target/release/adit
	@$(CARGO) build --locked --release

# A profile of its own (Cargo.toml): built in minutes, hardly optimised.
demo-build = --locked --profile demo --no-default-features
demo: ## build it quickly, then run server, agent and a small site in one process (PORT=9090)
	@$(CARGO) build $(demo-build)
	@$(CARGO) run $(demo-build) --quiet -- demo --port $(PORT)

# SKIP_DEPS=1 where nothing may be installed, or everything is there.
SKIP_DEPS ?=
test-deps: ## install the programs that the tests talk to: python3, nginx and curl (SKIP_DEPS=1 skips it)
	@$(if $(filter 1,$(SKIP_DEPS)),echo "skipped: SKIP_DEPS=1",tests/install.sh)

test: ## everything: format, lints, all tests; runs test-deps first (SKIP_DEPS=1 skips that)
	@echo "== programs that the tests need"
	@$(MAKE) --no-print-directory test-deps
	@$(MAKE) --no-print-directory check
	@echo "== tests"
	@$(CARGO) test --locked
	@echo "== exchanges, direct beside tunnelled: the rows that need little"
	@python3 tests/fidelity --quick target/debug/adit
	@echo "== units of systemd"
	@tests/units.sh target/debug/adit
	@echo "== smuggling"
	@python3 tests/smuggling target/debug/adit
	@echo "== an operator's day"
	@tests/day/run.sh target/debug/adit

# How many agents are logged in while the operator changes the clients file.
AGENTS ?= 10000
scale: ## the same with ten thousand clients, all of them connected, in one process (AGENTS=10000)
	@ADIT_SCALE=$(AGENTS) $(CARGO) test --locked --release --test end_to_end scale:: -- --nocapture

day: ## an operator's day, as commands: tenants come, change their minds, are sent away
	@$(CARGO) build --locked
	@tests/day/run.sh target/debug/adit

metrics: ## metrics, alert rules and a real Prometheus; installs it first
	@tests/metrics/install.sh
	@$(CARGO) build --locked --release
	@tests/metrics/run.sh target/release/adit

traces: ## what the feature `otlp` adds: lints and tests of a build with it
	@$(CARGO) clippy --locked --all-targets --features otlp -- -D warnings
	@$(CARGO) test --locked --features otlp --lib -- telemetry::traces:: config:: server::ceiling::
	@$(CARGO) test --locked --features otlp --test end_to_end -- traces:: exchanges::

# Which groups of exchanges; all of them also write docs/fidelity.md.
ONLY ?=
fidelity: ## real applications, direct beside tunnelled; installs what it needs (ONLY=http2,grpc)
	@$(CARGO) build --locked
	@python=$$(tests/fidelity/install.sh) && \
		"$$python" tests/fidelity target/debug/adit $(if $(ONLY),--only $(ONLY),--write docs/fidelity.md)

recipes: ## the recipes of docs/self-hoster.md with their real applications; installs them first (ONLY=django,jupyterlab)
	@$(CARGO) build --locked
	@python=$$(tests/recipes/install.sh '$(ONLY)') && "$$python" tests/recipes target/debug/adit $(if $(ONLY),--only '$(ONLY)')

attack: ## attacks of many kinds on a server of their own, and how a bystander fares; five minutes (ONLY=http2,flood)
	@$(MAKE) --no-print-directory test-deps
	@$(CARGO) build --locked --release
	@python3 tests/attack target/release/adit $(if $(ONLY),--only '$(ONLY)',--write docs/security.md)

smuggling: ## odd requests for two tenants in front of nginx and Python; part of `make test`
	@$(MAKE) --no-print-directory test-deps
	@$(CARGO) build --locked
	@python3 tests/smuggling target/debug/adit

# How long each target runs, and which ones.
SECONDS ?= 60
TARGETS ?=
fuzz: ## every decoder and parser with libFuzzer, a minute for each; installs cargo-fuzz first (SECONDS=60, TARGETS="exchange proxy")
	@fuzz/run.sh $(SECONDS) $(TARGETS)

deny: ## licences, sources and duplicates of what is depended on; installs cargo-deny first, which takes minutes
	@tests/deny.sh

admin: ## the admin API against its own description, with schemathesis; installs it first
	@$(CARGO) build --locked
	@python=$$(tests/admin/install.sh) && "$$python" tests/admin target/debug/adit

# Which measures, like requests-64,link-*; against whom, like adit,rathole-tls; LINK=no without root and /dev/net/tun; ROUNDS=1.
# All of them also write docs/benchmarks.md.
WHO ?=
LINK ?=
ROUNDS ?=
bench-options = $(if $(ONLY),--only '$(ONLY)') $(if $(WHO),--who '$(WHO)') $(if $(filter no,$(LINK)),--no-link) $(if $(ROUNDS),--rounds $(ROUNDS))
bench: ## adit beside others, all of it, about 40 minutes; installs what it needs (ONLY=requests-64)
	@bench/install.sh
	@$(CARGO) build --locked --release
	@python3 bench $(bench-options) $(if $(ONLY)$(WHO),,--write)

bench-quick: ## the core of that on the terminal, about 4 minutes
	@bench/install.sh
	@$(CARGO) build --locked --release
	@python3 bench --quick $(bench-options)

bench-scale: ## many agents and visitors on one server, about ten minutes, needs root (AGENTS=10000)
	@bench/install.sh scale
	@$(CARGO) build --locked --release
	@$(CARGO) build --quiet --locked --release --manifest-path bench/agents/Cargo.toml --target-dir target/bench/build
	@python3 bench/scale.py --agents $(AGENTS)

# Write the counts down as those that later ones are compared with.
RECORD ?=
bench-instructions: ## instructions for each request, by callgrind; fails beyond 3 % above the record (RECORD=yes)
	@bench/install.sh instructions
	@$(CARGO) build --locked --release
	@python3 bench/instructions.py $(if $(filter yes,$(RECORD)),--record)

bench-pure: ## the pure parts, with criterion
	@$(CARGO) bench --locked --bench pure

bench-check: ## format, lints and tests of what measures
	@python3 -m compileall -q bench
	@for crate in link agents; do \
		$(CARGO) fmt --check --manifest-path bench/$$crate/Cargo.toml && \
		$(CARGO) clippy --locked --all-targets --manifest-path bench/$$crate/Cargo.toml --target-dir target/bench/build -- -D warnings && \
		$(CARGO) test --locked --manifest-path bench/$$crate/Cargo.toml --target-dir target/bench/build || exit 1; \
	done

reference: ## the tables of keys in docs/configuration.md, made of the program; their last column is written by hand
	@$(CARGO) run --locked --quiet --example reference

pages: ## man pages, completions, units and samples of an installed program, into target/pages
	@$(CARGO) run --locked --quiet --example pages -- target/pages
	@mkdir -p target/pages/systemd target/pages/samples
	@for unit in docs/systemd/adit-*; do sed 's|/usr/local/bin/|$(BIN)/|' $$unit >target/pages/systemd/$$(basename $$unit); done
	@sed 's|"\.\./certs|"/var/lib/adit/certs|' config/server.toml >target/pages/samples/server.toml
	@cp config/agent.toml target/pages/samples/agent.toml

# Where `make install` puts things: DESTDIR is where a package is gathered, PREFIX where it will be.
DESTDIR ?=
PREFIX ?= /usr/local
BIN ?= /usr/bin
install: ## install the program, units, man pages and completions (DESTDIR=, PREFIX=/usr/local)
	@$(CARGO) build --locked --release
	@$(MAKE) --no-print-directory pages BIN=$(PREFIX)/bin
	@install -D -m 755 target/release/adit $(DESTDIR)$(PREFIX)/bin/adit
	@install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system target/pages/systemd/*
	@install -D -m 644 packaging/adit.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/adit.conf
	@install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 target/pages/man/*.1
	@install -D -m 644 target/pages/completions/adit.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/adit
	@install -D -m 644 target/pages/completions/_adit $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_adit
	@install -D -m 644 target/pages/completions/adit.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/adit.fish
	@install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/adit/samples target/pages/samples/*
	@install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/adit/prometheus docker/prometheus/alerts.yml docker/prometheus/prometheus.yml
	@install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/adit/grafana docker/grafana/adit.json

deb: ## a Debian package, target/debian/adit_*.deb; installs cargo-deb into target/tools
	@packaging/install.sh
	@$(CARGO) build --locked --release
	@$(MAKE) --no-print-directory pages
	@rm -f target/debian/adit_*.deb
	@target/tools/bin/cargo-deb --locked --no-build --no-strip

image: ## a container image without an engine or a registry, target/image/adit.tar (OCI), and a try of it; needs root
	@docker/install.sh
	@$(CARGO) build --locked --release
	@docker/image.sh target/release/adit target/image

proxies: ## nginx and Caddy in front, as the documents configure them; installs both first
	@tests/proxies/install.sh
	@$(CARGO) build --locked
	@tests/proxies/run.sh target/debug/adit

acceptance: ## docs/operate.md and docs/runbook.md, followed to the letter on a bare Debian in a chroot, docs/firewall.md; needs root, about 3 minutes
	@tests/acceptance/install.sh
	@$(MAKE) --no-print-directory deb
	@tests/acceptance/run.sh target/debian/adit_*.deb

fmt: ## format the sources
	@$(CARGO) fmt

check: ## format check and lints
	@echo "== format"
	@$(CARGO) fmt --check
	@echo "== lints"
	@$(CARGO) clippy --locked --all-targets -- -D warnings
	@for crate in bench/agents bench/link fuzz; do \
		$(CARGO) metadata --quiet --locked --format-version 1 --manifest-path $$crate/Cargo.toml >/dev/null || exit; done

clean: ## remove everything that was built
	@$(CARGO) clean
