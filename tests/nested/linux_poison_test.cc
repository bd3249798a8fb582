// Pages of a real Linux guest's memory are lost for real (R9), on a host whose kernel survives that: the guest's
// process that touches one gets SIGBUS, its kernel and everything else live, and the guest moves to and fro with it.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "base/fd.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "tests/nested/linux_guest.h"

namespace ferrite {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;

constexpr uint64_t kPage = 4096;
constexpr uint64_t kBlock = uint64_t{2} << 20;  // of held_pages
constexpr int kBlocks = 10;
constexpr uint64_t kPoisoned = uint64_t{1} << 19;  // of /proc/kpageflags

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

absl::Status WriteFile(const std::string& path, absl::string_view text) {
  const Fd file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.valid() || write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return ErrnoStatus(absl::StrCat("write ", text, " to ", path));
  }
  return absl::OkStatus();
}

// An entry of pagemap, kpageflags and their like. 0 when there is none.
uint64_t Entry(const std::string& path, uint64_t index) {
  const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  uint64_t entry = 0;
  const auto at = static_cast<off_t>(index * sizeof(entry));
  return file.valid() && pread(file.get(), &entry, sizeof(entry), at) == sizeof(entry) ? entry : 0;
}

// The page frame of this machine behind `address` of another process; 0 when there is none.
uint64_t FrameOf(pid_t process, uint64_t address) {
  const uint64_t entry = Entry(absl::StrCat("/proc/", process, "/pagemap"), address / kPage);
  return (entry >> 63) != 0 ? entry & ((uint64_t{1} << 55) - 1) : 0;
}

bool Holds(pid_t process, uint64_t address, absl::string_view text) {
  std::string found(text.size(), '\0');
  const iovec here = {found.data(), found.size()};
  const iovec there = {reinterpret_cast<void*>(address), found.size()};
  return process_vm_readv(process, &here, 1, &there, 1, 0) == static_cast<ssize_t>(text.size()) && found == text;
}

// The page frame of the page that begins with `text`, `offset` behind a multiple of 2 MiB of the memory of `process`.
absl::StatusOr<uint64_t> FindPage(pid_t process, uint64_t offset, absl::string_view text) {
  std::ifstream maps(absl::StrCat("/proc/", process, "/maps"));
  for (std::string line; std::getline(maps, line);) {
    unsigned long first = 0;
    unsigned long end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx rw", &first, &end) != 2) {
      continue;
    }
    for (uint64_t address = first / kBlock * kBlock + offset; address < end; address += kBlock) {
      // What is not mapped is left so.
      const uint64_t frame = address >= first ? FrameOf(process, address) : 0;
      if (frame != 0 && Holds(process, address, text)) {
        return frame;
      }
    }
  }
  return absl::NotFoundError(absl::StrCat("no page of ", process, " begins with ", text));
}

// Of a huge page its first frame is marked.
bool IsPoisoned(uint64_t frame, uint64_t frames) {
  return (Entry("/proc/kpageflags", frame / frames * frames) & kPoisoned) != 0;
}

enum class By {
  kSoftware,  // hwpoison-inject
  kHardware,  // the machine's own memory: QEMU makes a machine check of it, which the kernel finds when it looks
};

struct Kind {
  const char* backing;
  int cpus;
  By by;
};

