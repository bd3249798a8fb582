#include "devices/bus/bus.h"

#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"

namespace ferrite {
namespace {

constexpr uint64_t kLast = ~uint64_t{0};

// Answers its number, and remembers the last access.
class FakeDevice : public IoDevice {
 public:
  explicit FakeDevice(uint8_t number) : number_(number) {}

  void Read(uint64_t offset, std::span<uint8_t> data) override {
    last_offset = offset;
    std::fill(data.begin(), data.end(), number_);
  }
  void Write(uint64_t offset, std::span<const uint8_t> data) override {
    last_offset = offset;
    written.assign(data.begin(), data.end());
  }

  uint64_t last_offset = kLast;
  std::vector<uint8_t> written;

 private:
  const uint8_t number_;
};

std::vector<uint8_t> ReadBytes(Bus& bus, uint64_t address, size_t bytes) {
  std::vector<uint8_t> data(bytes, 0x77);
  bus.Read(address, data);
  return data;
}

using Bytes = std::vector<uint8_t>;

// What is logged while one of these lives.
class CapturedLog {
 public:
  CapturedLog() : before_(spdlog::default_logger()) {
    auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(text_);
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("test", std::move(sink)));
  }
  ~CapturedLog() { spdlog::set_default_logger(before_); }

  std::string text() const { return text_.str(); }
  size_t lines() const {
    const std::string all = text();
    return static_cast<size_t>(std::count(all.begin(), all.end(), '\n'));
  }

 private:
  std::ostringstream text_;
  std::shared_ptr<spdlog::logger> before_;
};

TEST(BusTest, DevicesSeeOffsetsAndTheirOwnAccessesOnly) {
  Bus bus("mmio");
  FakeDevice one(1);
  FakeDevice two(2);
  ASSERT_TRUE(bus.Add("one", 0x1000, 0x100, &one).ok());
  ASSERT_TRUE(bus.Add("two", 0x1100, 0x100, &two).ok());

  EXPECT_EQ(ReadBytes(bus, 0x1000, 4), Bytes(4, 1));
  EXPECT_EQ(one.last_offset, 0u);
  EXPECT_EQ(ReadBytes(bus, 0x10ff, 1), Bytes(1, 1));
  EXPECT_EQ(one.last_offset, 0xffu);
  EXPECT_EQ(ReadBytes(bus, 0x1100, 8), Bytes(8, 2));
  EXPECT_EQ(two.last_offset, 0u);

  const Bytes value = {9, 8};
  bus.Write(0x11fe, value);
  EXPECT_EQ(two.last_offset, 0xfeu);
  EXPECT_EQ(two.written, value);
  EXPECT_TRUE(one.written.empty());
}

TEST(BusTest, WhatNobodyAnswersReadsAsAllOnes) {
  const CapturedLog log;
  Bus bus("pio");
  FakeDevice device(1);
  ASSERT_TRUE(bus.Add("device", 0x1000, 0x100, &device).ok());
  for (const uint64_t address : {uint64_t{0}, uint64_t{0xfff}, uint64_t{0x1100}, kLast}) {
    EXPECT_EQ(ReadBytes(bus, address, 1), Bytes(1, 0xff)) << address;
    bus.Write(address, Bytes{1});
  }
  EXPECT_EQ(device.last_offset, kLast);
}

TEST(BusTest, AnAccessAcrossTheEndOfAWindowGoesToNobody) {
  const CapturedLog log;
  Bus bus("mmio");
  FakeDevice one(1);
  FakeDevice two(2);
  ASSERT_TRUE(bus.Add("one", 0x1000, 0x10, &one).ok());
  ASSERT_TRUE(bus.Add("two", 0x1010, 0x10, &two).ok());
  EXPECT_EQ(ReadBytes(bus, 0x100e, 4), Bytes(4, 0xff));
  EXPECT_EQ(ReadBytes(bus, 0xffe, 4), Bytes(4, 0xff));
  bus.Write(0x101f, Bytes{1, 2});
  EXPECT_EQ(one.last_offset, kLast);
  EXPECT_EQ(two.last_offset, kLast);
}

TEST(BusTest, OverlapsAreRefusedAndNamed) {
  Bus bus("mmio");
  FakeDevice device(1);
  ASSERT_TRUE(bus.Add("first", 0x1000, 0x100, &device).ok());
  const struct {
    uint64_t base;
    uint64_t bytes;
  } kOverlaps[] = {{0x1000, 0x100}, {0x1000, 1}, {0x10ff, 1}, {0xfff, 2}, {0, 0x10000}, {0x1050, 0x1000}, {0, kLast}};
  for (const auto& [base, bytes] : kOverlaps) {
    const absl::Status status = bus.Add("second", base, bytes, &device);
    EXPECT_TRUE(absl::IsAlreadyExists(status)) << base << " " << bytes << ": " << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "overlaps first at 0x1000")) << status;
  }
  EXPECT_TRUE(bus.Add("before", 0xf00, 0x100, &device).ok());
  EXPECT_TRUE(bus.Add("after", 0x1100, 0x100, &device).ok());
}

