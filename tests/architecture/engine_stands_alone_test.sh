#!/bin/bash
# The engine is built from what is listed here and nothing else, and only protocol/ sees Cap'n Proto, and only secret/
# libcrypto. $1 is what it is built from, $2 what of that uses Cap'n Proto or a schema; $3 what uses libcrypto; a label a
# line.
set -euo pipefail

allowed='^//(base|memory)[/:]|^//migration/(api|secret|protocol|channel|sending|placing|session)[:/]|^//third_party/system:(absl|absl_tsan|capnp|crypto)$|^@bazel_tools//'

# What must not be there and still is, each with what brings it: to be taken out of here with it.
still=(
)
# Likewise what uses Cap'n Proto outside of protocol/.
still_capnp=(
  //base:out_of_memory              # kj has an exception of its own for a lack of memory
)

status=0
# A query that found nothing would hold everything.
for part in api secret protocol channel sending placing session; do
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
# The query has what it asks for, too: the library, and the schema, which is in protocol/.
while read -r label; do
  if [[ $label != //migration/protocol:* && $label != //third_party/system:capnp &&
    " ${still_capnp[*]} " != *" $label "* ]]; then
    echo "$label uses Cap'n Proto, which is for migration/protocol alone"
    status=1
  fi
done <"$2"
for label in //migration/protocol:stream_capnp //migration/protocol:protocol "${still_capnp[@]}"; do
  grep -qxF "$label" "$2" || { echo "$label uses no Cap'n Proto: take it out of here" && status=1; }
done
# Likewise, the library among it.
while read -r label; do
  if [[ $label != //migration/secret:* && $label != //third_party/system:crypto ]]; then
    echo "$label uses libcrypto, which is for migration/secret alone"
    status=1
  fi
done <"$3"
grep -qxF //migration/secret:move_secret "$3" || { echo "the query does not cover libcrypto" && status=1; }
exit $status
