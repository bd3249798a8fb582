#include "devices/serial/serial.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clean_text.h"

namespace ferrite {
namespace {

// Register offsets; the comment says what else is there.
constexpr uint64_t kData = 0;             // with DLAB: divisor, low byte
constexpr uint64_t kInterruptEnable = 1;  // with DLAB: divisor, high byte
constexpr uint64_t kInterruptId = 2;      // written: FIFO control
constexpr uint64_t kLineControl = 3;
constexpr uint64_t kModemControl = 4;
constexpr uint64_t kLineStatus = 5;
constexpr uint64_t kModemStatus = 6;
constexpr uint64_t kScratch = 7;

// Interrupt enable, and the causes under the same bits.
constexpr uint8_t kReceived = 1 << 0;
constexpr uint8_t kTransmitterEmpty = 1 << 1;
constexpr uint8_t kLineError = 1 << 2;
constexpr uint8_t kModemChange = 1 << 3;
constexpr uint8_t kInterruptEnableMask = 0x0f;

// Interrupt identification, highest priority first.
constexpr uint8_t kIdLineError = 0x06;
constexpr uint8_t kIdReceived = 0x04;
constexpr uint8_t kIdTimeout = 0x0c;
constexpr uint8_t kIdTransmitterEmpty = 0x02;
constexpr uint8_t kIdModemChange = 0x00;
constexpr uint8_t kIdNone = 0x01;
constexpr uint8_t kIdFifoEnabled = 0xc0;

constexpr uint8_t kFifoEnable = 1 << 0;
constexpr uint8_t kFifoClearReceiver = 1 << 1;
constexpr uint8_t kFifoDmaMode = 1 << 3;
constexpr uint8_t kFifoTrigger = 0xc0;
constexpr uint8_t kFifoStored = kFifoEnable | kFifoDmaMode | kFifoTrigger;

constexpr uint8_t kDivisorAccess = 1 << 7;

constexpr uint8_t kDataTerminalReady = 1 << 0;
constexpr uint8_t kRequestToSend = 1 << 1;
constexpr uint8_t kOut1 = 1 << 2;
constexpr uint8_t kOut2 = 1 << 3;
constexpr uint8_t kLoopback = 1 << 4;
constexpr uint8_t kModemControlMask = 0x1f;

constexpr uint8_t kDataReady = 1 << 0;
constexpr uint8_t kOverrun = 1 << 1;
constexpr uint8_t kTransmitterIdle = 0x60;  // holding register empty, transmitter empty

constexpr uint8_t kClearToSend = 1 << 4;
constexpr uint8_t kDataSetReady = 1 << 5;
constexpr uint8_t kRing = 1 << 6;
constexpr uint8_t kCarrier = 1 << 7;
constexpr uint8_t kModemLines = 0xf0;
// The low half says which of the high half changed; the ring indicator only when it ends.
constexpr uint8_t kModemChanges = 0x0f;
constexpr uint8_t kRingEnded = 1 << 2;

size_t TriggerLevel(uint8_t fifo_control) {
  static constexpr uint8_t kLevels[] = {1, 4, 8, 14};
  return kLevels[fifo_control >> 6];
}

// The modem lines that the guest sees for its modem control register.
uint8_t ModemLines(uint8_t modem_control) {
  if ((modem_control & kLoopback) == 0) {
    return kClearToSend | kDataSetReady | kCarrier;
  }
  uint8_t lines = 0;
  lines |= (modem_control & kRequestToSend) != 0 ? kClearToSend : 0;
  lines |= (modem_control & kDataTerminalReady) != 0 ? kDataSetReady : 0;
  lines |= (modem_control & kOut1) != 0 ? kRing : 0;
  lines |= (modem_control & kOut2) != 0 ? kCarrier : 0;
  return lines;
}

}  // namespace

bool Serial::Registers::divisor_access() const { return (line_control & kDivisorAccess) != 0; }
bool Serial::Registers::loopback() const { return (modem_control & kLoopback) != 0; }
bool Serial::Registers::fifo_enabled() const { return (fifo_control & kFifoEnable) != 0; }

uint8_t Serial::Registers::line_status() const {
  return static_cast<uint8_t>(kTransmitterIdle | (received > 0 ? kDataReady : 0) | (overrun ? kOverrun : 0));
}

uint8_t Serial::Registers::pending() const {
  uint8_t causes = 0;
  causes |= overrun ? kLineError : 0;
  causes |= received > 0 ? kReceived : 0;
  causes |= transmitter_interrupt ? kTransmitterEmpty : 0;
  causes |= (modem_status & kModemChanges) != 0 ? kModemChange : 0;
  return causes & interrupt_enable;
}

uint8_t Serial::Registers::interrupt_identification() const {
  const uint8_t fifo = fifo_enabled() ? kIdFifoEnabled : 0;
  const uint8_t causes = pending();
  if ((causes & kLineError) != 0) {
    return fifo | kIdLineError;
  }
  if ((causes & kReceived) != 0) {
    const bool timeout = fifo_enabled() && received < TriggerLevel(fifo_control);
    return fifo | (timeout ? kIdTimeout : kIdReceived);
  }
  if ((causes & kTransmitterEmpty) != 0) {
    return fifo | kIdTransmitterEmpty;
  }
  return fifo | ((causes & kModemChange) != 0 ? kIdModemChange : kIdNone);
}

Serial::Serial(std::string name, InterruptLine& interrupt, SerialBackend* backend)
    : name_(std::move(name)), interrupt_(interrupt), backend_(backend) {
  if (backend_ != nullptr) {
    backend_->SetReceiver([this](std::span<const uint8_t> bytes) { return Receive(bytes); });
  }
}

Serial::~Serial() {
  if (backend_ != nullptr) {
    backend_->SetReceiver(nullptr);
  }
}

void Serial::Read(uint64_t offset, std::span<uint8_t> data) {
  if (data.size() != 1 || offset >= kRegisters) {
    std::fill(data.begin(), data.end(), uint8_t{0xff});
    return;
  }
  bool receiver_ready = false;
  {
    absl::MutexLock lock(&mutex_);
    data[0] = ReadLocked(offset);
    UpdateInterruptLocked();
    receiver_ready = TakeReceiverReadyLocked();
  }
  if (receiver_ready) {
    backend_->ReceiverReady();
  }
}

void Serial::Write(uint64_t offset, std::span<const uint8_t> data) {
  if (data.size() != 1 || offset >= kRegisters) {
    return;
  }
  absl::MutexLock order(&transmit_mutex_);
  bool transmit = false;
  bool receiver_ready = false;
  {
    absl::MutexLock lock(&mutex_);
    transmit = offset == kData && !registers_.divisor_access() && !registers_.loopback();
    WriteLocked(offset, data[0]);
    UpdateInterruptLocked();
    receiver_ready = TakeReceiverReadyLocked();
  }
  if (backend_ != nullptr && transmit) {
    backend_->Transmit(data);
  }
  if (receiver_ready) {
    backend_->ReceiverReady();
  }
}

uint8_t Serial::ReadLocked(uint64_t offset) {
  switch (offset) {
    case kData: {
      if (registers_.divisor_access()) {
        return static_cast<uint8_t>(registers_.divisor);
      }
      if (registers_.received == 0) {
        return 0;
      }
      const uint8_t oldest = registers_.fifo[0];
      std::copy(registers_.fifo.begin() + 1, registers_.fifo.end(), registers_.fifo.begin());
      --registers_.received;
      return oldest;
    }
    case kInterruptEnable:
      return registers_.divisor_access() ? static_cast<uint8_t>(registers_.divisor >> 8) : registers_.interrupt_enable;
    case kInterruptId: {
      const uint8_t id = registers_.interrupt_identification();
      // To be told that the transmitter is empty clears that cause; the others stay until their reason is gone.
      if ((id & ~kIdFifoEnabled) == kIdTransmitterEmpty) {
        registers_.transmitter_interrupt = false;
      }
      return id;
    }
    case kLineControl:
      return registers_.line_control;
    case kModemControl:
      return registers_.modem_control;
    case kLineStatus: {
      const uint8_t status = registers_.line_status();
      registers_.overrun = false;
      return status;
    }
    case kModemStatus: {
      const uint8_t status = registers_.modem_status;
      registers_.modem_status &= kModemLines;
      return status;
    }
    default:
      return registers_.scratch;
  }
}

void Serial::WriteLocked(uint64_t offset, uint8_t value) {
  switch (offset) {
    case kData:
      if (registers_.divisor_access()) {
        registers_.divisor = static_cast<uint16_t>((registers_.divisor & 0xff00) | value);
        break;
      }
      if (registers_.loopback()) {
        LoopBackLocked(value);
      }
      registers_.transmitter_interrupt = true;
      break;
    case kInterruptEnable:
      if (registers_.divisor_access()) {
        registers_.divisor = static_cast<uint16_t>((registers_.divisor & 0x00ff) | (value << 8));
        break;
      }
      // Who starts to listen is told that the transmitter is empty: drivers wait for that to send their first byte.
      if ((value & ~registers_.interrupt_enable & kTransmitterEmpty) != 0) {
        registers_.transmitter_interrupt = true;
      }
      registers_.interrupt_enable = value & kInterruptEnableMask;
      break;
    case kInterruptId:
      SetFifoControlLocked(value);
      break;
    case kLineControl:
      registers_.line_control = value;
      break;
    case kModemControl:
      SetModemControlLocked(value);
      break;
    case kScratch:
      registers_.scratch = value;
      break;
    default:  // The status registers: only factories write them.
      break;
  }
}

void Serial::SetFifoControlLocked(uint8_t value) {
  const bool enable = (value & kFifoEnable) != 0;
  // Switching the FIFO on or off empties it, too. Without the enable bit the others do not count.
  if (enable != registers_.fifo_enabled() || (enable && (value & kFifoClearReceiver) != 0)) {
    registers_.received = 0;
  }
  registers_.fifo_control = enable ? value & kFifoStored : 0;
}

void Serial::SetModemControlLocked(uint8_t value) {
  const uint8_t before = registers_.modem_status & kModemLines;
  registers_.modem_control = value & kModemControlMask;
  const uint8_t now = ModemLines(registers_.modem_control);
  uint8_t changes = static_cast<uint8_t>((before ^ now) >> 4);
  if ((now & kRing) != 0) {
    changes &= static_cast<uint8_t>(~kRingEnded);
  }
  registers_.modem_status = static_cast<uint8_t>(now | (registers_.modem_status & kModemChanges) | changes);
}

void Serial::LoopBackLocked(uint8_t value) {
  if (registers_.received < registers_.capacity()) {
    registers_.fifo[registers_.received++] = value;
    return;
  }
  registers_.overrun = true;
  // The FIFO keeps what it has; the single register is overwritten.
  if (!registers_.fifo_enabled()) {
    registers_.fifo[0] = value;
  }
}

void Serial::UpdateInterruptLocked() {
  if (!running_) {
    return;
  }
  const uint8_t pending = registers_.pending();
  if ((pending & ~signalled_) != 0) {
    interrupt_.Trigger();
  }
  signalled_ = pending;
}

bool Serial::TakeReceiverReadyLocked() {
  // Only when all has been read: the backend wakes for 16 bytes, not for each.
  if (!refused_ || !running_ || registers_.loopback() || registers_.received > 0) {
    return false;
  }
  refused_ = false;
  return true;
}

size_t Serial::Receive(std::span<const uint8_t> bytes) {
  absl::MutexLock lock(&mutex_);
  size_t taken = 0;
  if (running_ && !registers_.loopback()) {
    taken = std::min(bytes.size(), registers_.capacity() - registers_.received);
    std::copy_n(bytes.begin(), taken, registers_.fifo.begin() + registers_.received);
    registers_.received += taken;
    UpdateInterruptLocked();
  }
  refused_ = refused_ || taken < bytes.size();
  return taken;
}

void Serial::Quiesce() {
  absl::MutexLock lock(&mutex_);
  running_ = false;
}

void Serial::Resume() {
  bool receiver_ready = false;
  {
    absl::MutexLock lock(&mutex_);
    running_ = true;
    signalled_ = 0;
    UpdateInterruptLocked();
    receiver_ready = TakeReceiverReadyLocked();
  }
  if (receiver_ready) {
    backend_->ReceiverReady();
  }
}

void Serial::Reset() {
  absl::MutexLock lock(&mutex_);
  registers_ = Registers();
}

void Serial::Save(state::Device::Builder out) const {
  absl::MutexLock lock(&mutex_);
  out.setName(name_);
  out.setVersion(kStateVersion);
  state::Serial::Builder serial = out.initSerial();
  serial.setIer(registers_.interrupt_enable);
  serial.setIir(registers_.interrupt_identification());
  serial.setLcr(registers_.line_control);
  serial.setMcr(registers_.modem_control);
  serial.setLsr(registers_.line_status());
  serial.setMsr(registers_.modem_status);
  serial.setScr(registers_.scratch);
  serial.setFcr(registers_.fifo_control);
  serial.setDivisor(registers_.divisor);
  serial.setThrInterruptPending(registers_.transmitter_interrupt);
  serial.setReceived(kj::arrayPtr(registers_.fifo.data(), registers_.received));
}

absl::Status Serial::CheckState(state::Device::Reader in) const {
  const auto refuse = [this](absl::string_view field, auto value) {
    return absl::InvalidArgumentError(
        absl::StrCat("state of ", name_, ": field ", field, " cannot be ", value, "; the state is not of this device"));
  };
  if (absl::string_view(in.getName().cStr(), in.getName().size()) != name_) {
    return refuse("name", absl::StrCat("'", CleanText(in.getName().cStr()), "'"));
  }
  if (!in.isSerial()) {
    return refuse("kind", absl::StrCat(static_cast<int>(in.which()), ", it must be serial"));
  }
  if (in.getVersion() == 0 || in.getVersion() > kStateVersion) {
    return absl::FailedPreconditionError(absl::StrCat("state of ", name_, ": field version is ", in.getVersion(),
                                                      ", this monitor knows 1 to ", kStateVersion,
                                                      "; use a newer one"));
  }
  const state::Serial::Reader serial = in.getSerial();
  if ((serial.getIer() & ~kInterruptEnableMask) != 0) {
    return refuse("ier", serial.getIer());
  }
  if ((serial.getFcr() & ~kFifoStored) != 0 || ((serial.getFcr() & kFifoEnable) == 0 && serial.getFcr() != 0)) {
    return refuse("fcr", serial.getFcr());
  }
  if ((serial.getMcr() & ~kModemControlMask) != 0) {
    return refuse("mcr", serial.getMcr());
  }
  if ((serial.getMsr() & kModemLines) != ModemLines(serial.getMcr())) {
    return refuse("msr", serial.getMsr());
  }
  const size_t received = serial.getReceived().size();
  if (received > ((serial.getFcr() & kFifoEnable) != 0 ? kFifoBytes : 1)) {
    return refuse("received", absl::StrCat(received, " bytes long"));
  }
  const uint8_t status = static_cast<uint8_t>(kTransmitterIdle | (received > 0 ? kDataReady : 0));
  if ((serial.getLsr() & ~kOverrun) != status) {
    return refuse("lsr", serial.getLsr());
  }
  // What IIR says follows from the others.
  if (serial.getIir() != Decode(serial).interrupt_identification()) {
    return refuse("iir", serial.getIir());
  }
  return absl::OkStatus();
}

void Serial::LoadState(state::Device::Reader in) {
  absl::MutexLock lock(&mutex_);
  registers_ = Decode(in.getSerial());
}

Serial::Registers Serial::Decode(state::Serial::Reader in) {
  Registers registers;
  registers.interrupt_enable = in.getIer();
  registers.fifo_control = in.getFcr();
  registers.line_control = in.getLcr();
  registers.modem_control = in.getMcr();
  registers.modem_status = in.getMsr();
  registers.scratch = in.getScr();
  registers.divisor = in.getDivisor();
  registers.overrun = (in.getLsr() & kOverrun) != 0;
  registers.transmitter_interrupt = in.getThrInterruptPending();
  registers.received = in.getReceived().size();
  std::copy(in.getReceived().begin(), in.getReceived().end(), registers.fifo.begin());
  return registers;
}

}  // namespace ferrite
