// A disk in memory whose operations end when a test says so.
#ifndef FERRITE_TESTS_FAKES_FAKE_BLOCK_IO_H_
#define FERRITE_TESTS_FAKES_FAKE_BLOCK_IO_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "migration/api/block_io.h"

namespace ferrite::migration {

// Bytes that are zero where nothing was written, and take no memory there. Pages of them are data or a hole.
class SparseBytes {
 public:
  static constexpr uint64_t kPage = 4096;

  void Write(uint64_t offset, const uint8_t* data, uint64_t bytes) {
    ForEachPage(offset, bytes, [&](uint64_t page, uint64_t within, uint64_t count) {
      std::memcpy(pages_[page].data() + within, data, count);
      data += count;
    });
  }
  void Read(uint64_t offset, uint8_t* data, uint64_t bytes) const {
    ForEachPage(offset, bytes, [&](uint64_t page, uint64_t within, uint64_t count) {
      const auto found = pages_.find(page);
      if (found == pages_.end()) {
        std::memset(data, 0, count);
      } else {
        std::memcpy(data, found->second.data() + within, count);
      }
      data += count;
    });
  }
  // Whole pages of it become holes.
  void Zero(uint64_t offset, uint64_t bytes) {
    const uint64_t end = offset + bytes;
    for (auto at = pages_.lower_bound(offset / kPage); at != pages_.end() && at->first * kPage < end;) {
      const uint64_t from = std::max(at->first * kPage, offset);
      const uint64_t to = std::min((at->first + 1) * kPage, end);
      if (to - from == kPage) {
        at = pages_.erase(at);
      } else {
        std::memset(at->second.data() + from % kPage, 0, to - from);
        ++at;
      }
    }
  }
  bool IsData(uint64_t offset) const { return pages_.contains(offset / kPage); }
  // Where that changes.
  uint64_t ExtentEnd(uint64_t offset) const {
    uint64_t page = offset / kPage;
    auto at = pages_.lower_bound(page);
    if (at == pages_.end()) {
      return ~uint64_t{0};
    }
    if (at->first != page) {
      return at->first * kPage;
    }
    for (; at != pages_.end() && at->first == page; ++at) {
      ++page;
    }
    return page * kPage;
  }
  // The first byte in which the two differ below `bytes`, else `bytes`.
  uint64_t Difference(const SparseBytes& other, uint64_t bytes) const {
    uint64_t first = bytes;
    for (const auto* const pages : {&pages_, &other.pages_}) {
      for (const auto& [page, unused] : *pages) {
        std::array<uint8_t, kPage> a, b;
        const uint64_t count = std::min(kPage, bytes - std::min(bytes, page * kPage));
        Read(page * kPage, a.data(), count);
        other.Read(page * kPage, b.data(), count);
        if (std::memcmp(a.data(), b.data(), count) != 0) {
          first = std::min(first, page * kPage + static_cast<uint64_t>(
                                                     std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin()));
        }
      }
    }
    return first;
  }
  size_t pages() const { return pages_.size(); }

 private:
  template <typename Apply>
  static void ForEachPage(uint64_t offset, uint64_t bytes, Apply apply) {
    while (bytes > 0) {
      const uint64_t count = std::min(bytes, kPage - offset % kPage);
      apply(offset / kPage, offset % kPage, count);
      offset += count;
      bytes -= count;
    }
  }

  std::map<uint64_t, std::array<uint8_t, kPage>> pages_;
};

// Fails the test for an operation that breaks the contract of BlockIo, and for two in flight of which one changes what
// the other has.
class FakeBlockIo final : public BlockIo {
 public:
  struct Shape {
    std::string name = "fake";
    uint64_t bytes = 0;
    uint32_t block_bytes = 512;
    uint32_t cluster_bytes = 512;
    bool knows_extents = true;
  };
  explicit FakeBlockIo(Shape shape) : shape_(std::move(shape)) {}
  ~FakeBlockIo() override { EXPECT_TRUE(in_flight_.empty()) << name() << " goes while it has operations"; }

  absl::string_view name() const override { return shape_.name; }
  uint64_t bytes() const override { return shape_.bytes; }
  uint32_t block_bytes() const override { return shape_.block_bytes; }
  uint32_t cluster_bytes() const override { return shape_.cluster_bytes; }

