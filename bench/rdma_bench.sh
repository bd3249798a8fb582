#!/bin/busybox sh
# shellcheck shell=dash
# Moves over the RDMA device of the outer machine at FERRITE_TEST_RDMA, beside the device's own limit (ib_write_bw of
# perftest), tcp at the same address, which is local, and QEMU's migration over RDMA. Runs there only: rdma_bench.
# --env=FERRITE_BENCH_SIZE=MIB, --env=FERRITE_BENCH_ROUNDS=N: the guest's memory, and how often.
set -u
size=${FERRITE_BENCH_SIZE:-96} rounds=${FERRITE_BENCH_ROUNDS:-3}
at=$FERRITE_TEST_RDMA
work=$(mktemp -d)
ulimit -l unlimited
failed=0

# MiB/s of messages of 1 MiB over so many queue pairs. It polls for completions: it has no events for WRITEs.
limit_of() {
  ib_write_bw -R -d rxe0 -q "$1" -s 1048576 -n 48 -t 16 -F >"$work/server" 2>&1 &
  server=$!
  usleep 700000
  ib_write_bw -R -d rxe0 -q "$1" -s 1048576 -n 48 -t 16 -F "$at" >"$work/client" 2>&1
  wait "$server"
  awk '$1 == 1048576 { print $4 }' "$work/client"
}
median() { sort -n | awk '{ all[NR] = $1 } END { if (NR) print all[int((NR + 1) / 2)]; else print 0 }'; }

echo "ib_write_bw, messages of 1 MiB (MiB/s):"
for pairs in 1 2 4 8; do
  for _ in $(seq "$rounds"); do limit_of "$pairs"; done >"$work/limits"
  median <"$work/limits" >"$work/limit.$pairs"
  echo "  $pairs queue pairs: $(cat "$work/limit.$pairs") (of: $(tr '\n' ' ' <"$work/limits"))"
  [ "$(cat "$work/limit.$pairs")" != 0 ] || { cat "$work/server" "$work/client" && failed=1; }
done

bench/engine_bench rdma="$at" size="$size" rounds="$rounds" limits=0 case=idle-precopy channels=1,2,4,8 >"$work/rates" ||
  failed=1
cat "$work/rates"
for pairs in 1 2 4 8; do
  awk -v limit="$(cat "$work/limit.$pairs")" -v pairs="$pairs" '
    $1 == "idle-precopy-rdma-" pairs { rdma = $3 / $2 * 1000 }
    $1 == "idle-precopy-tcp-" pairs { tcp = $3 / $2 * 1000 }
    END { printf "precopy, %d channels: rdma %.1f MiB/s, tcp %.1f; rdma / ib_write_bw %.2f (goal: 0.8)\n", pairs, rdma, tcp,
          (limit > 0 ? rdma / limit : 0) }' "$work/rates"
done

bench/engine_bench rdma="$at" size="$size" rounds="$rounds" limits=0 case=readers-postcopy channels=1 faulters=1 \
  >"$work/faults" || failed=1
cat "$work/faults"
awk '$1 == "readers-postcopy-rdma-1" { rdma = $11 } $1 == "readers-postcopy-tcp-1" { tcp = $11 }
  END { printf "fault p50: rdma %.0f us, tcp %.0f us; rdma / tcp %.2f (goal: at most 0.6)\n", rdma, tcp,
        (tcp > 0 ? rdma / tcp : 0) }' "$work/faults"

# A machine that does not run, of which 48 MiB are filled: QEMU's own threads alone.
qemu="qemu-system-x86_64 -M none -m 96 -accel tcg -S -nodefaults -display none -serial none -monitor stdio"
dd if=/dev/urandom of="$work/filled" bs=1M count=48 2>/dev/null
mkfifo "$work/here" "$work/there"
echo "QEMU's migration of 48 MiB (rdma, then tcp):"
port=4444
for kind in rdma tcp; do
  port=$((port + 1))
  # shellcheck disable=SC2086 # words
  $qemu -incoming "$kind:$at:$port" <"$work/there" >"$work/qemu.there" 2>&1 &
  there=$!
  exec 4>"$work/there"
  # shellcheck disable=SC2086
  $qemu -device "loader,file=$work/filled,addr=0x100000,force-raw=on" <"$work/here" >"$work/qemu.here" 2>&1 &
  here=$!
  exec 3>"$work/here"
  sleep 2
  { echo "migrate_set_parameter max-bandwidth 100G" && echo "migrate -d $kind:$at:$port"; } >&3
  for _ in $(seq 30); do
    echo "info migrate" >&3
    sleep 1
    ! grep -qE "status: (completed|failed)" "$work/qemu.here" || break
  done
  echo quit >&3
  echo quit >&4
  exec 3>&- 4>&-
  wait "$here" "$there"
  tr '\r' '\n' <"$work/qemu.here" | awk -v kind="$kind" '
    /status:/ { status = $3 } /total time/ { time = $3 } /transferred ram/ { sent = $3 }
    END { printf "  %s: %s, %d ms, %.1f MiB/s\n", kind, status, time, (time > 0 ? sent / 1024 / time * 1000 : 0) }'
  grep -qE "status: completed" "$work/qemu.here" || { tail -n 5 "$work/qemu.here" "$work/qemu.there"; }
done
exit "$failed"
