#!/bin/sh
# Installs what the interop table needs and this machine has not: Node, Go, a JDK with Maven, and the libraries of the C
# snippets. With apt, as root; elsewhere it says what is missing. It never fails: what stays away, the tests skip and say so.
set -u

missing=
want() { # want COMMAND PACKAGE...
    command -v "$1" >/dev/null 2>&1 && return
    shift
    missing="$missing $*"
}
want node nodejs
want npm npm
want go golang-go
want javac default-jdk-headless
want mvn maven
want cc gcc libc6-dev
echo '#include <jansson.h>
#include <nats/nats.h>
#include <openssl/evp.h>' | cc -fsyntax-only -x c - 2>/dev/null || missing="$missing libnats-dev libjansson-dev libssl-dev"

[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "interop: installing$missing" >&2
    # shellcheck disable=SC2086 # a list of words
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing; } >/dev/null ||
        echo "interop: apt did not install all of$missing; their rows will be SKIPPED" >&2
else
    echo "interop: missing here (names of Debian packages):$missing; their rows will be SKIPPED" >&2
fi
