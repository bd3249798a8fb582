#include "migration/channel/crowd.h"

#include <gtest/gtest.h>

#include <vector>

namespace ferrite::migration {
namespace {

TEST(CrowdTest, WhoHasMostMakesRoom) {
  const struct {
    const char* name;
    std::vector<Present> here;
    const char* comes;
    size_t goes;
  } rows[] = {
      {"the first of the only origin", {{"a"}, {"a"}, {"a"}}, "a", 0},
      {"the first silent one of it", {{"a"}, {"a", true}, {"a", true}}, "a", 1},
      {"of a crowd for one from elsewhere", {{"b"}, {"a"}, {"a"}, {"a"}}, "b", 1},
      {"of the crowd itself for one more of it", {{"b", true}, {"a"}, {"a"}}, "a", 1},
      {"silent, but not of the crowd: it stays", {{"b", true}, {"a"}, {"a", true}}, "c", 2},
      {"the first of many origins", {{"a"}, {"b"}, {"c"}}, "d", 0},
      {"its own when it has one among many", {{"a"}, {"b"}, {"c"}}, "b", 1},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(WhoMakesRoom(row.here, row.comes), row.goes) << row.name;
  }
}

}  // namespace
}  // namespace ferrite::migration
