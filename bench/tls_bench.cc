// A stream over TLS beside a raw one of OpenSSL's, over the loopback device, in one run: what our own code costs.
//
//   bazel run -c opt //bench:tls_bench [MIB [ROUNDS]]
//
// Both write from, and read to, memory as large as what goes; the raw one by 16 KiB, a record, on sockets that wait.
// The rounds take turns; what is printed is the median of each, and of the ratio.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "base/thread.h"
#include "bench/raw_end.h"
#include "migration/channel/socket/socket.h"
#include "migration/channel/tls/tls_credentials.h"
#include "tests/fakes/accepting.h"
#include "tests/fakes/test_thread.h"
#include "tests/fakes/tls_pair.h"
#include "tests/fakes/tls_place.h"

namespace ferrite::migration {
namespace {

constexpr size_t kFrame = 1 << 20;  // that a page channel gathers

using Ends = std::pair<std::unique_ptr<SocketStream>, std::unique_ptr<SocketStream>>;

Ends Connected() {
  const EventFd never = *EventFd::Create();
  const auto listener = *Listener::Create(*ParseAddress("tcp:127.0.0.1:0"));
  auto source = *Connect(listener->address(), absl::Seconds(10), never);
  return {std::move(source), *Accept(*listener, never)};
}

double Seconds(const std::function<void()>& write, const std::function<void()>& read) {
  const MonotonicTime start = MonotonicTime::Now();
  {
    const Thread writer = StartOrDie("bench-write", write);
    read();
  }
  return absl::ToDoubleSeconds(MonotonicTime::Now() - start);
}

double Ours(const TlsPlace& place, std::span<uint8_t> from, std::span<uint8_t> to) {
  TlsPair pair = ShakeHands(*place.source(), *place.destination(), Connected());
  return Seconds(
      [&] {
        for (size_t at = 0; at < from.size(); at += kFrame) {
          FERRITE_CHECK((*pair.source)->WriteAll(std::span<const uint8_t>(from).subspan(at, kFrame)).ok());
        }
      },
      [&] {
        for (size_t at = 0; at < to.size(); at += kFrame) {
          FERRITE_CHECK((*pair.destination)->ReadRest(to.subspan(at, kFrame)).ok());
        }
      });
}

double Raw(const TlsCredentials& source, const TlsCredentials& destination, std::span<uint8_t> from,
           std::span<uint8_t> to) {
  const Ends ends = Connected();
  std::optional<RawEnd> writer;
  Thread other = StartOrDie(
      "bench-hands", [&] { writer = *RawEnd::ShakeHands(ends.first->fd(), *source.NewConnection("localhost")); });
  RawEnd reader = *RawEnd::ShakeHands(ends.second->fd(), *destination.NewConnection(""));
  other.Join();
  return Seconds([&] { FERRITE_CHECK(writer->Write(from).ok()); }, [&] { FERRITE_CHECK(reader.Read(to).ok()); });
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int Run(size_t mib, int rounds) {
  std::vector<uint8_t> from(mib << 20, 0x5a);
  std::vector<uint8_t> to(mib << 20, 1);
  const TlsPlace place;
  const auto source = *TlsCredentials::Load(place.options(), TlsSide::kSource);
  const auto destination = *TlsCredentials::Load(place.options(), TlsSide::kDestination);
  std::vector<double> ours, raw, ratio;
  for (int i = 0; i < rounds; ++i) {
    ours.push_back(static_cast<double>(mib) / Ours(place, from, to));
    raw.push_back(static_cast<double>(mib) / Raw(*source, *destination, from, to));
    ratio.push_back(ours.back() / raw.back());
  }
  std::printf("%zu MiB, %d rounds: TlsStream %.0f MiB/s, raw OpenSSL %.0f MiB/s, ratio %.3f\n", mib, rounds,
              Median(ours), Median(raw), Median(ratio));
  return 0;
}

}  // namespace
}  // namespace ferrite::migration

int main(int argc, char** argv) {
  const size_t mib = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 256;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 7;  // NOLINT(cert-err34-c)
  if (mib == 0 || rounds <= 0) {
    std::fprintf(stderr, "usage: tls_bench [MIB [ROUNDS]]\n");
    return 2;
  }
  return ferrite::migration::Run(mib, rounds);
}
