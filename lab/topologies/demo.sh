#!/bin/bash
# The demo topology: demo.sh up|down. See docs/lab.md.
set -eu
