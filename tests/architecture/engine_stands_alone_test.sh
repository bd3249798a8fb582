#!/bin/bash
# The engine is built from what is listed here and nothing else; $1 is what it is built from, a label a line.
set -euo pipefail

allowed='^//(base|memory)[/:]|^//migration/(api|protocol|channel|sending|placing|session)[:/]|^//third_party/system:(absl|absl_tsan|capnp)$|^@bazel_tools//'

# What must not be there and still is, each with what brings it: to be taken out of here with it.
still=(
  //proto:stream_capnp              # to live in migration/protocol, once it imports nothing of proto
  //proto:machine_capnp             # proto:stream_capnp
  //third_party/system:capnp_rpc    # proto:machine_capnp
  //third_party/system:spdlog       # base/log.h: the engine has no log of its own handed in
  //third_party/system:fmt          # base/log.h
)

status=0
# A query that found nothing would hold everything.
for part in api protocol channel sending placing session; do
  grep -q "^//migration/$part:" "$1" || { echo "the query does not cover migration/$part" && status=1; }
done
while read -r label; do
  if [[ ! $label =~ $allowed && " ${still[*]} " != *" $label "* ]]; then
    echo "the engine depends on $label"
    status=1
  fi
done <"$1"
for label in "${still[@]}"; do
  grep -qxF "$label" "$1" || { echo "$label has gone: take it out of the list" && status=1; }
done
exit $status
