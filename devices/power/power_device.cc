#include "devices/power/power_device.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clean_text.h"

namespace ferrite {
namespace {

constexpr uint8_t kSleepEnable = 1 << 5;
constexpr uint8_t SleepType(uint8_t control) { return (control >> 2) & 7; }

// A wake-up has happened; written as one to clear it.
constexpr uint8_t kWakeStatus = 1 << 7;

}  // namespace

PowerDevice::PowerDevice(std::string name, std::function<void()> power_off, std::function<void()> reset)
    : name_(std::move(name)), power_off_(std::move(power_off)), reset_(std::move(reset)) {}

void PowerDevice::Read(uint64_t offset, std::span<uint8_t> data) {
  if (data.size() != 1 || offset >= kRegisters) {
    std::fill(data.begin(), data.end(), uint8_t{0xff});
    return;
  }
  // The other two only take what is written.
  data[0] = offset == kSleepStatus ? sleep_status_.load() : 0;
}

void PowerDevice::Write(uint64_t offset, std::span<const uint8_t> data) {
  if (data.size() != 1) {
    return;
  }
  const uint8_t value = data[0];
  switch (offset) {
    case kSleepControl:
      // There are no other sleep states.
      if ((value & kSleepEnable) != 0 && SleepType(value) == kSleepTypeS5) {
        power_off_();
      }
      break;
    case kSleepStatus:
      sleep_status_.fetch_and(static_cast<uint8_t>(~(value & kWakeStatus)));
      break;
    case kReset:
      if (value == kResetValue) {
        reset_();
      }
      break;
    default:
      break;
  }
}

void PowerDevice::Save(state::Device::Builder out) const {
  out.setName(name_);
  out.setVersion(kStateVersion);
  out.initPower().setSleepStatus(sleep_status_);
}

absl::Status PowerDevice::CheckState(state::Device::Reader in) const {
  if (absl::string_view(in.getName().cStr(), in.getName().size()) != name_) {
    return absl::InvalidArgumentError(absl::StrCat("state of ", name_, ": field name is '",
                                                   CleanText(in.getName().cStr()), "', it must be the device's"));
  }
  if (!in.isPower()) {
    return absl::InvalidArgumentError(
        absl::StrCat("state of ", name_, ": field kind is ", static_cast<int>(in.which()), ", it must be power"));
  }
  if (in.getVersion() == 0 || in.getVersion() > kStateVersion) {
    return absl::FailedPreconditionError(absl::StrCat("state of ", name_, ": field version is ", in.getVersion(),
                                                      ", this monitor knows 1 to ", kStateVersion,
                                                      "; use a newer one"));
  }
  if ((in.getPower().getSleepStatus() & ~kWakeStatus) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("state of ", name_, ": field sleepStatus cannot be ", in.getPower().getSleepStatus()));
  }
  return absl::OkStatus();
}

void PowerDevice::LoadState(state::Device::Reader in) { sleep_status_ = in.getPower().getSleepStatus(); }

}  // namespace ferrite
