#include "vmm/app/rdma_probe.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/byte_size.h"
#include "base/clock.h"
#include "base/thread_maker.h"
#include "migration/channel/rdma/ibverbs.h"

namespace ferrite {
namespace {

constexpr char kRdmaArea[] = "RDMA";
constexpr char kNoRdma[] = "machines move over rdma:HOST:PORT neither from here nor to here; tcp does without";

Finding Missing(std::string value) {
  return {.area = kRdmaArea,
          .name = "devices",
          .state = FindingState::kMissing,
          .value = std::move(value),
          .cost = kNoRdma,
          .remedy =
              "libibverbs1, librdmacm1 and ibverbs-providers, and an adapter with its driver or a software one: "
              "rdma link add rxe0 type rxe netdev DEVICE"};
}

Finding FindingOf(const migration::VerbsDevice& device) {
  Finding finding{.area = kRdmaArea, .name = device.name};
  const std::string where =
      device.net_devices.empty() ? "" : absl::StrCat(" on ", absl::StrJoin(device.net_devices, ", "));
  finding.value =
      absl::StrCat(device.transport, where, ", port ", device.port_state, ", ", device.most_registrations,
                   " registrations of up to ", RoundedByteSize(device.most_registration), ", ", device.most_queue_pairs,
                   " queue pairs, on-demand paging ", device.on_demand_paging ? "there (not used)" : "not there");
  if (device.port_state != "active") {
    finding.state = FindingState::kMissing;
    finding.cost = kNoRdma;
    finding.remedy = absl::StrCat("bring the link up", where);
  }
  return finding;
}

}  // namespace

std::vector<Finding> RdmaFindings(const absl::StatusOr<std::vector<migration::VerbsDevice>>& devices) {
  if (!devices.ok() || devices->empty()) {
    return {Missing(devices.ok() ? "none" : std::string(devices.status().message()))};
  }
  std::vector<Finding> findings;
  for (const migration::VerbsDevice& device : *devices) {
    findings.push_back(FindingOf(device));
  }
  return findings;
}

std::vector<Finding> ProbeRdma() {
  ThreadMaker threads;
  const absl::StatusOr<std::unique_ptr<migration::Verbs>> verbs = migration::LoadIbverbs(RealClock(), threads);
  return RdmaFindings(verbs.ok() ? (*verbs)->Devices() : verbs.status());
}

}  // namespace ferrite
