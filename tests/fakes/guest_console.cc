#include "tests/fakes/guest_console.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/monotonic.h"

namespace ferrite {

GuestLine::GuestLine(absl::string_view text) : text_(text) {
  for (absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> field = absl::StrSplit(word, absl::MaxSplits('=', 1));
    fields_.emplace(field.first, field.second);
  }
}

absl::string_view GuestLine::Text(absl::string_view name) const {
  const auto field = fields_.find(name);
  return field == fields_.end() ? "" : absl::string_view(field->second);
}

uint64_t GuestLine::Number(absl::string_view name) const {
  const absl::string_view text = Text(name);
  uint64_t value = 0;
  if (!absl::SimpleAtoi(text, &value) && !absl::SimpleHexAtoi(text, &value)) {
    return 0;
  }
  return value;
}

absl::StatusOr<GuestLine> GuestConsole::WaitFor(absl::string_view event, absl::Duration timeout) {
  const MonotonicTime deadline = MonotonicTime::Now() + timeout;
  TimedMutexLock lock(&mutex_);
  for (;;) {
    while (next_ < lines_.size()) {
      const GuestLine& line = lines_[next_++];
      if (line.event() == event) {
        return line;
      }
      if (line.event() == "fail") {
        return absl::InternalError(absl::StrCat("the payload failed: ", line.text()));
      }
    }
    if (stopped_) {
      return absl::UnavailableError(absl::StrCat("the machine stopped before event=", event, ": ", failure_));
    }
    const auto changed = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return next_ < lines_.size() || stopped_; };
    if (!mutex_.AwaitUntil(absl::Condition(&changed), deadline)) {
      return absl::DeadlineExceededError(absl::StrCat("no event=", event, " from the payload"));
    }
  }
}

std::optional<GuestLine> GuestConsole::Next(absl::string_view event, absl::Duration patience) {
  auto line = WaitFor(event, patience);
  return line.ok() ? std::optional(*std::move(line)) : std::nullopt;
}

void GuestConsole::SkipLines() {
  TimedMutexLock lock(&mutex_);
  next_ = lines_.size();
}

std::vector<GuestLine> GuestConsole::lines() const {
  TimedMutexLock lock(&mutex_);
  return lines_;
}

std::vector<std::string> GuestConsole::errors() const {
  TimedMutexLock lock(&mutex_);
  std::vector<std::string> errors;
  for (const GuestLine& line : lines_) {
    if (line.event() == "error") {
      errors.push_back(line.text());
    }
  }
  return errors;
}

size_t GuestConsole::line_count() const {
  TimedMutexLock lock(&mutex_);
  return lines_.size();
}

bool GuestConsole::NewLine(size_t count, absl::Duration patience) const {
  TimedMutexLock lock(&mutex_);
  const auto more = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return lines_.size() > count; };
  return mutex_.AwaitFor(absl::Condition(&more), patience);
}

absl::Status GuestConsole::Send(char command, absl::Duration timeout) {
  const MonotonicTime deadline = MonotonicTime::Now() + timeout;
  const uint8_t byte = static_cast<uint8_t>(command);
  for (;;) {
    uint64_t room_before = 0;
    {
      TimedMutexLock lock(&mutex_);
      room_before = room_;
    }
    {
      absl::MutexLock lock(&receiver_mutex_);
      if (receiver_ == nullptr) {
        return absl::UnavailableError("no serial port is connected");
      }
      if (receiver_({&byte, 1}) == 1) {
        return absl::OkStatus();
      }
    }
    TimedMutexLock lock(&mutex_);
    const auto has_room = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return room_ != room_before || stopped_; };
    if (!mutex_.AwaitUntil(absl::Condition(&has_room), deadline)) {
      return absl::DeadlineExceededError("the payload takes no command");
    }
    if (stopped_) {
      return absl::UnavailableError(absl::StrCat("the machine stopped before it took a command: ", failure_));
    }
  }
}

void GuestConsole::SetStopped(bool stopped, std::string why) {
  TimedMutexLock lock(&mutex_);
  stopped_ = stopped;
  failure_ = std::move(why);
}

void GuestConsole::Transmit(std::span<const uint8_t> bytes) {
  TimedMutexLock lock(&mutex_);
  for (const uint8_t byte : bytes) {
    if (byte == '\n') {
      lines_.emplace_back(std::exchange(partial_, ""));
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

void GuestConsole::ReceiverReady() {
  TimedMutexLock lock(&mutex_);
  ++room_;
}

}  // namespace ferrite
