#include "tests/fakes/machine_harness.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"

namespace ferrite {
namespace {

GuestLine ParseLine(std::string text) {
  GuestLine line;
  for (const absl::string_view word : absl::StrSplit(text, ' ')) {
    if (const size_t equals = word.find('='); equals != absl::string_view::npos) {
      line.values.emplace(word.substr(0, equals), word.substr(equals + 1));
    }
  }
  line.text = std::move(text);
  return line;
}

template <typename T>
T ValueOrDie(absl::StatusOr<T> value) {
  if (!value.ok()) {
    fprintf(stderr, "%s\n", value.status().ToString().c_str());
    FERRITE_CHECK(value.ok());
  }
  return *std::move(value);
}

}  // namespace

std::string GuestLine::Text(const std::string& name) const {
  const auto found = values.find(name);
  return found == values.end() ? "" : found->second;
}

uint64_t GuestLine::Number(const std::string& name) const { return strtoull(Text(name).c_str(), nullptr, 0); }

void GuestConsole::Transmit(std::span<const uint8_t> bytes) {
  TimedMutexLock lock(&mutex_);
  for (const uint8_t byte : bytes) {
    if (byte == '\n') {
      lines_.push_back(ParseLine(std::exchange(partial_, "")));
    } else if (byte != '\r') {
      partial_.push_back(static_cast<char>(byte));
      // A reset cuts a line, and the next guest's begins behind it.
      constexpr absl::string_view kStart = "event=";
      if (absl::EndsWith(partial_, kStart)) {
        partial_ = std::string(kStart);
      }
    }
  }
}

void GuestConsole::SetReceiver(Receiver receiver) {
  absl::MutexLock lock(&receiver_mutex_);
  receiver_ = std::move(receiver);
}

bool GuestConsole::Type(const std::string& text) {
  absl::MutexLock lock(&receiver_mutex_);
  return receiver_ && receiver_({reinterpret_cast<const uint8_t*>(text.data()), text.size()}) == text.size();
}

std::optional<GuestLine> GuestConsole::Next(const std::string& event, absl::Duration patience) {
  TimedMutexLock lock(&mutex_);
  const auto is_event = [&](const GuestLine& line) { return line.event() == event; };
  const auto found = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return std::any_of(lines_.begin() + static_cast<ptrdiff_t>(next_), lines_.end(), is_event);
  };
  if (!mutex_.AwaitFor(absl::Condition(&found), patience)) {
    return std::nullopt;
  }
  const auto line = std::find_if(lines_.begin() + static_cast<ptrdiff_t>(next_), lines_.end(), is_event);
  next_ = static_cast<size_t>(line - lines_.begin()) + 1;
  return *line;
}

std::vector<GuestLine> GuestConsole::lines() const {
  TimedMutexLock lock(&mutex_);
  return lines_;
}

size_t GuestConsole::line_count() const {
  TimedMutexLock lock(&mutex_);
  return lines_.size();
}

bool GuestConsole::NewLine(size_t count, absl::Duration patience) const {
  TimedMutexLock lock(&mutex_);
  const auto more = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return lines_.size() > count; };
  return mutex_.AwaitFor(absl::Condition(&more), patience);
}

MachineHarness::MachineHarness() : kvm_(ValueOrDie(Kvm::Open())), loop_(ValueOrDie(EventLoop::Create("devices"))) {}

MachineConfig MachineHarness::Config(const std::string& program, const std::string& command_line, uint32_t cpus) {
  MachineConfig config;
  config.name = program;
  config.cpus = cpus;
  config.memory_bytes = uint64_t{64} << 20;
  config.kernel_path = absl::StrCat("tests/guest/", program);
  config.command_line = command_line;
  return config;
}

std::unique_ptr<Machine> MachineHarness::Create(const MachineConfig& config, SerialBackend* console) {
  return ValueOrDie(Machine::Create(config, *kvm_, *loop_, console));
}

absl::Status MachineHarness::CreateError(const MachineConfig& config) {
  return Machine::Create(config, *kvm_, *loop_, nullptr).status();
}

void CopyMemory(Machine& from, Machine& to) {
  const auto regions = from.memory().regions();
  for (size_t i = 0; i < regions.size(); ++i) {
    const std::span<uint8_t> target = to.memory().regions()[i]->guest_mapping();
    FERRITE_CHECK(regions[i]->guest_mapping().size() == target.size());
    std::memcpy(target.data(), regions[i]->guest_mapping().data(), target.size());
  }
}

std::vector<uint8_t> MemoryImage(Machine& machine) {
  std::vector<uint8_t> image;
  for (const std::unique_ptr<MemoryRegion>& region : machine.memory().regions()) {
    image.insert(image.end(), region->guest_mapping().begin(), region->guest_mapping().end());
  }
  return image;
}

}  // namespace ferrite
