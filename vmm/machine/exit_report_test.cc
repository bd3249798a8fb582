#include "vmm/machine/exit_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <string>

namespace ferrite {
namespace {

using ::testing::HasSubstr;

struct ExitCase {
  const char* name;
  std::function<void(kvm_run&)> fill;
  const char* text;
};

class DescribeExitTest : public testing::TestWithParam<ExitCase> {};
INSTANTIATE_TEST_SUITE_P(
    Exits, DescribeExitTest,
    testing::Values(ExitCase{"Shutdown", [](kvm_run& run) { run.exit_reason = KVM_EXIT_SHUTDOWN; }, "triple fault"},
                    ExitCase{"FailEntry",
                             [](kvm_run& run) {
                               run.exit_reason = KVM_EXIT_FAIL_ENTRY;
                               run.fail_entry.hardware_entry_failure_reason = 0x8000'0021;
                               run.fail_entry.cpu = 3;
                             },
                             "reason 0x80000021, processor 3"},
                    ExitCase{"Hardware",
                             [](kvm_run& run) {
                               run.exit_reason = KVM_EXIT_UNKNOWN;
                               run.hw.hardware_exit_reason = 0x77;
                             },
                             "reason 0x77"},
                    ExitCase{"InternalErrorWithData",
                             [](kvm_run& run) {
                               run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
                               run.internal.suberror = KVM_INTERNAL_ERROR_DELIVERY_EV;
                               run.internal.ndata = 2;
                               run.internal.data[0] = 0xabc;
                               run.internal.data[1] = 0xdef;
                             },
                             "suberror 3 (an exit while an event was delivered), data 0xabc 0xdef"},
                    ExitCase{"InternalErrorWithMoreDataThanThereIs",
                             [](kvm_run& run) {
                               run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
                               run.internal.suberror = 99;
                               run.internal.ndata = 0xffff'ffff;
                             },
                             "suberror 99 (unknown), data 0x0 0x0"},
                    ExitCase{"EmulationWithInstruction",
                             [](kvm_run& run) {
                               run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
                               run.emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
                               run.emulation_failure.ndata = 4;
                               run.emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
                               run.emulation_failure.insn_size = 3;
                               run.emulation_failure.insn_bytes[0] = 0x0f;
                               run.emulation_failure.insn_bytes[1] = 0xc7;
                               run.emulation_failure.insn_bytes[2] = 0x08;
                             },
                             "cannot emulate), instruction bytes 0f c7 08"},
                    ExitCase{"EmulationWithTooLongAnInstruction",
                             [](kvm_run& run) {
                               run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
                               run.emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
                               run.emulation_failure.ndata = 4;
                               run.emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
                               run.emulation_failure.insn_size = 255;
                             },
                             "instruction bytes 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00"},
                    ExitCase{"SystemEvent",
                             [](kvm_run& run) {
                               run.exit_reason = KVM_EXIT_SYSTEM_EVENT;
                               run.system_event.type = KVM_SYSTEM_EVENT_CRASH;
                               run.system_event.ndata = 1;
                               run.system_event.data[0] = 0x12;
                             },
                             "system event 3, data 0x12"},
                    ExitCase{"Other", [](kvm_run& run) { run.exit_reason = 4711; },
                             "exit 4711, which ferrite does not handle"}),
    [](const auto& info) { return info.param.name; });

TEST_P(DescribeExitTest, SaysTheExitsOwnFields) {
  kvm_run run;
  memset(&run, 0, sizeof(run));
  GetParam().fill(run);
  EXPECT_THAT(DescribeExit(run), HasSubstr(GetParam().text));
}

TEST(DescribeRunErrorTest, SaysTheAddressWhereTheKernelDoes) {
  kvm_run run;
  memset(&run, 0, sizeof(run));
  EXPECT_THAT(DescribeRunError(EFAULT, run),
              HasSubstr("KVM_RUN: Bad address; a page of the guest's memory cannot be had on this host"));
  run.exit_reason = KVM_EXIT_MEMORY_FAULT;
  const KvmMemoryFault fault = {.flags = 8, .gpa = 0x12345000, .size = 0x1000};
  memcpy(&run.hw, &fault, sizeof(fault));
  EXPECT_THAT(DescribeRunError(EFAULT, run), HasSubstr("guest address 0x12345000, 0x1000 bytes, flags 0x8"));
  EXPECT_THAT(DescribeRunError(EHWPOISON, run), HasSubstr("guest address 0x12345000"));
  EXPECT_EQ(DescribeRunError(EINVAL, run), "KVM_RUN: Invalid argument");
  EXPECT_THAT(DescribeRunError(EAGAIN, run), HasSubstr("pids.max"));
}

}  // namespace
}  // namespace ferrite
