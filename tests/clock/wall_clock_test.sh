#!/bin/bash
# The wall clock is set by people and by NTP: durations, deadlines, rates and ages come from CLOCK_MONOTONIC
# (clock_gettime(2)). Reads the program's sources, which are this test's data, for whatever tells or waits for the other.
set -euo pipefail

# By file and word: a date that is shown to people, and what tells whether a file is still the one that was read.
allowed='vmm/control/client.h absl::Time
vmm/control/server.cc absl::Now
vmm/move/boot_files.cc st_ctim
vmm/move/boot_files.cc st_mtim'

# absl's waits with a limit end by the wall clock, whichever way it is given. So does the age of a file.
words='absl::(Time|Now|UnixEpoch|GetCurrentTimeNanos)\b'
words+='|\b(Await|(Reader|Writer)?LockWhen|Wait|WaitForNotification)With(Timeout|Deadline)\b'
words+='|\b(system_clock|high_resolution_clock|utc_clock|deadline_timer|system_timer|last_write_time|st_[amc]tim(e|espec)?)\b'
words+='|\bCLOCK_REALTIME(_COARSE)?\b|\b(gettimeofday|ftime|timespec_get|systemCoarseCalendarClock|systemPreciseCalendarClock)\b'
words+='|\b(pthread_cond_timedwait|pthread_mutex_timedlock|pthread_rwlock_timed[rw]+lock|sem_timedwait|mq_timed[a-z]+)\b'
words+='|\b(std::)?time\((nullptr|NULL|0)\)'

status=0
mapfile -t sources < <(find -L . -name '*.cc' -o -name '*.h' | sed 's|^\./||' | sort)
# A list of sources without these would hold everything.
for file in vmm/app/main.cc base/monotonic.h vmm/control/server.cc migration/session/source.cc devices/block/block.cc \
  tests/fakes/fake_guest.cc bench/move_bench.cc; do
  [[ " ${sources[*]} " == *" $file "* ]] || { echo "the sources that were read do not have $file" && status=1; }
done

# Comments may speak of it.
found=$(grep -lE "$words" "${sources[@]}" | while read -r file; do
  sed 's|//.*||' "$file" | grep -oE "$words" | sort -u | sed "s|^|$file |" || true
done)
while read -r line; do
  grep -qxF "$line" <<<"$allowed" || { echo "the wall clock: $line" && status=1; }
done <<<"$found"
while read -r line; do
  grep -qxF "$line" <<<"$found" || { echo "allowed, and not there any more: $line" && status=1; }
done <<<"$allowed"
exit $status
