#include "tests/fakes/journal_machine.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/monotonic.h"
#include "tests/guest/journal_blocks.h"

namespace ferrite {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(120);

}  // namespace

std::vector<std::string> JournalMachine::Words(absl::string_view words) const {
  std::vector<std::string> list = absl::StrSplit(words, ' ', absl::SkipEmpty());
  list.insert(list.end(), {"--run-dir", directory_ + "/" + name_});
  return list;
}

void JournalMachine::Run(const std::string& image, absl::string_view options) {
  console_ = absl::StrCat(directory_, "/", name_, ".console", ++runs_);
  std::vector<std::string> words =
      Words(absl::StrCat("run --name web1 --kernel tests/guest/journal --mem 32M --disk id=root,path=", image,
                         " --console file:", console_, " ", options));
  words.insert(words.end(), {"--cmdline", absl::StrCat("slots=", Slots(), " report_ms=", ForPlace(2, 20),
                                                       " pause_us=", ForPlace(200, 5000))});
  monitor_ = std::make_unique<FerriteProcess>(words);
  calm_ = false;
}

void JournalMachine::Receive(absl::string_view options) {
  // The one before is gone, with its name and its socket.
  monitor_.reset();
  console_ = absl::StrCat(directory_, "/", name_, ".console", ++runs_);
  FerriteReceiver started =
      StartFerriteReceiver(Words(absl::StrCat("receive --name web1 --kernel tests/guest/journal --listen ", address(),
                                              " --console file:", console_, " ", options)));
  EXPECT_EQ(started.address, address());
  monitor_ = std::move(started.process);
  calm_ = false;
}

// The guest polls its disk: it shall take no time from those who work for it.
void JournalMachine::LetOthersGoFirst() {
  std::error_code ended;
  for (const auto& task :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", monitor_->pid(), "/task"), ended)) {
    std::string name;
    std::ifstream(task.path() / "comm") >> name;
    pid_t thread = 0;
    const sched_param none = {};
    if (absl::StartsWith(name, "vcpu") && absl::SimpleAtoi(task.path().filename().string(), &thread)) {
      calm_ = sched_setscheduler(thread, SCHED_IDLE, &none) == 0 || calm_;
    }
  }
}

void JournalMachine::Stop() {
  const Finished stopped = Ferrite("stop web1");
  EXPECT_EQ(stopped.exit_code, 0) << stopped.err;
  const Finished ended = monitor_->Wait();
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
}

std::vector<std::string> JournalMachine::Reports(absl::string_view event) const {
  std::stringstream text;
  text << std::ifstream(console_).rdbuf();
  std::vector<std::string> lines = absl::StrSplit(text.str(), '\n');
  lines.pop_back();
  std::erase_if(lines, [start = absl::StrCat("event=", event, " ")](const std::string& line) {
    return !absl::StartsWith(line, start);
  });
  return lines;
}

uint64_t JournalMachine::NumberIn(const std::string& line, absl::string_view name) {
  for (const absl::string_view field : absl::StrSplit(line, ' ')) {
    uint64_t number = 0;
    if (absl::StartsWith(field, name) && absl::SimpleAtoi(field.substr(name.size()), &number)) {
      return number;
    }
  }
  ADD_FAILURE() << name << " is not in: " << line;
  return 0;
}

std::string JournalMachine::Tail() const {
  std::ifstream file(console_);
  constexpr std::streamoff kLongest = 512;  // of two reports
  file.seekg(0, std::ios::end);
  file.seekg(std::max<std::streamoff>(0, file.tellg() - std::streamoff{kLongest}));
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

uint64_t JournalMachine::Flushed() const {
  std::vector<std::string> lines = absl::StrSplit(Tail(), '\n');
  // A half one.
  lines.pop_back();
  if (lines.empty() || !absl::StartsWith(lines.back(), "event=journal ")) {
    return 0;
  }
  EXPECT_EQ(NumberIn(lines.back(), "errors="), 0u) << lines.back();
  return NumberIn(lines.back(), "flushed=");
}

void JournalMachine::AwaitFlushed(uint64_t number) {
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (Flushed() < number) {
    if (!calm_) {
      LetOthersGoFirst();
    }
    ASSERT_LT(MonotonicTime::Now(), deadline) << "the guest does not flush " << number;
    ASSERT_FALSE(monitor_->HasEnded()) << monitor_->Wait().err;
    absl::SleepFor(ForPlace(absl::Milliseconds(5), absl::Milliseconds(50)));
  }
}

void JournalMachine::AwaitWrites() { AwaitFlushed(Flushed() + 2 * guest::kJournalBatch); }

}  // namespace ferrite
