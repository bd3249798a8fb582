// The last bytes that a console printed, addressed by their position in all of the output.
#ifndef FERRITE_VMM_CONSOLE_OUTPUT_RING_H_
#define FERRITE_VMM_CONSOLE_OUTPUT_RING_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace ferrite {

// Every reader keeps a position of its own, so that one buffer serves the slow, the fast and the late. Address space is
// taken at once, memory as output comes, up to the capacity. Not thread-safe.
class OutputRing {
 public:
  explicit OutputRing(size_t capacity) : capacity_(capacity) { data_.reserve(capacity_); }

  // Takes no memory that was not taken before: it is called where a guest's processor stands still.
  void Append(std::span<const uint8_t> bytes);

  // Positions of the oldest byte that is still there and of the next one to come.
  uint64_t begin() const { return end_ - data_.size(); }
  uint64_t end() const { return end_; }

  // Copies from `position` (in [begin(), end()]) as many bytes as there are and fit; returns the number.
  size_t Read(uint64_t position, std::span<uint8_t> out) const;

 private:
  const size_t capacity_;
  std::vector<uint8_t> data_;  // byte `p` of the output is at p % capacity_ once it is full, at p before
  uint64_t end_ = 0;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_CONSOLE_OUTPUT_RING_H_
