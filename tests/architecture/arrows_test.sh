#!/bin/bash
# No arrow runs back between the top folders, nor between the engine's. $1: what the program is built from, as edges
# ("from" -> "to") of the build graph.
set -euo pipefail

awk '
  function folder(label, parts, n) {
    sub(/^\/\//, "", label)
    sub(/:.*/, "", label)
    n = split(label, parts, "/")
    return parts[1] == "migration" && n > 1 ? parts[1] "/" parts[2] : parts[1]
  }
  function allow(from, to, parts, n, i) {
    n = split(to, parts, " ")
    for (i = 1; i <= n; i++) allowed[from, parts[i]] = 1
    known[from] = 1
  }
  BEGIN {
    engine = "migration/api migration/protocol migration/channel migration/sending migration/placing migration/session"
    # Who says or checks that it is of a move. The rest of the engine, and the monitor, have nothing to do with it.
    secret = "migration/secret"
    allow("base", "")
    allow("memory", "base")
    allow("proto", "")
    allow("devices", "base memory proto")
    allow("migration/api", "base memory")
    allow("migration/secret", "base migration/api")
    allow("migration/protocol", "base memory migration/api " secret)
    allow("migration/channel", "base memory migration/api migration/protocol " secret)
    allow("migration/sending", "base memory migration/api migration/protocol migration/channel")
    allow("migration/placing", "base memory migration/api migration/protocol migration/channel")
    allow("migration/session", "base memory " engine " " secret)
    allow("vmm", "base memory proto devices " engine)
  }
  {
    gsub(/["]/, "")
    if ($2 != "->" || $1 !~ /^\/\// || $3 !~ /^\/\//) next
    from = folder($1)
    to = folder($3)
    seen[from] = 1
    if (from == to || to == "third_party" || to == "tools" || from == "third_party" || from == "tools") next
    if (!((from, to) in allowed)) {
      print $1 " -> " $3 ": " from " knows nothing of " to
      failed = 1
    }
  }
  END {
    # A query that found nothing would hold everything.
    for (from in known) if (!(from in seen)) { print "the query does not cover " from; failed = 1 }
    exit failed
  }
' "$1"
