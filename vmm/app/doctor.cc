#include "vmm/app/doctor.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "vmm/app/host_probe.h"
#include "vmm/app/kvm_probe.h"
#include "vmm/app/rdma_probe.h"
#include "vmm/app/tls_probe.h"
#include "vmm/app/userfault_probe.h"

namespace ferrite {

absl::string_view FindingStateName(FindingState state) {
  switch (state) {
    case FindingState::kOk:
      return "ok";
    case FindingState::kLimited:
      return "limited";
    case FindingState::kMissing:
      return "missing";
  }
  return "unknown";
}

DoctorReport RunDoctor() {
  DoctorReport report;
  KvmProbe kvm = ProbeKvm();
  report.host_runs_linux = kvm.runs_linux;
  report.verdict = std::move(kvm.verdict);
  report.findings = std::move(kvm.findings);
  for (auto&& findings : {ProbeUserfault(), ProbeMemory(), ProbeIo(), ProbeTls(), ProbeRdma(), ProbeLimits()}) {
    report.findings.insert(report.findings.end(), findings.begin(), findings.end());
  }
  return report;
}

std::string RenderDoctorText(const DoctorReport& report) {
  size_t name_width = 0;
  for (const Finding& finding : report.findings) {
    name_width = std::max(name_width, finding.name.size());
  }
  std::string text;
  const std::string* area = nullptr;
  for (const Finding& finding : report.findings) {
    if (area == nullptr || *area != finding.area) {
      area = &finding.area;
      absl::StrAppend(&text, text.empty() ? "" : "\n", *area, "\n");
    }
    absl::StrAppendFormat(&text, "  %-8s %-*s  %s\n", FindingStateName(finding.state), static_cast<int>(name_width),
                          finding.name, finding.value);
    if (!finding.cost.empty()) {
      absl::StrAppend(&text, "             costs: ", finding.cost, "\n");
    }
    if (!finding.remedy.empty()) {
      absl::StrAppend(&text, "             to get it: ", finding.remedy, "\n");
    }
  }
  absl::StrAppend(&text, text.empty() ? "" : "\n", report.verdict, "\n");
  return text;
}

std::string RenderDoctorJson(const DoctorReport& report) {
  nlohmann::ordered_json json;
  json["host_runs_linux"] = report.host_runs_linux;
  json["verdict"] = report.verdict;
  json["findings"] = nlohmann::ordered_json::array();
  for (const Finding& finding : report.findings) {
    json["findings"].push_back({{"area", finding.area},
                                {"name", finding.name},
                                {"state", std::string(FindingStateName(finding.state))},
                                {"value", finding.value},
                                {"cost", finding.cost},
                                {"remedy", finding.remedy}});
  }
  // Text of the kernel's files may be no UTF-8; replacing it keeps dump() from throwing.
  return json.dump(2, ' ', /*ensure_ascii=*/false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace ferrite
