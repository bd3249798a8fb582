#include "vmm/machine/exit_report.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/own_memory.h"

namespace ferrite {
namespace {

std::string InternalErrorName(uint32_t suberror) {
  switch (suberror) {
    case KVM_INTERNAL_ERROR_EMULATION:
      return "an instruction that KVM cannot emulate";
    case KVM_INTERNAL_ERROR_SIMUL_EX:
      return "exceptions at the same time";
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
      return "an exit while an event was delivered";
    case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
      return "an unexpected exit of the hardware";
    default:
      return "unknown";
  }
}

std::string DescribeInternalError(const kvm_run& run) {
  std::string text = absl::StrFormat("KVM internal error, suberror %u (%s)", run.internal.suberror,
                                     InternalErrorName(run.internal.suberror));
  const uint32_t words = std::min<uint32_t>(run.internal.ndata, std::size(run.internal.data));
  if (run.internal.suberror == KVM_INTERNAL_ERROR_EMULATION && words >= 3 &&
      (run.emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0) {
    text += ", instruction bytes";
    const uint32_t bytes =
        std::min<uint32_t>(run.emulation_failure.insn_size, std::size(run.emulation_failure.insn_bytes));
    for (uint32_t i = 0; i < bytes; ++i) {
      absl::StrAppendFormat(&text, " %02x", run.emulation_failure.insn_bytes[i]);
    }
    return text;
  }
  for (uint32_t i = 0; i < words; ++i) {
    absl::StrAppendFormat(&text, "%s0x%x", i == 0 ? ", data " : " ", run.internal.data[i]);
  }
  return text;
}

}  // namespace

KvmMemoryFault MemoryFaultOf(const kvm_run& run) {
  KvmMemoryFault fault;
  std::memcpy(&fault, &run.hw, sizeof(fault));
  return fault;
}

std::string DescribeExit(const kvm_run& run) {
  switch (run.exit_reason) {
    case KVM_EXIT_UNKNOWN:
      return absl::StrFormat("exit of the hardware that KVM does not know, reason 0x%x", run.hw.hardware_exit_reason);
    case KVM_EXIT_EXCEPTION:
      return absl::StrFormat("exception %u, error code 0x%x", run.ex.exception, run.ex.error_code);
    case KVM_EXIT_HLT:
      return "HLT exit";
    case KVM_EXIT_SHUTDOWN:
      return "triple fault (shutdown exit)";
    case KVM_EXIT_FAIL_ENTRY:
      return absl::StrFormat("the hardware refused to enter the guest, reason 0x%x, processor %u",
                             run.fail_entry.hardware_entry_failure_reason, run.fail_entry.cpu);
    case KVM_EXIT_INTERNAL_ERROR:
      return DescribeInternalError(run);
    case KVM_EXIT_SYSTEM_EVENT: {
      std::string text = absl::StrFormat("system event %u", run.system_event.type);
      const uint32_t words = std::min<uint32_t>(run.system_event.ndata, std::size(run.system_event.data));
      for (uint32_t i = 0; i < words; ++i) {
        absl::StrAppendFormat(&text, "%s0x%x", i == 0 ? ", data " : " ", run.system_event.data[i]);
      }
      return text;
    }
    case KVM_EXIT_MEMORY_FAULT: {
      const KvmMemoryFault fault = MemoryFaultOf(run);
      return absl::StrFormat("memory fault at guest address 0x%x, 0x%x bytes, flags 0x%x", fault.gpa, fault.size,
                             fault.flags);
    }
    default:
      return absl::StrFormat("exit %u, which ferrite does not handle", run.exit_reason);
  }
}

std::string DescribeRunError(int error, const kvm_run& run) {
  std::string text = absl::StrCat("KVM_RUN: ", strerror(error));
  if ((error == EFAULT || error == EHWPOISON) && run.exit_reason == KVM_EXIT_MEMORY_FAULT) {
    absl::StrAppend(&text, ", ", DescribeExit(run));
  }
  if (error == EAGAIN) {
    absl::StrAppend(&text,
                    ", again and again: KVM cannot make a task of its own that it needs to run the guest "
                    "(pids.max of the control groups, `ulimit -u`, /proc/sys/kernel/threads-max)");
  }
  absl::StrAppend(&text, OwnMemoryWords(error));
  return text;
}

std::string DescribeRegisters(const KvmVcpu& vcpu) {
  const absl::StatusOr<kvm_regs> regs = vcpu.GetRegs();
  const absl::StatusOr<kvm_sregs> sregs = vcpu.GetSregs();
  if (!regs.ok() || !sregs.ok()) {
    return absl::StrCat("registers: ", (regs.ok() ? sregs.status() : regs.status()).message());
  }
  return absl::StrFormat(
      "rip %016x rsp %016x rflags %08x\n"
      "rax %016x rbx %016x rcx %016x rdx %016x\n"
      "rsi %016x rdi %016x rbp %016x\n"
      "r8  %016x r9  %016x r10 %016x r11 %016x\n"
      "r12 %016x r13 %016x r14 %016x r15 %016x\n"
      "cr0 %08x cr2 %016x cr3 %016x cr4 %08x efer %04x\n"
      "cs %04x base %016x ss %04x ds %04x gs base %016x cpl %d\n"
      "gdt %016x/%04x idt %016x/%04x tr %04x",
      regs->rip, regs->rsp, regs->rflags, regs->rax, regs->rbx, regs->rcx, regs->rdx, regs->rsi, regs->rdi, regs->rbp,
      regs->r8, regs->r9, regs->r10, regs->r11, regs->r12, regs->r13, regs->r14, regs->r15, sregs->cr0, sregs->cr2,
      sregs->cr3, sregs->cr4, sregs->efer, sregs->cs.selector, sregs->cs.base, sregs->ss.selector, sregs->ds.selector,
      sregs->gs.base, sregs->ss.dpl, sregs->gdt.base, sregs->gdt.limit, sregs->idt.base, sregs->idt.limit,
      sregs->tr.selector);
}

}  // namespace ferrite
