// What this host can do at most: the limits that a move is compared with, measured between two processes of their own.
#ifndef FERRITE_BENCH_MOVE_LIMITS_H_
#define FERRITE_BENCH_MOVE_LIMITS_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd.h"
#include "base/mapping.h"
#include "bench/samples.h"

namespace ferrite {

// Call all of them from a process with one thread: they fork.

enum class SocketKind { kTcp, kUnix, kTls };
const char* SocketKindName(SocketKind kind);  // "tcp"

// `bytes` of shared memory (memfd) with content that does not compress; every page is there.
absl::StatusOr<Mapping> MakeIncompressible(uint64_t bytes);

// Has a helper process touch `bytes` and end: free memory that the host took back is there again for a few seconds.
absl::Status TouchFreeMemory(uint64_t bytes);

enum class Target {
  kWarm,   // memory whose pages are there and mapped
  kFresh,  // a new memfd: each page is allocated and mapped by the read
};
// Seconds from the receiver's word to the last byte: `source` goes through one connection, or a part of it through each
// of some between two processes each, of which the slowest counts, in frames of 2 MiB behind headers
// of 32 bytes, as a move sends them, to its own place in a memfd of that size. `spin`: a third process uses as much of
// the processors as it gets, as a vCPU that polls does.
absl::StatusOr<double> RawStreamSeconds(SocketKind kind, size_t streams, std::span<const uint8_t> source, Target target,
                                        bool spin);

// Waiting for a page as the faulting thread sees it.
struct FaultSeconds {
  double p50 = 0;
  double p99 = 0;
};
// A bare handler: one thread reads the userfaultfd, asks over a socket, reads the page into a second mapping of the
// memfd and shows it with UFFDIO_CONTINUE. One thread writes to `pages` pages in random order; nothing else is under
// way.
absl::StatusOr<FaultSeconds> BareFaultSeconds(SocketKind kind, int pages);

// The limits of a benchmark's rounds, for one kind of socket.
struct MoveLimits {
  static constexpr int kFaults = 4096;

  double stream_bytes = 0;
  Samples warm_ms;
  Samples fresh_ms;
  Samples fresh_beside_vcpu_ms;
  Samples fault_p50_us;
  Samples fault_p99_us;

  // Measures each once, the stream in so many; `source` is MakeIncompressible()'s.
  absl::Status Add(SocketKind kind, std::span<const uint8_t> source, size_t streams = 1);
  // On standard output.
  void Print(SocketKind kind, size_t streams = 1) const;
};

}  // namespace ferrite

#endif  // FERRITE_BENCH_MOVE_LIMITS_H_