TEST(BusTest, WindowsThatAreEmptyOrWrapAreRefused) {
  Bus bus("mmio");
  FakeDevice device(1);
  EXPECT_TRUE(absl::IsInvalidArgument(bus.Add("empty", 0x1000, 0, &device)));
  EXPECT_TRUE(absl::IsInvalidArgument(bus.Add("wraps", kLast, 2, &device)));
  EXPECT_TRUE(absl::IsInvalidArgument(bus.Add("wraps", 0x1000, kLast, &device)));
}

TEST(BusTest, AWindowMayReachTheEndOfTheAddressSpace) {
  const CapturedLog log;
  Bus bus("mmio");
  FakeDevice device(1);
  ASSERT_TRUE(bus.Add("last", kLast - 15, 16, &device).ok());
  EXPECT_EQ(ReadBytes(bus, kLast, 1), Bytes(1, 1));
  EXPECT_EQ(device.last_offset, 15u);
  EXPECT_EQ(ReadBytes(bus, kLast, 2), Bytes(2, 0xff));
}

TEST(BusTest, UnclaimedAccessesAreLoggedOnceForEachAddress) {
  const CapturedLog log;
  Bus bus("mmio");
  for (int i = 0; i < 5; ++i) {
    ReadBytes(bus, 0xfeb00000, 4);
    bus.Write(0xfeb00000, Bytes{1});
  }
  EXPECT_EQ(log.lines(), 1u) << log.text();
  EXPECT_TRUE(absl::StrContains(log.text(), "mmio bus: read of 4 bytes at 0xfeb00000")) << log.text();
  bus.Write(0xfeb00004, Bytes{1, 2});
  EXPECT_EQ(log.lines(), 2u);
  EXPECT_TRUE(absl::StrContains(log.text(), "mmio bus: write of 2 bytes at 0xfeb00004")) << log.text();
}

// The guest chooses the addresses: it must not fill the log or the monitor's memory with them (R11).
TEST(BusTest, TheNumberOfLoggedAddressesHasALimit) {
  const CapturedLog log;
  Bus bus("mmio");
  for (uint64_t address = 0; address < 10000; ++address) {
    ReadBytes(bus, address, 1);
  }
  EXPECT_EQ(log.lines(), 64u);
}

TEST(BusTest, ManyThreadsMayAccessAtOnce) {
  const CapturedLog log;
  class Constant : public IoDevice {
    void Read(uint64_t, std::span<uint8_t> data) override { std::fill(data.begin(), data.end(), uint8_t{3}); }
    void Write(uint64_t, std::span<const uint8_t>) override {}
  } device;
  Bus bus("mmio");
  ASSERT_TRUE(bus.Add("device", 0x1000, 0x10, &device).ok());
  std::array<std::thread, 4> threads;
  for (std::thread& thread : threads) {
    thread = std::thread([&bus] {
      for (uint64_t i = 0; i < 2000; ++i) {
        ASSERT_EQ(ReadBytes(bus, 0x1000, 1), Bytes(1, 3));
        ASSERT_EQ(ReadBytes(bus, 0x2000 + i % 100, 1), Bytes(1, 0xff));
        bus.Write(0x3000 + i % 100, Bytes{1});
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(log.lines(), 64u);
}

}  // namespace
}  // namespace ferrite
