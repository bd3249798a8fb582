// A client of a control socket that sends what it likes and waits for nothing, for tests.
#ifndef FERRITE_TESTS_FAKES_RAW_CLIENT_H_
#define FERRITE_TESTS_FAKES_RAW_CLIENT_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "base/fd.h"
#include "base/monotonic.h"

namespace ferrite {

// Calls are pipelined on the bootstrap capability: they go out one after the other, answered or not. Destroying the
// client is what a kill of its process is for the server.
//
// Threads: one.
class RawClient {
 public:
  // Nobody answers when there is no server any more.
  explicit RawClient(const std::string& socket_path);

  // Each sends one call, and returns its number. They block while the server does not read, for as long as that takes.
  uint32_t SetBalloon(uint64_t target_bytes, uint32_t wait_ms);
  uint32_t Pause();
  uint32_t Stop();
  uint32_t Describe();
  // The call is not waited for any more.
  void GiveUp(uint32_t number);

  struct Answer {
    uint32_t number;
    absl::Status error;  // OK of Describe()
  };
  // The next answer to a call that was not given up. Nothing by the deadline, or when the server has closed the
  // connection.
  std::optional<Answer> NextAnswer(MonotonicTime deadline);

 private:
  template <typename Fill>
  uint32_t Call(uint16_t method, Fill fill);
  bool ReadBytes(void* out, size_t size, MonotonicTime deadline);

  Fd fd_;
  uint32_t next_number_ = 1;  // 0 is the bootstrap's
  std::set<uint32_t> describes_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_RAW_CLIENT_H_
