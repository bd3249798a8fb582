// A monitor, as a process, whose guest keeps a journal on its disk (tests/guest/journal.cc).
#ifndef FERRITE_TESTS_FAKES_JOURNAL_MACHINE_H_
#define FERRITE_TESTS_FAKES_JOURNAL_MACHINE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "tests/fakes/ferrite_process.h"
#include "tests/fakes/test_place.h"

namespace ferrite {

// It is called web1, and its disk is root. A test whose runfiles are //tests/guest:journal and the program.
class JournalMachine {
 public:
  // Of the journal, at the start of the disk.
  static uint64_t Slots() { return ForPlace<uint64_t>(1024, 256); }
  // What it takes there at the most.
  static constexpr uint64_t kJournalBytes = uint64_t{4} << 20;

  // Run directory and consoles are in `directory`. Two that move to one another have names of their own, of a few
  // letters.
  explicit JournalMachine(std::string directory, std::string name = "run")
      : directory_(std::move(directory)), name_(std::move(name)) {}

  // A monitor on the disk at `image`, with `options` beside that.
  void Run(const std::string& image, absl::string_view options = "");
  // A monitor to which one comes, at address(), which names the kernel and has `options` beside that.
  void Receive(absl::string_view options);
  std::string address() const { return "unix:" + directory_ + "/" + name_ + ".listen"; }
  FerriteProcess& monitor() { return *monitor_; }

  // `ferrite WORDS`; words are separated by spaces.
  Finished Ferrite(absl::string_view words) const { return RunFerrite(Words(words)); }
  std::unique_ptr<FerriteProcess> Start(absl::string_view words) const {
    return std::make_unique<FerriteProcess>(Words(words));
  }
  // Ends it, with nothing to complain of.
  void Stop();

  // What this monitor's guest has said of one kind, a report a line, without a half one at the end.
  std::vector<std::string> Reports(absl::string_view event) const;
  static uint64_t NumberIn(const std::string& line, absl::string_view name);
  // The last number that the guest has said to be flushed. It must have seen no error.
  uint64_t Flushed() const;
  void AwaitFlushed(uint64_t number);
  // That the guest goes on from here.
  void AwaitWrites();

 private:
  std::vector<std::string> Words(absl::string_view words) const;

  // The end of the console, with at least the last report.
  std::string Tail() const;
  void LetOthersGoFirst();

  const std::string directory_;
  const std::string name_;
  std::string console_;
  int runs_ = 0;
  bool calm_ = false;  // its vCPU lets others go first
  std::unique_ptr<FerriteProcess> monitor_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_JOURNAL_MACHINE_H_
