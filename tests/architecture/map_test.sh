#!/bin/bash
# The maps of README.md ($2) and docs/architecture.md ($3) have each folder that the program is built from. $1: the build
# graph's edges, as arrows_test has them.
set -euo pipefail

folders=$(sed -nE 's,^ *"//((base|memory|proto|devices|migration|vmm)[a-z_/]*):.*,\1,p' "$1" | sort -u)
# A query that found nothing would hold everything.
[[ $(wc -l <<<"$folders") -ge 20 ]] || { echo "the query covers too little: $folders"; exit 1; }

failed=0
for folder in $folders; do
  name=${folder##*/}
  slashes=${folder//[!\/]/}
  indent=$(printf '%*s' $((4 + 2 * ${#slashes})) '')
  grep -q "^$indent$name/ " "$2" || { echo "README.md has no line for $folder"; failed=1; }
  grep -qE "^\|.*\`($folder|$name)\`.*\|.*\|" "$3" || { echo "docs/architecture.md has no row for $folder"; failed=1; }
done
exit $failed
