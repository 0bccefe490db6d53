#!/bin/bash
# The demo topology (see docs/lab.md): one Open vSwitch bridge, a port pair into each of two workloads and one remote host.
# demo.sh up|down
set -eu
case ${1:-} in
up | down) ;;
*) echo "usage: demo.sh up|down" >&2; exit 2 ;;
esac