class LinuxPoisonTest : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(TestRunDir());
    ASSERT_EQ(WriteFile("/sys/devices/system/machinecheck/machinecheck0/check_interval", "1"), absl::OkStatus());
    if (Huge()) {
      ASSERT_EQ(WriteFile("/proc/sys/vm/nr_hugepages", "224"), absl::OkStatus());
    }
    LinuxGuest::Options options;
    options.name = GetParam().backing;
    options.kernel = "external/debian_kernel_generic/vmlinuz";
    options.initrd = "tests/nested/generic_guest.cpio.gz";
    options.memory = "192M";
    options.cpus = GetParam().cpus;
    options.more_arguments = {"--memory-backing", GetParam().backing, "--log", log_};
    auto guest = LinuxGuest::Boot(options);
    ASSERT_TRUE(guest.ok()) << guest.status();
    guest_ = std::move(*guest);
    // Its log is read at the end: it shall not speak in the middle of an answer.
    Run("echo 0 >/proc/sys/kernel/printk");
    // Off in a guest as small as this.
    Run("echo madvise >/sys/kernel/mm/transparent_hugepage/enabled");
    Run(absl::StrCat("mkfifo /tmp/ask /tmp/said && { held_pages ", kBlocks, " 0<>/tmp/ask 1<>/tmp/said 2>&1 & }"));
    ASSERT_EQ(Run("head -n 1 /tmp/said"), absl::StrCat("holds ", kBlocks, "\n"));
  }
  void TearDown() override {
    guest_.reset();
    if (Huge()) {
      EXPECT_EQ(WriteFile("/proc/sys/vm/nr_hugepages", "0"), absl::OkStatus());
    }
  }

  bool Huge() const { return absl::string_view(GetParam().backing) == "hugetlb-2M"; }
  uint64_t HostPageBytes() const { return Huge() ? kBlock : kPage; }
  // As ferrite lists it.
  uint64_t HostPage(uint64_t guest_physical) const { return guest_physical / HostPageBytes() * HostPageBytes(); }

  std::string Run(absl::string_view line) {
    auto answer = guest_->Run(line);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? *answer : "";
  }
  // What held_pages says.
  std::string Ask(absl::string_view command, int block) {
    // What ferrite says of lost pages goes to the same place as the guest's console.
    const std::string said = Run(absl::StrCat("echo ", command, " ", block, " >/tmp/ask; head -n 1 /tmp/said"));
    const std::vector<std::string> lines = absl::StrSplit(said, '\n', absl::SkipEmpty());
    return lines.empty() ? "" : lines.back();
  }
  static std::string TextOf(int block, uint64_t offset) {
    std::array<char, 64> text = {};
    (void)std::snprintf(text.data(), text.size(), "held %02d at %06zx", block, static_cast<size_t>(offset));
    return text.data();
  }
  uint64_t Where(int block) {
    uint64_t address = 0;
    EXPECT_TRUE(absl::SimpleHexAtoi(Ask("where", block), &address));
    EXPECT_NE(address, 0u);
    return address;
  }
  // The page of that block that the others of held_pages are about.
  std::string GoodText(int block) { return TextOf(block, kMiddle); }

  // Breaks it, as it is in the memory of the monitor that has the guest.
  void Break(int block, uint64_t where, By by) {
    ASSERT_EQ(where % kBlock, kMiddle);
    const absl::StatusOr<uint64_t> frame = FindPage(guest_->monitor().pid(), kMiddle, GoodText(block));
    ASSERT_TRUE(frame.ok()) << frame.status();
    if (by == By::kHardware) {
      // To the driver of the outer machine.
      std::printf("\002mce 0x%llx\n", static_cast<unsigned long long>(*frame * kPage));
      (void)std::fflush(stdout);
    } else {
      ASSERT_EQ(WriteFile("/sys/kernel/debug/hwpoison/corrupt-pfn", absl::StrCat("0x", absl::Hex(*frame))),
                absl::OkStatus());
    }
    const MonotonicTime deadline = MonotonicTime::Now() + kCommandDeadline;
    while (!IsPoisoned(*frame, HostPageBytes() / kPage) && MonotonicTime::Now() < deadline) {
    }
    ASSERT_TRUE(IsPoisoned(*frame, HostPageBytes() / kPage));
  }
  void Break(int block, By by = By::kSoftware) {
    const uint64_t where = Where(block);
    Break(block, where, by);
  }

  Json Info() {
    const auto info = guest_->Command("info", {"--json"});
    EXPECT_TRUE(info.ok() && info->code == 0) << info.status();
    return info.ok() ? Json::parse(info->output, nullptr, /*allow_exceptions=*/false) : Json();
  }
  // `ferrite info` has these blocks' pages and no other.
  void ExpectListed(const std::vector<int>& blocks) {
    std::vector<uint64_t> expected;
    for (const int block : blocks) {
      expected.push_back(HostPage(where_[block]));
    }
    const Json info = Info();
    EXPECT_EQ(info["state"], "running");
    EXPECT_EQ(info["lost_page_count"], blocks.size());
    EXPECT_THAT(info["lost_pages"].get<std::vector<uint64_t>>(), ::testing::UnorderedElementsAreArray(expected));
  }
  // What a process says that has touched the page: BUS_MCEERR_AR, and where.
  static std::string Sigbus(int block) {
    return absl::StrCat("SIGBUS code=4 at=", block, ":", absl::Hex(kMiddle, absl::kZeroPad6), " lsb=12");
  }
  void ExpectSigbus(absl::string_view command, int block) { EXPECT_EQ(Ask(command, block), Sigbus(block)); }
  void ExpectRight(const std::vector<int>& blocks) {
    for (const int block : blocks) {
      EXPECT_EQ(Ask("read", block), GoodText(block));
      EXPECT_EQ(Ask("others", block), "right") << block;
    }
  }
  // Of a move that has ended.
  void ExpectLostOnTheWay(const absl::StatusOr<std::string>& output, uint64_t pages) {
    ASSERT_TRUE(output.ok()) << output.status();
    const std::vector<std::string> lines = absl::StrSplit(*output, '\n', absl::SkipEmpty());
    const Json last = Json::parse(lines.back(), nullptr, /*allow_exceptions=*/false);
    ASSERT_TRUE(last.is_object()) << *output;
    ASSERT_EQ(last["guest"], "there") << last;
    EXPECT_EQ(last["report"]["lost_pages"], pages) << last;
    GTEST_LOG_(INFO) << lines.back();
  }

  static constexpr uint64_t kMiddle = 37 * kPage;
  std::array<uint64_t, kBlocks> where_ = {};
  const std::string log_ = absl::StrCat(getenv("TEST_UNDECLARED_OUTPUTS_DIR"), "/", GetParam().backing, ".ferrite");
  std::unique_ptr<LinuxGuest> guest_;
};

