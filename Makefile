# The one way in: `make` lists what there is. Works with GNU make 3.81 (macOS) and newer.

CARGO ?= cargo
PYTHON ?= python3

# Finds nats-server, or gets it (pinned, hash checked) into .tools/; see tools/nats-server.py.
NATS = server="$$($(PYTHON) tools/nats-server.py)" && export FARSIDE_NATS_SERVER="$$server"
BIN = $${CARGO_TARGET_DIR:-target}/debug/farside
# A progress bar on a terminal, silence in a log; warnings and errors always show.
QUIET = $$(test -t 2 || echo --quiet)

.PHONY: help build demo up test container interop interop-tools kill flip past redrive releases lint bench doc schema check-schemas tools clean-data

help:
	@echo 'make demo        the main job on the sample data, start to finish (ends by itself)'
	@echo 'make test        every test, against a real nats-server'
	@echo 'make up          everything on this machine, until Ctrl-C; prints the address'
	@echo 'make interop     publishers and audit readers of five languages: installs what it can, prints the table'
	@echo 'make kill        200 random kill -9 of NATS, agent and service under load'
	@echo 'make flip        20 flipped bits of each kind in the files of JetStream: found, healed, recorded'
	@echo 'make container   the integration tests once more, against NATS in a container; needs Docker'
	@echo 'make releases    agents and services of this release and the one before it, with each other'
	@echo 'make past        50 moments of the past against a naive replay of the log, byte for byte; prints its seed'
	@echo 'make redrive     1,000 poisoned among 100,000 events: mended, redriven twice, applied once each'
	@echo 'make lint        formatting, clippy, docs, dependencies, scripts: warnings are errors'
	@echo 'make bench       the measurements; writes docs/performance.md'
	@echo 'make build       the binary, target/debug/farside'
	@echo 'make doc         the documentation of all rooms, target/doc'
	@echo 'make schema      JSON Schemas and AsyncAPI from the Rust types, bus-schema/'
	@echo 'make tools       nats-server: finds it or fetches it, prints where it is'
	@echo 'make clean-data  removes data/ and out/ (what up, demo and bench wrote)'
	@echo ''
	@echo 'Needed: Rust (rustup brings the pinned version), Python 3 with pip. nats-server is fetched if absent.'

build:
	@echo 'building (minutes the first time, seconds after that)' >&2
	@$(CARGO) build --locked $(QUIET) --bin farside

demo: build
	@$(NATS) && FARSIDE_BIN="$(BIN)" $(PYTHON) demo/run.py

up: build
	@$(NATS) && exec "$(BIN)" up

test:
	@$(PYTHON) tools/test_nats_server.py
	@$(PYTHON) bus-schema/golden/vectors.py --check
	@echo 'building the tests (minutes the first time, seconds after that)' >&2
	@$(CARGO) test --locked --workspace --no-run $(QUIET)
	@$(NATS) && $(CARGO) test --locked --workspace --no-fail-fast

# The integration tests against NATS in a container, through testcontainers; skipped loudly without Docker.
container:
	@$(NATS) && { image="$$(tools/nats_container.sh "$$server")" || test $$? -eq 3; } && \
	  if test -n "$$image"; then \
	    FARSIDE_TESTKIT_NATS=container FARSIDE_TESTKIT_NATS_IMAGE="$$image" \
	      $(CARGO) test --locked $(QUIET) --features container --test suite --no-fail-fast; \
	  fi

# Python, JavaScript, Go, Java and C against the real server; `make test` runs those that are there, too.
interop: interop-tools
	@$(NATS) && $(CARGO) test --locked $(QUIET) --test suite interop::

interop-tools:
	@tools/interop_tools.sh

# Two hundred random `kill -9` of nats-server, agent and service under load; prints its seed.
kill:
	@$(NATS) && FARSIDE_KILL_ROUNDS=$${ROUNDS:-200} $(CARGO) test --locked $(QUIET) --test suite kill:: -- --nocapture

# A bit is flipped at a random place of JetStream's files, NATS started again.
flip:
	@$(NATS) && FARSIDE_FLIP_ROUNDS=$${ROUNDS:-20} $(CARGO) test --locked $(QUIET) --test suite flip:: -- --nocapture

# The release before is built from its commit (minutes the first time).
releases:
	@$(NATS) && { other="$$(tools/other_release.sh)" || test $$? -eq 3; } && \
	  if test -n "$$other"; then \
	    FARSIDE_OTHER_RELEASE="$$other" $(CARGO) test --locked $(QUIET) --test suite releases:: -- --nocapture; \
	  fi

# Moments of the past against a plain map that reads the raw log; a failure names its seed (FARSIDE_PAST_SEED).
past:
	@$(NATS) && FARSIDE_PAST_ROUNDS=$${ROUNDS:-50} $(CARGO) test --locked $(QUIET) --test suite past:: -- --nocapture

# One event in a hundred is poisoned; the service is killed while they are redriven.
redrive:
	@$(NATS) && FARSIDE_REDRIVE_EVENTS=$${EVENTS:-100000} $(CARGO) test --locked $(QUIET) --test suite redrive:: -- --nocapture

lint:
	@$(CARGO) fmt --check
	@$(CARGO) clippy --locked $(QUIET) --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked $(QUIET) --workspace --no-deps
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
	  $(CARGO) deny --locked check --hide-inclusion-graph bans licenses sources; \
	else \
	  echo 'lint: SKIPPED licences, bans and sources: cargo-deny is not installed (cargo install cargo-deny --locked)' >&2; \
	fi
	@$(PYTHON) tools/check_python.py
	@echo 'lint: clean'

bench:
	@echo 'building release (minutes)' >&2
	@$(CARGO) build --locked --release $(QUIET) --workspace
	@tools/bench_peers.sh
	@$(NATS) && "$${CARGO_TARGET_DIR:-target}/release/bench"

doc:
	@RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked $(QUIET) --workspace --no-deps
	@echo 'target/doc/farside/index.html'

schema:
	@$(CARGO) run --locked --quiet -p bus-schema --example generate

# Samples against schemas with Python's jsonschema, for whoever has it: pip install jsonschema
check-schemas:
	@$(PYTHON) tools/check_schemas.py

tools:
	@$(PYTHON) tools/nats-server.py

clean-data:
	rm -rf data out
