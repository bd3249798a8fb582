#include "vmm/move/remedy_text.h"

#include <gtest/gtest.h>

#include "base/status.h"
#include "migration/api/remedy.h"

namespace ferrite {
namespace {

TEST(RemedyTextTest, EachRemedyHasItsWords) {
  const absl::Status error = absl::UnavailableError("nobody answers");
  EXPECT_EQ(WithRemedyText(WithRemedy(error, migration::Remedy::kForce)).message(),
            "nobody answers; --force takes the guest back all the same");
  EXPECT_EQ(WithRemedyText(WithRemedy(error, migration::Remedy::kLookAtTheirHost)).message(),
            "nobody answers; `ferrite doctor` there says why");
}

TEST(RemedyTextTest, ErrorsWithoutOneStayAsTheyAre) {
  EXPECT_EQ(WithRemedyText(absl::UnavailableError("nobody answers")), absl::UnavailableError("nobody answers"));
  EXPECT_EQ(WithRemedyText(absl::OkStatus()), absl::OkStatus());
}

TEST(RemedyTextTest, RemedySurvivesThePhasesName) {
  const absl::Status error = WithRemedy(absl::UnavailableError("nobody answers"), migration::Remedy::kForce);
  EXPECT_EQ(migration::RemedyOf(Annotate(error, "recovery")), migration::Remedy::kForce);
  EXPECT_EQ(Annotate(error, "recovery").message(), "recovery: nobody answers");
}

}  // namespace
}  // namespace ferrite
