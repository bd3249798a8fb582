// A base of run directories, for as long as a test.
#ifndef FERRITE_TESTS_FAKES_RUN_BASE_RIG_H_
#define FERRITE_TESTS_FAKES_RUN_BASE_RIG_H_

#include <gtest/gtest.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "vmm/control/grant_record.h"
#include "vmm/control/run_dir.h"

namespace ferrite {

// Not under TEST_TMPDIR: its name may be too long for a socket's.
class RunBaseTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ferrite-run-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    base_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(base_); }

  // A machine whose monitor was killed: it was made by a child that ended without running destructors.
  void LeaveStale(const std::string& name, const std::string& handed_over_to = "") {
    const pid_t child = fork();
    if (child == 0) {
      auto dir = RunDir::Create(base_, name);
      if (!dir.ok() || !(*dir)->ListenOnControlSocket().ok()) {
        _exit(1);
      }
      std::ofstream((*dir)->log_path()) << "log";
      if (!handed_over_to.empty() && !WriteGrantRecord((*dir)->directory(), {}, 7, handed_over_to).ok()) {
        _exit(1);
      }
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
  }

  std::string base_;
};

}  // namespace ferrite

#endif  // FERRITE_TESTS_FAKES_RUN_BASE_RIG_H_
