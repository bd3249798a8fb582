#include "vmm/app/ferrite_move_rig.h"

#include <sys/mount.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/monotonic.h"
#include "vmm/app/exit_codes.h"

namespace ferrite {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

}  // namespace

void FerriteMoveRig::SetUp() {
  char name[] = "/tmp/ferrite-test-XXXXXX";
  ASSERT_NE(mkdtemp(name), nullptr);
  directory_ = name;
  // The test's own may be a link, and --boot-from follows none.
  kernel_ = directory_ + "/vmlinuz";
  fs::copy_file("tests/guest/dirty", kernel_);
  fs::permissions(kernel_, fs::perms::owner_all);
}

void FerriteMoveRig::TearDown() {
  for (const char* side : {"here", "there"}) {
    (void)Ferrite(side, "stop web1");
  }
  receiver_.reset();
  if (!mounted_.empty()) {
    EXPECT_EQ(umount2(mounted_.c_str(), MNT_DETACH), 0);
  }
  fs::remove_all(directory_);
}

std::vector<std::string> FerriteMoveRig::Words(const std::string& side, absl::string_view words) {
  std::vector<std::string> list = absl::StrSplit(words, ' ', absl::SkipEmpty());
  list.push_back("--run-dir");
  list.push_back(absl::StrCat(directory_, "/", side));
  return list;
}

void FerriteMoveRig::RunGuest(const std::string& side, const std::string& options, const std::string& devices,
                              absl::string_view memory) {
  std::vector<std::string> words =
      Words(side, absl::StrCat("run --name web1 --kernel ", kernel_, " --mem ", memory,
                               " --cpus 2 --detach --console file:", directory_, "/", side, ".console", devices));
  words.push_back("--cmdline");
  words.push_back(options);
  const Finished result = RunFerrite(words);
  ASSERT_EQ(result.exit_code, kExitOk) << result.err;
}

void FerriteMoveRig::RunSlowGuest(const std::string& side, const std::string& devices) {
  RunGuest(side, kSlowGuest, devices);
  EXPECT_TRUE(absl::StrContains(NextReport(side), "event=dirty"));
}

std::string FerriteMoveRig::StartReceiver(const std::string& side, const std::string& listen,
                                          const std::function<void()>& in_child) {
  return StartReceiverWith(side, absl::StrCat(listen, " --disk-from ", directory_, " --boot-from ", directory_),
                           in_child);
}

std::string FerriteMoveRig::StartReceiverWith(const std::string& side, const std::string& listen,
                                              const std::function<void()>& in_child) {
  // One that is left has the same name.
  receiver_.reset();
  FerriteReceiver started =
      StartFerriteReceiver(Words(side, absl::StrCat("receive --name web1 --listen ", listen,
                                                    " --console file:", directory_, "/", side, ".console")),
                           in_child);
  receiver_ = std::move(started.process);
  return started.address;
}

nlohmann::json FerriteMoveRig::Info(const std::string& side) {
  const Finished result = Ferrite(side, "info web1 --json");
  EXPECT_EQ(result.exit_code, kExitOk) << result.err;
  return Json::parse(result.out, nullptr, /*allow_exceptions=*/false);
}

std::string FerriteMoveRig::NextReport(const std::string& side, absl::string_view event) {
  const std::string path = absl::StrCat(directory_, "/", side, ".console");
  const size_t before = fs::file_size(path);
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (MonotonicTime::Now() < deadline) {
    std::stringstream text;
    text << std::ifstream(path).rdbuf();
    std::string fresh = text.str().substr(std::min(before, text.str().size()));
    fresh.erase(fresh.rfind('\n') + 1);  // whole lines
    for (const absl::string_view line : absl::StrSplit(fresh, '\n')) {
      if (absl::StartsWith(line, event)) {
        return std::string(line);
      }
    }
    absl::SleepFor(absl::Milliseconds(10));
  }
  return "no report";
}

void FerriteMoveRig::AwaitMemory(const std::string& side) {
  const MonotonicTime deadline = MonotonicTime::Now() + kPatience;
  while (MonotonicTime::Now() < deadline) {
    const Json move = Info(side)["move"];
    if (!move.is_null() && move["state"] == "active" && move["sent_bytes"] > 0) {
      return;
    }
  }
  ADD_FAILURE() << "the move does not get on";
}

}  // namespace ferrite
