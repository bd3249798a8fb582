#!/bin/bash
# The wall clock is set by people and by NTP: durations, deadlines, rates and ages come from CLOCK_MONOTONIC
# (clock_gettime(2)). Reads the program's sources, which are this test's data, for whatever tells or waits for the other.
# The engine's time is that of its host's clock, which a test may move: of the engine it reads, too, what goes by the
# real one without being told.
set -euo pipefail

# By file and word: a date that is shown to people, and what tells whether a file is still the one that was read.
allowed='migration/channel/tls/tls_files.cc st_ctim
migration/channel/tls/tls_files.cc st_mtim
vmm/control/watched_event.h absl::Time
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

# The same of the engine: what a clock is by default, and what the kernel's own limits on a socket are waited with.
engine_allowed='migration/api/host.h RealClock
migration/channel/control_peer.cc RealClock
migration/channel/socket/socket.h RealClock
migration/channel/socket/socket_rendezvous.h RealClock'
engine_words='\b(MonotonicTime::Now|MonotonicNs|RealClock|SleepFor|sleep_for|nanosleep|usleep|wait_for|wait_until)\b'
engine_words+='|(^|[^.])\bPollFor\(|\bppoll\(|\bpoll\([^;()]*, (-?[1-9][0-9]*|[a-z_]+)\)|\bAwait(For|Until)\(absl::Condition|\bWaitFor\([^,()]*\)'

status=0
# What stands for a library's own (absl's waits, as the thread sanitizer sees them) speaks the library's words.
mapfile -t sources < <(find -L . \( -name '*.cc' -o -name '*.h' \) -not -path './third_party/*' | sed 's|^\./||' | sort)
# A list of sources without these would hold everything.
for file in vmm/app/main.cc base/monotonic.h vmm/control/server.cc migration/session/source.cc devices/block/block.cc \
  tests/fakes/fake_guest.cc bench/move_bench.cc; do
  [[ " ${sources[*]} " == *" $file "* ]] || { echo "the sources that were read do not have $file" && status=1; }
done

# Looks for the words `$1`, which are `$3` and only by `$2` allowed, in the sources that follow. Comments may speak of
# them.
look_for() {
  local words=$1 allowed=$2 name=$3 found
  shift 3
  found=$(grep -lE "$words" "$@" | while read -r file; do
    sed 's|//.*||' "$file" | grep -oE "$words" | sort -u | sed "s|^|$file |" || true
  done)
  while read -r line; do
    grep -qxF "$line" <<<"$allowed" || { echo "$name: $line" && status=1; }
  done <<<"$found"
  while read -r line; do
    grep -qxF "$line" <<<"$found" || { echo "allowed, and not there any more: $line" && status=1; }
  done <<<"$allowed"
}
look_for "$words" "$allowed" "the wall clock" "${sources[@]}"
mapfile -t engine < <(printf '%s\n' "${sources[@]}" | grep '^migration/')
look_for "$engine_words" "$engine_allowed" "not the clock of the engine's host" "${engine[@]}"
exit $status
