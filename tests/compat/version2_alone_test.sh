#!/bin/bash
# The peer of version 2 has nothing of the engine, nor of the monitor: it would change with them. $1: what it is built
# from, a label a line.
set -euo pipefail

# A query that found nothing would hold everything.
grep -qxF //tests/compat:version2_peer "$1" || { echo "the query does not cover the peer" && exit 1; }
! grep -vE '^//(base|tests/compat|third_party/system)[:/]|^@' "$1"
