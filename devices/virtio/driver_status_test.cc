#include "devices/virtio/driver_status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "devices/virtio/device.h"

namespace ferrite::virtio {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kOffered = kTransportFeatures | 1;
constexpr uint64_t kGood = kFeatureVersion1 | 1;
constexpr uint32_t kReady = kAcknowledge | kDriver | kFeaturesOk | kDriverOk;

TEST(DriverStatusTest, BitsAreSetOneAfterTheOther) {
  struct Case {
    uint32_t status;
    uint32_t value;
    uint32_t after;
  };
  const Case cases[] = {
      {0, kAcknowledge, kAcknowledge},
      {kAcknowledge, kAcknowledge | kDriver, kAcknowledge | kDriver},
      {kAcknowledge | kDriver, kAcknowledge | kDriver | kFeaturesOk, kAcknowledge | kDriver | kFeaturesOk},
      {kAcknowledge | kDriver | kFeaturesOk, kReady, kReady},
      {0, kReady, kReady},  // all at once is in order, too
      // One whose predecessor is missing is not set.
      {0, kDriver, 0},
      {kAcknowledge, kAcknowledge | kFeaturesOk, kAcknowledge},
      {kAcknowledge, kAcknowledge | kDriver | kDriverOk, kAcknowledge | kDriver},
      {0, kFailed, kFailed},
      // None is cleared.
      {kReady, kAcknowledge, kReady},
      {kReady, kReady & ~kDriver, kReady},
      // The device's own is not the driver's, and bits that are not known are nobody's.
      {kReady | kNeedsReset, kReady | kFailed, kReady | kNeedsReset | kFailed},
      {kReady, kReady | kNeedsReset, kReady},
      {0, kAcknowledge | 0x10 | 0x1000, kAcknowledge},
  };
  for (const Case& test : cases) {
    EXPECT_EQ(StatusAfterWrite(test.status, test.value, kGood, kOffered), test.after)
        << test.status << " <- " << test.value;
  }
}

TEST(DriverStatusTest, FeaturesAreRefusedByAClearBit) {
  for (const uint64_t features : {uint64_t{1}, kFeatureVersion1 | 2}) {
    EXPECT_EQ(StatusAfterWrite(kAcknowledge | kDriver, kAcknowledge | kDriver | kFeaturesOk, features, kOffered),
              kAcknowledge | kDriver);
    EXPECT_EQ(StatusAfterWrite(0, kReady, features, kOffered), kAcknowledge | kDriver) << "nor what follows it";
  }
  EXPECT_EQ(StatusAfterWrite(kReady, kReady | kFailed, 0, kOffered), kReady | kFailed) << "looked at once";
}

TEST(DriverStatusTest, RefusalNamesTheFeatures) {
  EXPECT_TRUE(CheckFeatures(kGood, kOffered).ok());
  EXPECT_THAT(CheckFeatures(kGood | 6, kOffered).message(), HasSubstr("0x6 are not offered"));
  EXPECT_THAT(CheckFeatures(1, kOffered).message(), HasSubstr("VIRTIO_F_VERSION_1"));
}

TEST(DriverStatusTest, OnlySomeStatusesAreOnes) {
  for (const uint32_t status : {0u, kAcknowledge, kReady, kReady | kNeedsReset, kReady | kFailed}) {
    EXPECT_TRUE(IsStatus(status)) << status;
  }
  for (const uint32_t status : {kDriver, kReady & ~kAcknowledge, kReady & ~kFeaturesOk, kReady | 0x10, 0x100u}) {
    EXPECT_FALSE(IsStatus(status)) << status;
  }
}

}  // namespace
}  // namespace ferrite::virtio
