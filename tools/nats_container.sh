#!/bin/sh
# The image nats:<version> of the tests, made from nothing but the nats-server binary that they use elsewhere, so that
# nothing is pulled. Says on standard error why there is none, and ends with 3 then: no Docker is no fault.
set -eu
server=${1:?usage: nats_container.sh NATS_SERVER}

skip() {
  echo "SKIPPED the tests against NATS in a container: $1" >&2
  exit 3
}

[ "$(uname)" = Linux ] || skip 'the image is made from the binary of this machine, which must be one of Linux'
command -v docker >/dev/null 2>&1 || skip 'there is no docker (Debian: apt-get install docker.io)'
docker info >/dev/null 2>&1 || skip 'the Docker daemon does not answer; start it (as root: dockerd &)'
version=$("$server" --version | sed 's/^nats-server: v//')
[ -n "$version" ] || skip "$server does not say its version"
if ! docker image inspect "nats:$version" >/dev/null 2>&1; then
  tar -C "$(dirname "$server")" -hc "$(basename "$server")" |
    docker import --change "ENTRYPOINT [\"/$(basename "$server")\"]" - "nats:$version" >/dev/null ||
    skip 'Docker takes no image in'
fi
# With a port and a directory of this machine, as the tests need them.
docker run --rm -p 127.0.0.1::4222 -v "$(dirname "$server"):/probe" "nats:$version" --version >/dev/null ||
  skip 'Docker starts no container with a port and a directory of this machine'
echo "nats:$version"
