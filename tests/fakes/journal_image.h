// The journal that a guest kept on a disk (tests/guest/journal_blocks.h), seen from outside.
#ifndef FERRITE_TESTS_FAKES_JOURNAL_IMAGE_H_
#define FERRITE_TESTS_FAKES_JOURNAL_IMAGE_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/fd.h"
#include "tests/guest/journal_blocks.h"

namespace ferrite {

// At the start of the file or block device at `path`.
class JournalImage {
 public:
  JournalImage(const std::string& path, uint64_t slots) : numbers_(slots) {
    audit_.numbers = numbers_.data();
    audit_.slots = slots;
    const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::vector<uint64_t> words(slots * guest::kWordsInPage);
    const size_t bytes = slots * guest::kJournalBlockBytes;
    EXPECT_EQ(pread(fd.get(), words.data(), bytes, 0), static_cast<ssize_t>(bytes)) << path;
    for (uint64_t slot = 0; slot < slots; ++slot) {
      audit_.See(slot, &words[slot * guest::kWordsInPage]);
    }
  }
  JournalImage(const JournalImage&) = delete;
  JournalImage& operator=(const JournalImage&) = delete;

  uint64_t last() const { return audit_.last; }
  // As the blocks know it: one batch less than what the guest may have heard.
  uint64_t flushed() const { return audit_.flushed; }
  bool IsOfOneInstant() const { return audit_.IsOfOneInstant(); }
  uint64_t MissingUpTo(uint64_t number) const { return audit_.MissingUpTo(number); }
  std::string Words() const {
    return absl::StrCat("last ", audit_.last, ", flushed ", audit_.flushed, ", of these ",
                        audit_.MissingUpTo(audit_.flushed), " are missing, ", audit_.broken, " are broken");
  }

 private:
  std::vector<uint64_t> numbers_;
  guest::JournalAudit audit_ = {};
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_JOURNAL_IMAGE_H_
