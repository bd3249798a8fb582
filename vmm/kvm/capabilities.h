// What this host's KVM can do, as a table: `ferrite doctor` prints it, and Kvm refuses a host that lacks a required
// row.
#ifndef FERRITE_VMM_KVM_CAPABILITIES_H_
#define FERRITE_VMM_KVM_CAPABILITIES_H_

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace ferrite {

// A row of the table. The texts are whole phrases for a reader who does not know KVM.
struct KvmCapability {
  const char* name;  // "KVM_CAP_IRQFD"
  int number;        // the argument of KVM_CHECK_EXTENSION
  bool required;     // ferrite does not work without it
  const char* lost;  // what is lost without it
  const char* how_to_get;
  int value = 0;  // KVM_CHECK_EXTENSION's answer; 0 means missing
};

class KvmCapabilities {
 public:
  // Fills the table: `check` answers KVM_CHECK_EXTENSION for a number.
  explicit KvmCapabilities(const std::function<int(int)>& check);

  std::span<const KvmCapability> rows() const { return rows_; }
  // The value of a capability that the table has; a CHECK fails for another number.
  int value(int number) const;
  bool has(int number) const { return value(number) > 0; }

  // UNIMPLEMENTED that names every required capability that is missing, and how to get it; OK when there is none.
  absl::Status CheckRequired() const;

 private:
  std::vector<KvmCapability> rows_;
};

}  // namespace ferrite

#endif  // FERRITE_VMM_KVM_CAPABILITIES_H_
