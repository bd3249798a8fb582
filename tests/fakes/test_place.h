// Where a test runs: on this host's KVM, or in the outer machine (docs/testing.md), whose processor is emulated: one,
// some thirty times slower, with less memory. tests/kvm_test.bzl sets FERRITE_TEST_PLACE there.
#ifndef FERRITE_TESTS_FAKES_TEST_PLACE_H_
#define FERRITE_TESTS_FAKES_TEST_PLACE_H_

#include <cstdlib>
#include <string_view>

namespace ferrite {

inline bool InOuterMachine() {
  const char* place = std::getenv("FERRITE_TEST_PLACE");
  return place != nullptr && std::string_view(place) == "emulated";
}

// A size, rate or wait that depends on the place; what is asserted of it does not.
template <typename T>
T ForPlace(T host, T outer_machine) {
  return InOuterMachine() ? outer_machine : host;
}

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_TEST_PLACE_H_
