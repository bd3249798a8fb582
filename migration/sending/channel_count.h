// How many page channels a move uses, where nobody has said it.
#ifndef FERRITE_MIGRATION_SENDING_CHANNEL_COUNT_H_
#define FERRITE_MIGRATION_SENDING_CHANNEL_COUNT_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"

namespace ferrite::migration {

// As many as help: one at first, and another one for as long as each raises the rate that is measured by a tenth. One
// that does not is taken back, and that is it: what is measured then is the link, or the processors. All that may be
// used are open from the beginning: to open one costs a thread and a connection, and to find out in the middle of a
// move that it cannot be opened would cost more.
//
// A function of what was measured: no I/O, no time. Threads: one.
class ChannelCount {
 public:
  // What is sent in less time is mostly what the kernel takes at once.
  static constexpr absl::Duration kLeastTime = absl::Milliseconds(100);
  static constexpr double kLeastGain = 1.1;

  // `most`: how many are open.
  explicit ChannelCount(size_t most) : most_(most) {}

  size_t now() const { return now_; }
  // It stays at that.
  bool is_found() const { return is_found_; }
  // Bytes/s that were measured: over one, two, and so on.
  const std::vector<double>& rates() const { return rates_; }
  // So many bytes went over now() channels, in a round or a part of one that nothing held back.
  void Sent(uint64_t bytes, absl::Duration took);

 private:
  const size_t most_;
  size_t now_ = 1;
  bool is_found_ = false;
  std::vector<double> rates_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_MIGRATION_SENDING_CHANNEL_COUNT_H_
