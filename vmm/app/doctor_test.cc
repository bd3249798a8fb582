#include "vmm/app/doctor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "vmm/app/host_probe.h"
#include "vmm/app/kvm_probe.h"
#include "vmm/app/rdma_probe.h"
#include "vmm/app/tls_probe.h"

namespace ferrite {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

DoctorReport MadeUpReport() {
  return {.host_runs_linux = true,
          .verdict = "Linux runs here",
          .findings = {{.area = "KVM", .name = "/dev/kvm", .value = "API 12"},
                       {.area = "KVM",
                        .name = "speed",
                        .state = FindingState::kLimited,
                        .value = "2 million",
                        .cost = "no Linux",
                        .remedy = "nest it"},
                       {.area = "memory",
                        .name = "huge pages",
                        .state = FindingState::kMissing,
                        .value = "0 free",
                        .cost = "more faults",
                        .remedy = "reserve some"}}};
}

TEST(DoctorTest, TextNamesAreaStateCostAndRemedy) {
  EXPECT_EQ(RenderDoctorText(MadeUpReport()),
            "KVM\n"
            "  ok       /dev/kvm    API 12\n"
            "  limited  speed       2 million\n"
            "             costs: no Linux\n"
            "             to get it: nest it\n"
            "\n"
            "memory\n"
            "  missing  huge pages  0 free\n"
            "             costs: more faults\n"
            "             to get it: reserve some\n"
            "\n"
            "Linux runs here\n");
}

TEST(DoctorTest, TlsOfTheKernelIsToldWithWhatItsLackCosts) {
  EXPECT_EQ(KernelTlsFinding(0).state, FindingState::kOk);
  const Finding none = KernelTlsFinding(ENOENT);
  EXPECT_EQ(none.state, FindingState::kLimited);
  EXPECT_EQ(none.value, "not there");
  EXPECT_THAT(none.remedy, HasSubstr("modprobe tls"));
  ASSERT_EQ(ProbeTls().size(), 1u);
}

TEST(DoctorTest, RdmaDevicesAreToldWithWhatTheyCan) {
  const migration::VerbsDevice device{.name = "mlx5_0",
                                      .transport = "RoCE",
                                      .port_state = "active",
                                      .most_registration = uint64_t{1} << 40,
                                      .most_registrations = 1000,
                                      .most_queue_pairs = 500,
                                      .on_demand_paging = true,
                                      .net_devices = {"eth1"}};
  migration::VerbsDevice down = device;
  down.port_state = "down";
  const std::vector<Finding> two = RdmaFindings(std::vector<migration::VerbsDevice>{device, down});
  ASSERT_EQ(two.size(), 2u);
  EXPECT_EQ(two[0].state, FindingState::kOk);
  EXPECT_EQ(
      two[0].value,
      "RoCE on eth1, port active, 1000 registrations of up to 1 TiB, 500 queue pairs, on-demand paging there (not "
      "used)");
  EXPECT_EQ(two[1].state, FindingState::kMissing);
  EXPECT_EQ(two[1].remedy, "bring the link up on eth1");
  // Neither is a reason not to move over TCP.
  for (const auto& none : {RdmaFindings(std::vector<migration::VerbsDevice>{}),
                           RdmaFindings(absl::UnavailableError("libibverbs.so.1: not there"))}) {
    ASSERT_EQ(none.size(), 1u);
    EXPECT_EQ(none[0].state, FindingState::kMissing);
    EXPECT_THAT(none[0].cost, HasSubstr("tcp does without"));
  }
  EXPECT_FALSE(ProbeRdma().empty());
}

TEST(DoctorTest, JsonHoldsTheSame) {
  const auto json = nlohmann::json::parse(RenderDoctorJson(MadeUpReport()));
  EXPECT_EQ(json["host_runs_linux"], true);
  EXPECT_EQ(json["verdict"], "Linux runs here");
  ASSERT_EQ(json["findings"].size(), 3u);
  EXPECT_EQ(json["findings"][0]["state"], "ok");
  EXPECT_EQ(json["findings"][1]["area"], "KVM");
  EXPECT_EQ(json["findings"][1]["state"], "limited");
  EXPECT_EQ(json["findings"][1]["cost"], "no Linux");
  EXPECT_EQ(json["findings"][2]["state"], "missing");
  EXPECT_EQ(json["findings"][2]["name"], "huge pages");
  EXPECT_EQ(json["findings"][2]["remedy"], "reserve some");
}

TEST(DoctorTest, JsonSurvivesTextThatIsNoUtf8) {
  DoctorReport report = MadeUpReport();
  report.findings[0].value = "\xff\xfe";
  EXPECT_TRUE(nlohmann::json::accept(RenderDoctorJson(report)));
}

TEST(DoctorTest, EmptyReportIsItsVerdict) {
  EXPECT_EQ(RenderDoctorText({.verdict = "nothing"}), "nothing\n");
  EXPECT_TRUE(nlohmann::json::parse(RenderDoctorJson({}))["findings"].is_array());
}

// Whatever this host is and whatever a sandbox forbids.
TEST(DoctorTest, RunsOnAnyHostAndSaysWhatEachMissingThingCosts) {
  const DoctorReport report = RunDoctor();
  EXPECT_THAT(report.verdict, Not(IsEmpty()));
  std::set<std::string> areas;
  for (const Finding& finding : report.findings) {
    areas.insert(finding.area);
    EXPECT_THAT(finding.name, Not(IsEmpty()));
    EXPECT_THAT(finding.value, Not(IsEmpty())) << finding.name;
    const bool ok = finding.state == FindingState::kOk;
    EXPECT_EQ(finding.cost.empty(), ok) << finding.name;
    EXPECT_EQ(finding.remedy.empty(), ok) << finding.name;
  }
  EXPECT_EQ(areas, (std::set<std::string>{"KVM", "userfaultfd", "memory", "I/O and fences", "TLS", "RDMA", "limits"}));
}

// As AsyncIo::Create() has it.
TEST(DoctorTest, WithoutIoUringDisksAreLimitedAndNotMissing) {
  EXPECT_EQ(IoUringFinding(0).state, FindingState::kOk);
  for (const int error : {ENOSYS, ENOMEM, EPERM}) {
    const Finding finding = IoUringFinding(error);
    EXPECT_EQ(finding.state, FindingState::kLimited);
    EXPECT_THAT(finding.cost, HasSubstr("threads"));
    EXPECT_THAT(finding.remedy, Not(IsEmpty()));
  }
}

TEST(DoctorTest, LimitsOfControlGroupsAreToldWithTheirFile) {
  constexpr uint64_t kHuge = uint64_t{2} << 20;
  EXPECT_EQ(GroupMemoryFinding(std::nullopt).state, FindingState::kOk);
  EXPECT_EQ(GroupHugePagesFinding("2M", kHuge, std::nullopt).state, FindingState::kOk);
  const GroupLimit limit{.file = "/groups/x.max", .limit = 4 * kHuge, .used = 3 * kHuge};
  EXPECT_EQ(GroupMemoryFinding(limit).value, "8.0 MiB, 6.0 MiB in use");
  EXPECT_THAT(GroupMemoryFinding(limit).remedy, HasSubstr("/groups/x.max"));
  const Finding some = GroupHugePagesFinding("2M", kHuge, limit);
  EXPECT_EQ(some.state, FindingState::kLimited);
  EXPECT_EQ(some.value, "1 left of 4");
  EXPECT_THAT(some.remedy, HasSubstr("/groups/x.max"));
  EXPECT_EQ(GroupHugePagesFinding("2M", kHuge, GroupLimit{.file = "f", .limit = 0, .used = 0}).state,
            FindingState::kMissing);
}

TEST(DoctorTest, WithoutKvmLinuxDoesNotRun) {
  const KvmProbe probe = ProbeKvm("/nonexistent/kvm");
  EXPECT_FALSE(probe.runs_linux);
  EXPECT_THAT(probe.verdict, HasSubstr("Linux does not run here"));
  ASSERT_EQ(probe.findings.size(), 1u);
  EXPECT_EQ(probe.findings[0].state, FindingState::kMissing);
  EXPECT_THAT(probe.findings[0].remedy, Not(IsEmpty()));
}

}  // namespace
}  // namespace ferrite
