#!/bin/sh
# Puts what `make bench` races against into target/peers: nats-py and Pathway, pinned, in a virtual environment of their own.
# It never fails: what stays away, the race skips and says so. Pathway brings 1.6 GB; FARSIDE_BENCH_PATHWAY=0 leaves it out.
set -u

peers="${CARGO_TARGET_DIR:-target}/peers"
here="$(dirname "$0")/../bench/peers"

python="$peers/bin/python"
if ! "$python" -m pip --version >/dev/null 2>&1; then
    "${PYTHON:-python3}" -m venv "$peers" || {
        echo "bench: no virtual environment can be made (Debian: python3-venv); the race is run without nats-py and Pathway" >&2
        exit 0
    }
fi
install() { # install NAME
    "$python" -m pip install --quiet --disable-pip-version-check --requirement "$here/requirements-$1.txt" ||
        echo "bench: pip did not install $1; the race is run without it" >&2
}
install nats-py
[ "${FARSIDE_BENCH_PATHWAY:-1}" = 0 ] || install pathway