TEST_P(LinuxPoisonTest, ProcessGetsSigbusAndTheGuestLivesAndMovesToAndFro) {
  for (int block = 0; block < kBlocks; ++block) {
    where_[block] = Where(block);
  }
  // Touched here: by a process, by its kernel in write(2), by a store, and by two processors at once.
  ASSERT_NO_FATAL_FAILURE(Break(0, GetParam().by));
  ExpectSigbus("read", 0);
  ExpectListed({0});
  EXPECT_THAT(ReadFile(log_),
              HasSubstr(absl::StrCat("the host lost the guest's page at 0x", absl::Hex(HostPage(where_[0])))));
  ExpectSigbus("read", 0);
  ASSERT_NO_FATAL_FAILURE(Break(1));
  EXPECT_EQ(Ask("write", 1), "write -1 Bad address");
  ExpectSigbus("store", 1);
  ASSERT_NO_FATAL_FAILURE(Break(2));
  if (GetParam().cpus > 1) {
    EXPECT_EQ(Ask("both", 2), absl::StrCat(Sigbus(2), "; ", Sigbus(2)));
  } else {
    ExpectSigbus("store", 2);
  }
  ExpectListed({0, 1, 2});
  // What its kernel says of that: it has lived through it.
  const std::string said = Run("dmesg | grep -E 'mce: |Memory failure'");
  GTEST_LOG_(INFO) << said << guest_->Command("info")->output;
  for (int block = 0; block < 3; ++block) {
    EXPECT_THAT(said, HasSubstr(absl::StrCat("Memory failure: 0x", absl::Hex(where_[block] / kPage),
                                             ": recovery action for dirty LRU page: Recovered")));
  }
  EXPECT_THAT(said, HasSubstr(absl::StrCat("Kernel accessed poison in user space at ", absl::Hex(where_[1]))));
  EXPECT_EQ(Run("awk '/HardwareCorrupted/ {print $2}' /proc/meminfo"), "12\n");

  // Lost and not touched by anybody yet.
  ASSERT_NO_FATAL_FAILURE(Break(3));
  ASSERT_NO_FATAL_FAILURE(Break(4));
  ExpectLostOnTheWay(guest_->Move({"--json", "--mode", "precopy", "--downtime-limit", "2s"}, {"--log", log_ + ".2"}),
                     5);
  ExpectListed({0, 1, 2, 3, 4});
  ExpectSigbus("read", 3);
  ExpectSigbus("read", 0);
  ExpectRight({5, 6, 7, 8, 9});
  // And of the memory where the guest is now.
  ASSERT_NO_FATAL_FAILURE(Break(5));
  ExpectSigbus("store", 5);
  ExpectListed({0, 1, 2, 3, 4, 5});

  // Back, while another one is lost that has not left yet: the one that is last in memory. That 4 is lost nobody has
  // noticed so far.
  ASSERT_EQ(std::max_element(where_.begin() + 1, where_.end()), where_.end() - 1);
  ASSERT_EQ(guest_->StartReceiver({"--log", log_ + ".3"}), absl::OkStatus());
  auto move = guest_->StartMove({"--json", "--mode", "postcopy", "--max-postcopy-bandwidth", "8M"});
  ASSERT_TRUE(move.ok()) << move.status();
  const MonotonicTime deadline = MonotonicTime::Now() + kCommandDeadline;
  Json status = Info()["move"];
  while (MonotonicTime::Now() < deadline && (status.is_null() || status["state"] != "postcopy-active")) {
    status = Info()["move"];
  }
  ASSERT_EQ(status["state"], "postcopy-active");
  ASSERT_NO_FATAL_FAILURE(Break(9, where_[9], By::kSoftware));
  ExpectLostOnTheWay(guest_->EndMove(**move), 7);
  ExpectListed({0, 1, 2, 3, 4, 5, 9});
  ExpectSigbus("read", 9);
  ExpectSigbus("read", 4);
  ExpectRight({6, 7, 8});
  EXPECT_EQ(Run("dmesg | grep -E 'kernel BUG|BUG: (unable|Bad)|Oops|general protection' || true"), "");
  ASSERT_TRUE(guest_->Send("poweroff -f").ok());
  const auto code = guest_->WaitForExit();
  ASSERT_TRUE(code.ok()) << code.status();
  EXPECT_EQ(*code, 0) << guest_->monitor().output();
}

INSTANTIATE_TEST_SUITE_P(Memory, LinuxPoisonTest,
                         ::testing::Values(Kind{"anon", 2, By::kHardware}, Kind{"memfd", 1, By::kSoftware},
                                           Kind{"hugetlb-2M", 1, By::kSoftware}),
                         [](const auto& info) {
                           return std::string(info.index == 0 ? "Anonymous" : info.index == 1 ? "Memfd" : "Hugetlb");
                         });

}  // namespace
}  // namespace ferrite