  void Submit(BlockOperation& operation) override {
    using Kind = BlockOperation::Kind;
    EXPECT_EQ(operation.offset % shape_.block_bytes, 0u) << name();
    EXPECT_EQ(operation.bytes % shape_.block_bytes, 0u) << name();
    EXPECT_EQ(operation.bytes == 0, operation.kind == Kind::kFlush) << name();
    EXPECT_LE(operation.offset + operation.bytes, shape_.bytes) << name();
    EXPECT_EQ(operation.data != nullptr, operation.kind == Kind::kRead || operation.kind == Kind::kWrite) << name();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(operation.data) % SparseBytes::kPage % shape_.block_bytes, 0u) << name();
    for (const InFlight& other : in_flight_) {
      EXPECT_NE(other.operation, &operation) << name() << ": submitted twice";
      const bool overlaps = operation.offset < other.operation->offset + other.operation->bytes &&
                            other.operation->offset < operation.offset + operation.bytes;
      EXPECT_FALSE(overlaps && (Changes(operation) || Changes(*other.operation)))
          << name() << ": two at once at " << operation.offset;
    }
    ++submitted[operation.kind];
    submitted_bytes[operation.kind] += operation.bytes;
    longest = std::max(longest, operation.bytes);
    log.push_back({operation.kind, operation.offset, operation.bytes});
    in_flight_.push_back({&operation, false, false});
    most_in_flight = std::max(most_in_flight, in_flight_.size());
  }
  void Kick() override {
    for (InFlight& one : in_flight_) {
      if (!std::exchange(one.is_kicked, true) && at_kick && at_kick(*one.operation)) {
        Do(one);
      }
    }
    ++kicks;
  }
  absl::StatusOr<Extent> NextExtent(uint64_t offset) override {
    EXPECT_LT(offset, shape_.bytes);
    ++extents_asked;
    if (asked) {
      asked(offset);
    }
    if (!extent_error.ok()) {
      return extent_error;
    }
    if (!shape_.knows_extents) {
      return Extent{shape_.bytes - offset, true};
    }
    return Extent{std::min(content.ExtentEnd(offset), shape_.bytes) - offset, content.IsData(offset)};
  }

  // Those that were kicked, the one that was submitted first before the others.
  size_t ready() const {
    return static_cast<size_t>(
        std::count_if(in_flight_.begin(), in_flight_.end(), [](const InFlight& one) { return one.is_kicked; }));
  }
  size_t in_flight() const { return in_flight_.size(); }
  const BlockOperation& Operation(size_t index) const { return *in_flight_[index].operation; }
  // Ends the one of that index, with its result.
  void End(size_t index) {
    ASSERT_LT(index, in_flight_.size());
    ASSERT_TRUE(in_flight_[index].is_kicked) << name() << ": nobody has started it";
    InFlight one = in_flight_[index];
    if (!one.is_done) {
      Do(one);
    }
    in_flight_.erase(in_flight_.begin() + static_cast<std::ptrdiff_t>(index));
    one.operation->done(*one.operation);
  }
  // Those that are ready now, the first one first.
  void EndAll() {
    for (size_t left = ready(); left > 0; --left) {
      End(0);
    }
  }

  struct Entry {
    BlockOperation::Kind kind;
    uint64_t offset;
    uint64_t bytes;
  };

  SparseBytes content;
  // The error of an operation, when it is done; part of a write that fails is done.
  std::function<absl::Status(const BlockOperation&)> fails;
  // Whether it is done when it is kicked; else when it ends.
  std::function<bool(const BlockOperation&)> at_kick;
  std::function<void(uint64_t offset)> asked;  // for an extent, before it is looked up
  absl::Status extent_error;
  std::map<BlockOperation::Kind, uint64_t> submitted, submitted_bytes;
  std::vector<Entry> log;
  size_t most_in_flight = 0;
  uint64_t longest = 0;
  uint64_t kicks = 0;
  uint64_t extents_asked = 0;

 private:
  struct InFlight {
    BlockOperation* operation;
    bool is_kicked;
    bool is_done;
  };

  static bool Changes(const BlockOperation& operation) {
    return operation.kind != BlockOperation::Kind::kRead && operation.kind != BlockOperation::Kind::kFlush;
  }
  void Do(InFlight& one) {
    using Kind = BlockOperation::Kind;
    one.is_done = true;
    BlockOperation& operation = *one.operation;
    operation.result = fails ? fails(operation) : absl::OkStatus();
    const uint64_t bytes = operation.result.ok() ? operation.bytes : operation.bytes / 2;
    switch (operation.kind) {
      case Kind::kRead:
        content.Read(operation.offset, operation.data, bytes);
        break;
      case Kind::kWrite:
        content.Write(operation.offset, operation.data, bytes);
        break;
      case Kind::kWriteZeroes:
        content.Zero(operation.offset, bytes);
        break;
      case Kind::kDiscard:
      case Kind::kFlush:
        break;
    }
  }

  const Shape shape_;
  std::vector<InFlight> in_flight_;
};

}  // namespace ferrite::migration

#endif  // FERRITE_TESTS_FAKES_FAKE_BLOCK_IO_H_
