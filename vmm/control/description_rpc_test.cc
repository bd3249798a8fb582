#include "vmm/control/description_rpc.h"

#include <capnp/message.h>
#include <gtest/gtest.h>

#include <string>

namespace ferrite {
namespace {

constexpr char kOdd[] = "\x1b[2Jvm";
constexpr char kClean[] = "?[2Jvm";

TEST(DescriptionRpcTest, WordsOfAnybodysMonitorAreClean) {
  capnp::MallocMessageBuilder message;
  auto out = message.initRoot<control::Description>();
  out.setName(kOdd);
  out.setVersion(kOdd);
  out.setMemoryBacking(kOdd);
  out.setKernel(kOdd);
  out.setInitrd(kOdd);
  out.setCommandLine(kOdd);
  out.initMove().setDestination(kOdd);
  out.initArrival().setDestination(kOdd);
  auto statistics = out.initBalloon().initStatistics(1);
  statistics[0].setName(kOdd);
  statistics[0].setValue(7);
  const MachineDescription machine = ReadDescription(out.asReader());
  for (const std::string& text : {machine.name, machine.version, machine.memory_backing, machine.kernel, machine.initrd,
                                  machine.command_line, machine.move.where, machine.arrival.where}) {
    EXPECT_EQ(text, kClean);
  }
  ASSERT_EQ(machine.balloon.statistics.size(), 1u);
  EXPECT_EQ(machine.balloon.statistics[0].first, kClean);
  EXPECT_EQ(machine.balloon.statistics[0].second, 7u);
}

TEST(DescriptionRpcTest, FiguresComeAsTheyWereSaid) {
  capnp::MallocMessageBuilder message;
  auto out = message.initRoot<control::Description>();
  out.setState(control::State::RUNNING);
  out.setPid(4711);
  out.setUptimeMs(1500);
  out.setCpus(2);
  out.setMemoryBytes(3);
  out.setMemoryResidentBytes(4);
  out.setMemoryHugeBytes(5);
  out.setLostPageCount(10);
  out.initLostPages(1).set(0, 0x5000);
  out.setStartedNs(5);
  out.setFirstEntryNs(6);
  out.setConsoleDroppedBytes(7);
  out.setHasBalloon(true);
  out.initBalloon().setTargetBytes(8);
  out.getBalloon().setActualBytes(9);
  const MachineDescription machine = ReadDescription(out.asReader());
  EXPECT_EQ(machine.state, MachineState::kRunning);
  EXPECT_EQ(machine.pid, 0) << "what it says of itself proves nothing";
  EXPECT_EQ(machine.uptime, absl::Milliseconds(1500));
  EXPECT_EQ(machine.cpus, 2u);
  EXPECT_EQ(machine.memory_bytes, 3u);
  EXPECT_EQ(machine.memory_resident_bytes, 4u);
  EXPECT_EQ(machine.memory_huge_bytes, 5u);
  EXPECT_EQ(machine.lost_page_count, 10u);
  EXPECT_EQ(machine.lost_pages, std::vector<uint64_t>{0x5000});
  EXPECT_EQ(machine.started_ns, 5);
  EXPECT_EQ(machine.first_entry_ns, 6);
  EXPECT_EQ(machine.console_dropped_bytes, 7u);
  EXPECT_TRUE(machine.has_balloon);
  EXPECT_EQ(machine.balloon.target_bytes, 8u);
  EXPECT_EQ(machine.balloon.actual_bytes, 9u);
  for (const auto& [said, meant] : {std::pair(control::State::CREATED, MachineState::kCreated),
                                    {control::State::PAUSED, MachineState::kPaused},
                                    {control::State::STOPPED, MachineState::kStopped},
                                    {static_cast<control::State>(99), MachineState::kStopped}}) {
    out.setState(said);
    EXPECT_EQ(ReadDescription(out.asReader()).state, meant);
  }
}

}  // namespace
}  // namespace ferrite
