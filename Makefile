# What one does with this repository. PostgreSQL's server programs are installed if they are missing;
# every command starts a private server of its own and leaves nothing behind.

.PHONY: help demo docs test test-versions simulate fuzz fuzz-coverage soak bench advisories lint

help: ## Shows this.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Shows Posthaste at work, on a database of its own: less than half a minute, once it is built.
	@echo "Builds Posthaste with all optimisations, which takes some five minutes the first time, and then shows it at work:"
	@echo "less than half a minute, on a private PostgreSQL that is gone when it ends."
	@scripts/install-postgres
	cargo build --release --bin posthaste
	@target/release/posthaste demo

test: ## Runs every test, against a real PostgreSQL and a real PgBouncer.
	@scripts/install-postgres tests
	cargo test

docs: ## Writes docs/SQL.md anew from the comments of the schema.
	@scripts/install-postgres
	POSTHASTE_WRITE_DOCS=1 cargo test --quiet --test main house::sql_reference

VERSIONS = 14 16 17 18
test-versions: ## Runs every test on other versions of PostgreSQL: make test-versions VERSIONS="14 18".
	@scripts/install-postgres
	@scripts/postgres-versions $(VERSIONS) >/dev/null
	@for bin in $$(scripts/postgres-versions $(VERSIONS)); do \
	  version=$$($$bin/postgres --version); \
	  echo "=== $$version"; \
	  POSTHASTE_TEST_POSTGRES=$$bin cargo test || { printf "$$passed=== failed: $$version\n"; exit 1; }; \
	  passed="$$passed=== passed: $$version\n"; \
	done; printf "$$passed"

simulate: ## Runs random lists of statements and faults: make simulate MINUTES=60 SEED=1 (LISTS=1: that one alone).
	@scripts/install-postgres
	MINUTES=$(or $(MINUTES),10) SEED=$(or $(SEED),1000) LISTS=$(or $(LISTS),1000000) \
	cargo test --test main simulation::simulate_for_long -- --ignored --nocapture

fuzz: ## Throws forged webhooks at verifiers and door: make fuzz MINUTES=60 SEED=1 (CASES=1: that one alone).
	MINUTES=$(or $(MINUTES),10) SEED=$(or $(SEED),1000000) CASES=$(or $(CASES),1000000000000) \
	cargo test --release --test main fuzz::fuzz_for_long -- --ignored --nocapture

fuzz-coverage: ## The same, chosen by what it reaches: needs a nightly toolchain and cargo-fuzz. MINUTES=10.
	mkdir -p fuzz/corpus/ingest
	cargo +nightly fuzz run --dev -s none ingest -- -max_len=600 -timeout=10 -max_total_time=$$((60 * $(or $(MINUTES),10)))

soak: ## Lets relays and PostgreSQL fail at random for MINUTES=5, then reckons up every event.
	@scripts/install-postgres
	SOAK_MINUTES=$(MINUTES) SOAK_SEED=$(SEED) cargo test --release --test main soak:: -- --ignored --nocapture

bench: ## Measures everything or only WHAT, at length with the word full: make bench WHAT="drain cost full".
	@scripts/install-postgres
	cargo bench --bench bench -- $(WHAT)

advisories: ## Asks the RustSec database about everything that is linked: needs cargo-deny and the network.
	cargo deny check advisories

lint: ## Checks formatting, clippy, and licences if cargo-deny is installed.
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; \
	else echo "cargo-deny is not installed: licences and sources are not checked"; fi
