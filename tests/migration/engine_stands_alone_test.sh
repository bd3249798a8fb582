#!/bin/bash
# Nothing in migration/ depends on devices, KVM, the machine or the app (DESIGN §1); $1 is what it depends on.
set -euo pipefail
status=0
# A query that found nothing would hold everything.
for part in wire transport dirty stream placement fault session; do
  grep -q "^//migration/$part:" "$1" || { echo "the query does not cover migration/$part" && status=1; }
done
if grep -E '^//(devices|vmm/(kvm|bus|boot|machine|console|control|move|app))[/:]' "$1"; then
  echo "the moving engine depends on the targets above"
  status=1
fi
exit $status
