// Two monitors and a guest that checks its own memory, for tests of `ferrite move` and what belongs to it.
#ifndef FERRITE_VMM_APP_FERRITE_MOVE_RIG_H_
#define FERRITE_VMM_APP_FERRITE_MOVE_RIG_H_

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "tests/fakes/ferrite_process.h"

namespace ferrite {

inline constexpr absl::Duration kPatience = absl::Seconds(60);

// What it touches comes at once, whatever the limit: so slowly that a move with a limit does not end meanwhile.
inline constexpr char kSlowGuest[] = "mode=step set=32M report_ms=10 rate=500";

// The machine is web1 at both sides, "here" and "there".
class FerriteMoveRig : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // Each side has its own base for run directories, so that one name is free at both.
  Finished Ferrite(const std::string& side, absl::string_view words) { return RunFerrite(Words(side, words)); }
  std::vector<std::string> Words(const std::string& side, absl::string_view words);

  void RunGuest(const std::string& side, const std::string& options, const std::string& devices = "",
                absl::string_view memory = "64M");
  // All of its memory is there to be moved.
  void RunSlowGuest(const std::string& side, const std::string& devices = "");

  // Returns the address at which it waits, once it does. It may have the files in the test's directory.
  std::string StartReceiver(const std::string& side, const std::string& listen,
                            const std::function<void()>& in_child = nullptr);
  std::string StartReceiverWith(const std::string& side, const std::string& listen,
                                const std::function<void()>& in_child = nullptr);

  nlohmann::json Info(const std::string& side);
  // A line of that event that the guest prints there from now on.
  std::string NextReport(const std::string& side, absl::string_view event = "event=dirty");
  // Until the move is on and memory goes.
  void AwaitMemory(const std::string& side);

  std::string directory_;
  std::string kernel_;
  std::string mounted_;  // by the test, in its directory
  std::unique_ptr<FerriteProcess> receiver_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_APP_FERRITE_MOVE_RIG_H_
