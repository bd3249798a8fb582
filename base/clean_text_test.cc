#include "base/clean_text.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace ferrite {
namespace {

TEST(CleanTextTest, TextStaysAsItIs) {
  for (const char* text : {"", "disk root: /images/root.img: No such file or directory", "ü → 漢 😀", "~"}) {
    EXPECT_EQ(CleanText(text), text);
    EXPECT_TRUE(IsClean(text));
  }
}

TEST(CleanTextTest, WhatATerminalObeysIsReplaced) {
  const std::pair<absl::string_view, absl::string_view> rows[] = {
      {"\x1b[2J\x1b]0;title\a", "?[2J?]0;title?"},
      {"a\nb\r\tc\x7f", "a?b??c?"},
      {absl::string_view("a\0b", 3), "a?b"},
      {"\xc2\x9b"
       "2J",
       "?2J"},                                          // CSI as one character, C1
      {"\xe2\x80\xa8\xe2\x80\xae\xe2\x81\xa6", "???"},  // line separator, right-to-left override and isolate
      {"\xff\x80 \xc3", "?? ?"},                        // no UTF-8
      {"\xc0\x9b\xe0\x80\x9b", "?????"},                // ESC in forms that are too long
      {"\xed\xa0\x80\xf4\x90\x80\x80", "???????"},      // a surrogate, above the last character
      {"\xe6\xbc\x1b[m", "???[m"},                      // a character that breaks off
  };
  for (const auto& [text, shown] : rows) {
    EXPECT_EQ(CleanText(text), shown);
    EXPECT_FALSE(IsClean(text));
  }
}

TEST(CleanTextTest, LinesStayApartWhereThereMayBeSeveral) {
  EXPECT_EQ(CleanLines("rip 0\n\nrax\x1b[31m\r\n", 100), "rip 0\n\nrax?[31m?\n");
  EXPECT_EQ(CleanLines("ab\ncd\nef", 7), "ab\nc...");
}

TEST(CleanTextTest, LongTextEndsWhereACharacterDoes) {
  const std::string most(kMaxCleanText, 'a');
  EXPECT_EQ(CleanText(most), most);
  EXPECT_EQ(CleanText(most + "b"), absl::StrCat(std::string(kMaxCleanText - 3, 'a'), "..."));
  EXPECT_EQ(CleanText(std::string(size_t{16} << 20, '\x1b')), absl::StrCat(std::string(kMaxCleanText - 3, '?'), "..."));
  for (size_t before = 0; before < 3; ++before) {
    std::string text(before, 'a');
    std::string least = text;
    while (text.size() <= kMaxCleanText) {
      text += "漢";
      if (text.size() <= kMaxCleanText - 3) {
        least = text;
      }
    }
    EXPECT_EQ(CleanText(text), least + "...");
  }
}

}  // namespace
}  // namespace ferrite
