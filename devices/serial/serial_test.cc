#include "devices/serial/serial.h"

#include <capnp/message.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"

namespace ferrite {
namespace {

// Register offsets and bits, as the data sheet has them.
constexpr uint64_t kRbrThr = 0;
constexpr uint64_t kIer = 1;
constexpr uint64_t kIirFcr = 2;
constexpr uint64_t kLcr = 3;
constexpr uint64_t kMcr = 4;
constexpr uint64_t kLsr = 5;
constexpr uint64_t kMsr = 6;
constexpr uint64_t kScr = 7;

class FakeLine : public InterruptLine {
 public:
  void Trigger() override { ++count_; }
  // Edges since the last call.
  int Take() { return count_.exchange(0); }

 private:
  std::atomic<int> count_{0};
};

class FakeBackend : public SerialBackend {
 public:
  void Transmit(std::span<const uint8_t> bytes) override { output.append(bytes.begin(), bytes.end()); }
  void SetReceiver(Receiver receiver) override { receiver_ = std::move(receiver); }
  void ReceiverReady() override { ++ready; }

  bool has_receiver() const { return receiver_ != nullptr; }
  size_t Type(const std::string& text) {
    return receiver_({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  }

  std::string output;
  std::atomic<int> ready{0};

 private:
  Receiver receiver_;
};

class SerialTest : public testing::Test {
 protected:
  SerialTest() { serial_->Resume(); }

  uint8_t In(uint64_t offset) { return In(*serial_, offset); }
  static uint8_t In(Serial& serial, uint64_t offset) {
    uint8_t value = 0x77;
    serial.Read(offset, {&value, 1});
    return value;
  }
  void Out(uint64_t offset, uint8_t value) { Out(*serial_, offset, value); }
  static void Out(Serial& serial, uint64_t offset, uint8_t value) { serial.Write(offset, {&value, 1}); }
  // Reads what was received, as a driver does.
  std::string Drain() {
    std::string text;
    while ((In(kLsr) & 1) != 0) {
      text.push_back(static_cast<char>(In(kRbrThr)));
    }
    return text;
  }

  FakeLine line_;
  FakeBackend backend_;
  std::unique_ptr<Serial> serial_ = std::make_unique<Serial>("serial0", line_, &backend_);
};

TEST_F(SerialTest, PowerOnValues) {
  EXPECT_EQ(In(kIer), 0);
  EXPECT_EQ(In(kIirFcr), 0x01);
  EXPECT_EQ(In(kLcr), 0);
  EXPECT_EQ(In(kMcr), 0);
  EXPECT_EQ(In(kLsr), 0x60);
  EXPECT_EQ(In(kMsr), 0xb0);
  EXPECT_EQ(In(kScr), 0);
  EXPECT_EQ(serial_->name(), "serial0");
}

TEST_F(SerialTest, OutputGoesToTheBackendInOrder) {
  for (const char c : std::string("hello")) {
    EXPECT_EQ(In(kLsr) & 0x60, 0x60);
    Out(kRbrThr, static_cast<uint8_t>(c));
  }
  EXPECT_EQ(backend_.output, "hello");
}

TEST_F(SerialTest, DivisorLatchHidesDataAndInterruptEnable) {
  Out(kIer, 0x05);
  Out(kLcr, 0x83);
  Out(kRbrThr, 0x34);
  Out(kIer, 0x12);
  EXPECT_EQ(In(kRbrThr), 0x34);
  EXPECT_EQ(In(kIer), 0x12);
  Out(kLcr, 0x03);
  EXPECT_EQ(In(kIer), 0x05);
  EXPECT_EQ(backend_.output, "");
}

TEST_F(SerialTest, ScratchAndControlRegistersKeepTheirBits) {
  Out(kScr, 0xa5);
  EXPECT_EQ(In(kScr), 0xa5);
  Out(kIer, 0xff);
  EXPECT_EQ(In(kIer), 0x0f);
  Out(kMcr, 0xef);
  EXPECT_EQ(In(kMcr), 0x0f);
}

// What Linux's 8250 driver does to find out what is there (serial8250_config_port). It must find a 16550A and none of
// its relatives.
TEST_F(SerialTest, LinuxAutoconfigFindsA16550A) {
  // Is anything there?
  Out(kIer, 0);
  EXPECT_EQ(In(kIer) & 0x0f, 0);
  Out(kIer, 0x0f);
  EXPECT_EQ(In(kIer) & 0x0f, 0x0f);
  Out(kIer, 0);
  // Loopback: RTS and OUT2 come back as CTS and DCD.
  const uint8_t mcr = In(kMcr);
  Out(kMcr, 0x10 | 0x0a);
  EXPECT_EQ(In(kMsr) & 0xf0, 0x90);
  Out(kMcr, mcr);
  // Which FIFO?
  Out(kLcr, 0xbf);
  Out(kIirFcr, 0);
  Out(kLcr, 0);
  Out(kIirFcr, 0x01);
  EXPECT_EQ(In(kIirFcr) >> 6, 3);
  // An extended feature register would read as 0 behind either of these.
  Out(kLcr, 0x80);
  EXPECT_NE(In(kIirFcr), 0);
  Out(kLcr, 0xbf);
  EXPECT_NE(In(kIirFcr), 0);
  // National's SuperIO has the loopback bit in a second bank.
  Out(kLcr, 0);
  const uint8_t one = In(kMcr);
  Out(kLcr, 0xe0);
  EXPECT_EQ((In(kIirFcr) ^ one) & 0x10, 0);
  Out(kLcr, 0);
  Out(kMcr, one ^ 0x10);
  Out(kLcr, 0xe0);
  EXPECT_EQ((In(kIirFcr) ^ one) & 0x10, 0);
  Out(kLcr, 0);
  Out(kMcr, one);
  // A 16750 has a 64-byte FIFO.
  Out(kIirFcr, 0x01 | 0x20);
  EXPECT_EQ(In(kIirFcr) >> 5, 6);
  Out(kIirFcr, 0x01);
  Out(kLcr, 0x80);
  Out(kIirFcr, 0x01 | 0x20);
  EXPECT_EQ(In(kIirFcr) >> 5, 6);
  Out(kIirFcr, 0x01);
  Out(kLcr, 0);
  // An XScale would keep its unit enable bit.
  Out(kIer, 0x40);
  EXPECT_EQ(In(kIer) & 0x40, 0);
  Out(kIer, 0);
  EXPECT_EQ(backend_.output, "");
}

// The tests at open (serial8250_do_startup): is the transmitter interrupt raised again when it is enabled again?
TEST_F(SerialTest, LinuxStartupTrustsTheTransmitterInterrupt) {
  Out(kIer, 0x02);
  EXPECT_EQ(In(kIirFcr) & 0x0f, 0x02);
  Out(kIer, 0);
  Out(kIer, 0x02);
  EXPECT_EQ(In(kIirFcr) & 0x0f, 0x02);
  Out(kIer, 0);
  EXPECT_EQ(In(kIirFcr) & 0x0f, 0x01);

  Out(kIer, 0x02);
  EXPECT_EQ(In(kLsr) & 0x40, 0x40);
  EXPECT_EQ(In(kIirFcr) & 0x01, 0);
  Out(kIer, 0);
}

TEST_F(SerialTest, ReadingTheIdentificationClearsTheTransmitterInterrupt) {
  Out(kIer, 0x02);
  EXPECT_EQ(line_.Take(), 1);
  EXPECT_EQ(In(kIirFcr), 0x02);
  EXPECT_EQ(In(kIirFcr), 0x01);
  Out(kRbrThr, 'x');
  EXPECT_EQ(line_.Take(), 1) << "empty again";
  Out(kRbrThr, 'y');
  EXPECT_EQ(line_.Take(), 0) << "still pending, an edge says nothing new";
  EXPECT_EQ(In(kIirFcr), 0x02);
  Out(kIer, 0x02);
  EXPECT_EQ(In(kIirFcr), 0x01) << "enabled already: nothing new";
}

TEST_F(SerialTest, TransmitterInterruptIsNotClearedWhileAHigherOneIsShown) {
  Out(kIirFcr, 0x01);
  Out(kIer, 0x03);
  ASSERT_EQ(backend_.Type("a"), 1u);
  EXPECT_EQ(In(kIirFcr), 0xc4);
  EXPECT_EQ(In(kIirFcr), 0xc4);
  EXPECT_EQ(In(kRbrThr), 'a');
  EXPECT_EQ(In(kIirFcr), 0xc2);
  EXPECT_EQ(In(kIirFcr), 0xc1);
}

TEST_F(SerialTest, CausesAreShownByPriority) {
  Out(kIirFcr, 0x01);
  Out(kIer, 0x0f);
  Out(kMcr, 0x10);  // the modem lines fall
  for (int i = 0; i < 17; ++i) {
    Out(kRbrThr, 'l');
  }
  EXPECT_EQ(In(kIirFcr), 0xc6) << "overrun";
  EXPECT_EQ(In(kLsr), 0x63);
  EXPECT_EQ(In(kLsr), 0x61) << "reading it clears the overrun";
  EXPECT_EQ(In(kIirFcr), 0xc4) << "data";
  EXPECT_EQ(Drain(), std::string(16, 'l'));
  EXPECT_EQ(In(kIirFcr), 0xc2) << "transmitter";
  EXPECT_EQ(In(kIirFcr), 0xc0) << "modem";
  EXPECT_EQ(In(kMsr), 0x0b);
  EXPECT_EQ(In(kMsr), 0x00);
  EXPECT_EQ(In(kIirFcr), 0xc1);
}

TEST_F(SerialTest, InputInterruptsAtOnceAndOnceUntilItIsRead) {
  Out(kIer, 0x01);
  Out(kIirFcr, 0x81);  // trigger level 8
  ASSERT_EQ(backend_.Type("ab"), 2u);
  EXPECT_EQ(line_.Take(), 1);
  EXPECT_EQ(In(kIirFcr), 0xcc) << "below the trigger level it is a timeout";
  ASSERT_EQ(backend_.Type("cdefgh"), 6u);
  EXPECT_EQ(line_.Take(), 0);
  EXPECT_EQ(In(kIirFcr), 0xc4);
  EXPECT_EQ(Drain(), "abcdefgh");
  EXPECT_EQ(In(kIirFcr), 0xc1);
  ASSERT_EQ(backend_.Type("i"), 1u);
  EXPECT_EQ(line_.Take(), 1);
}

TEST_F(SerialTest, ANewCauseTriggersWhileAnotherIsPending) {
  Out(kIer, 0x01);
  ASSERT_EQ(backend_.Type("a"), 1u);
  EXPECT_EQ(line_.Take(), 1);
  Out(kIer, 0x03);
  EXPECT_EQ(line_.Take(), 1) << "the transmitter's";
  Out(kIer, 0x00);
  Out(kIer, 0x01);
  EXPECT_EQ(line_.Take(), 1) << "data was there while its interrupt was off";
}

// The loop of Linux's interrupt handler against everything that happens: whoever handles until there is nothing needs
// no more edges than it gets.
TEST_F(SerialTest, AHandlerThatRunsOnlyOnEdgesLosesNothing) {
  Out(kIirFcr, 0x81);
  Out(kIer, 0x07);
  std::string to_send(1000, 0);
  std::iota(to_send.begin(), to_send.end(), char{0});
  const std::string to_type = "the quick brown fox jumps over the lazy dog, and back again. ";
  std::string received;
  size_t sent = 0;
  size_t typed = 0;
  const auto handle = [&] {
    while ((In(kIirFcr) & 1) == 0) {
      received += Drain();
      for (int i = 0; i < 16 && (In(kLsr) & 0x20) != 0 && sent < to_send.size(); ++i) {
        Out(kRbrThr, static_cast<uint8_t>(to_send[sent++]));
      }
      if (sent == to_send.size()) {
        Out(kIer, 0x05);
      }
    }
  };
  for (int rounds = 0; rounds < 1000 && (sent < to_send.size() || received.size() < to_type.size()); ++rounds) {
    typed += backend_.Type(to_type.substr(typed, 7));
    if (line_.Take() > 0) {
      handle();
    }
  }
  EXPECT_EQ(backend_.output, to_send);
  EXPECT_EQ(received, to_type);
}

TEST_F(SerialTest, LoopbackReceivesWhatItSendsAndNothingElse) {
  Out(kIirFcr, 0x01);
  Out(kIer, 0x01);
  Out(kMcr, 0x10);
  EXPECT_EQ(backend_.Type("outside"), 0u);
  Out(kRbrThr, 'i');
  EXPECT_EQ(line_.Take(), 1);
  EXPECT_EQ(Drain(), "i");
  EXPECT_EQ(backend_.output, "");
  Out(kMcr, 0x00);
  EXPECT_EQ(backend_.ready, 1);
  EXPECT_EQ(backend_.Type("outside"), 7u);
}

TEST_F(SerialTest, LoopbackModemLinesFollowTheControls) {
  const struct {
    uint8_t control;
    uint8_t line;
  } kPairs[] = {{0x01, 0x20}, {0x02, 0x10}, {0x04, 0x40}, {0x08, 0x80}, {0x0f, 0xf0}, {0x00, 0x00}};
  for (const auto& [control, line] : kPairs) {
    Out(kMcr, 0x10 | control);
    EXPECT_EQ(In(kMsr) & 0xf0, line) << int{control};
  }
  Out(kMcr, 0x14);
  EXPECT_EQ(In(kMsr), 0x40) << "the start of a ring is no change";
  Out(kMcr, 0x10);
  EXPECT_EQ(In(kMsr), 0x04) << "its end is";
}

TEST_F(SerialTest, SingleRegisterOverrunsInLoopbackWithoutFifo) {
  Out(kMcr, 0x10);
  Out(kRbrThr, 'a');
  Out(kRbrThr, 'b');
  EXPECT_EQ(In(kLsr), 0x63);
  EXPECT_EQ(Drain(), "b");
}

TEST_F(SerialTest, ReceiverTakesWhatFitsAndTheBackendHearsWhenToGoOn) {
  EXPECT_EQ(backend_.Type("ab"), 1u) << "one byte without FIFO";
  EXPECT_EQ(Drain(), "a");
  EXPECT_EQ(backend_.ready, 1);
  Out(kIirFcr, 0x01);
  EXPECT_EQ(backend_.Type("0123456789abcdefXYZ"), 16u);
  EXPECT_EQ(backend_.Type("X"), 0u);
  EXPECT_EQ(backend_.ready, 1);
  EXPECT_EQ(Drain(), "0123456789abcdef");
  EXPECT_EQ(backend_.ready, 2);
  EXPECT_EQ(backend_.Type("XYZ"), 3u);
  EXPECT_EQ(Drain(), "XYZ");
  EXPECT_EQ(backend_.ready, 2) << "nothing had been refused";
}

TEST_F(SerialTest, ClearingTheFifoDropsInputAndLetsTheBackendGoOn) {
  Out(kIirFcr, 0x01);
  EXPECT_EQ(backend_.Type("0123456789abcdefX"), 16u);
  Out(kIirFcr, 0x03);
  EXPECT_EQ(In(kLsr) & 1, 0);
  EXPECT_EQ(backend_.ready, 1);
  EXPECT_EQ(backend_.Type("new"), 3u);
  Out(kIirFcr, 0x00);
  EXPECT_EQ(In(kLsr) & 1, 0) << "switching it off empties it, too";
}

// The guest chooses offsets and widths (R11).
TEST_F(SerialTest, OtherWidthsAndOffsetsReadAsAllOnesAndChangeNothing) {
  Out(kScr, 0x5a);
  for (const size_t width : {size_t{0}, size_t{2}, size_t{4}, size_t{8}}) {
    std::vector<uint8_t> data(width, 0x77);
    serial_->Read(0, data);
    EXPECT_EQ(data, std::vector<uint8_t>(width, 0xff));
    serial_->Write(kScr, data);
    serial_->Write(0, data);
  }
  for (const uint64_t offset : {uint64_t{8}, uint64_t{0x1000}, ~uint64_t{0}}) {
    EXPECT_EQ(In(offset), 0xff);
    Out(offset, 0);
  }
  EXPECT_EQ(In(kScr), 0x5a);
  EXPECT_EQ(backend_.output, "");
}

TEST_F(SerialTest, StatusRegistersAreReadOnly) {
  Out(kLsr, 0xff);
  Out(kMsr, 0xff);
  EXPECT_EQ(In(kLsr), 0x60);
  EXPECT_EQ(In(kMsr), 0xb0);
}

TEST_F(SerialTest, WorksWithoutABackend) {
  Serial serial("serial1", line_, nullptr);
  serial.Resume();
  Out(serial, kRbrThr, 'x');
  EXPECT_EQ(In(serial, kLsr), 0x60);
  Out(serial, kMcr, 0x10);
  Out(serial, kRbrThr, 'y');
  EXPECT_EQ(In(serial, kRbrThr), 'y');
}

TEST_F(SerialTest, TheReceiverIsTakenBackBeforeThePortIsGone) {
  EXPECT_TRUE(backend_.has_receiver());
  serial_.reset();
  EXPECT_FALSE(backend_.has_receiver());
}

TEST_F(SerialTest, WhileQuiescedNothingIsReceivedAndNoInterruptTriggered) {
  Out(kIer, 0x01);
  serial_->Quiesce();
  EXPECT_EQ(backend_.Type("a"), 0u);
  EXPECT_EQ(line_.Take(), 0);
  serial_->Resume();
  EXPECT_EQ(backend_.ready, 1) << "the backend may go on";
  EXPECT_EQ(backend_.Type("a"), 1u);
  EXPECT_EQ(line_.Take(), 1);
}

TEST_F(SerialTest, ResumeTriggersAPendingInterruptAgain) {
  Out(kIer, 0x01);
  ASSERT_EQ(backend_.Type("a"), 1u);
  EXPECT_EQ(line_.Take(), 1);
  serial_->Quiesce();
  serial_->Resume();
  EXPECT_EQ(line_.Take(), 1);
}

TEST_F(SerialTest, ResetIsPowerOn) {
  Out(kIirFcr, 0x01);
  Out(kIer, 0x0f);
  Out(kScr, 1);
  Out(kMcr, 0x1f);
  Out(kLcr, 0x80);
  serial_->Quiesce();
  serial_->Reset();
  serial_->Resume();
  line_.Take();
  EXPECT_EQ(In(kIer), 0);
  EXPECT_EQ(In(kIirFcr), 0x01);
  EXPECT_EQ(In(kLcr), 0);
  EXPECT_EQ(In(kMcr), 0);
  EXPECT_EQ(In(kMsr), 0xb0);
  EXPECT_EQ(In(kScr), 0);
  EXPECT_EQ(line_.Take(), 0);
}

TEST_F(SerialTest, LoadedPortGoesOnWhereTheSavedOneStopped) {
  Out(kLcr, 0x80);
  Out(kRbrThr, 0x01);
  Out(kIer, 0x02);
  Out(kLcr, 0x1b);
  Out(kIirFcr, 0xc9);
  Out(kIer, 0x0f);
  Out(kScr, 0x42);
  Out(kMcr, 0x10);  // changes of the modem lines
  for (int i = 0; i < 17; ++i) {
    Out(kRbrThr, static_cast<uint8_t>('a' + i));
  }
  Out(kMcr, 0x0b);
  serial_->Quiesce();
  capnp::MallocMessageBuilder message;
  auto state = message.initRoot<state::Device>();
  serial_->Save(state);

  FakeLine line;
  FakeBackend backend;
  Serial loaded("serial0", line, &backend);
  ASSERT_TRUE(loaded.CheckState(state.asReader()).ok()) << loaded.CheckState(state.asReader());
  loaded.LoadState(state.asReader());
  EXPECT_EQ(line.Take(), 0) << "not before it runs";
  capnp::MallocMessageBuilder again_message;
  auto again = again_message.initRoot<state::Device>();
  loaded.Save(again);
  EXPECT_TRUE(again.asReader().toString().flatten() == state.asReader().toString().flatten());

  loaded.Resume();
  EXPECT_EQ(line.Take(), 1);
  EXPECT_EQ(In(loaded, kIer), 0x0f);
  EXPECT_EQ(In(loaded, kLcr), 0x1b);
  EXPECT_EQ(In(loaded, kMcr), 0x0b);
  EXPECT_EQ(In(loaded, kScr), 0x42);
  EXPECT_EQ(In(loaded, kIirFcr), 0xc6);
  EXPECT_EQ(In(loaded, kLsr), 0x63);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(In(loaded, kRbrThr), 'a' + i);
  }
  EXPECT_EQ(In(loaded, kIirFcr), 0xc2);
  EXPECT_EQ(In(loaded, kMsr), 0xbb);
  Out(loaded, kLcr, 0x80);
  EXPECT_EQ(In(loaded, kRbrThr), 0x01);
  EXPECT_EQ(In(loaded, kIer), 0x02);
  Out(loaded, kLcr, 0x03);
  Out(loaded, kRbrThr, '!');
  EXPECT_EQ(backend.output, "!");
}

// R7: what cannot be is refused with the device's and the field's name, and nothing changes.
TEST_F(SerialTest, StatesThatCannotBeAreRefusedByField) {
  struct Case {
    const char* field;
    std::function<void(state::Device::Builder)> spoil;
  };
  const Case kCases[] = {
      {"name", [](auto state) { state.setName("serial7"); }},
      {"kind", [](auto state) { state.setNone(); }},
      {"version", [](auto state) { state.setVersion(2); }},
      {"version", [](auto state) { state.setVersion(0); }},
      {"ier", [](auto state) { state.getSerial().setIer(0x10); }},
      {"iir", [](auto state) { state.getSerial().setIir(0x0e); }},
      {"fcr", [](auto state) { state.getSerial().setFcr(0x02); }},
      {"fcr", [](auto state) { state.getSerial().setFcr(0xc0); }},
      {"mcr", [](auto state) { state.getSerial().setMcr(0x20); }},
      {"msr", [](auto state) { state.getSerial().setMsr(0x00); }},
      {"lsr", [](auto state) { state.getSerial().setLsr(0x00); }},
      {"lsr", [](auto state) { state.getSerial().setLsr(0x61); }},
      {"received", [](auto state) { state.getSerial().initReceived(2); }},
      {"received", [](auto state) { state.getSerial().initReceived(1 << 20); }},
  };
  serial_->Quiesce();
  for (const Case& test : kCases) {
    capnp::MallocMessageBuilder message;
    auto state = message.initRoot<state::Device>();
    serial_->Save(state);
    ASSERT_TRUE(serial_->CheckState(state.asReader()).ok());
    test.spoil(state);
    const absl::Status status = serial_->CheckState(state.asReader());
    ASSERT_FALSE(status.ok()) << test.field;
    EXPECT_TRUE(absl::StartsWith(status.message(), "state of serial0: field ")) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), std::string("field ") + test.field + " ")) << status;
  }
}

// For the thread sanitizer, and that no byte is lost between the threads.
TEST_F(SerialTest, VcpusAndTheBackendMayCallAtOnce) {
  Out(kIirFcr, 0x01);
  Out(kIer, 0x03);
  constexpr size_t kBytes = 4000;
  std::string received;
  std::thread reader([&] {
    while (received.size() < kBytes) {
      received += Drain();
    }
  });
  std::thread typist([&] {
    const std::string chunk(16, 'x');
    for (size_t typed = 0; typed < kBytes;) {
      typed += backend_.Type(chunk.substr(0, std::min(chunk.size(), kBytes - typed)));
    }
  });
  std::thread writers[2];
  for (std::thread& writer : writers) {
    writer = std::thread([&] {
      for (size_t i = 0; i < kBytes; ++i) {
        Out(kRbrThr, 'o');
        (void)In(kIirFcr);
      }
    });
  }
  for (std::thread& writer : writers) {
    writer.join();
  }
  typist.join();
  reader.join();
  EXPECT_EQ(received, std::string(kBytes, 'x'));
  EXPECT_EQ(backend_.output, std::string(2 * kBytes, 'o'));
}

}  // namespace
}  // namespace ferrite
