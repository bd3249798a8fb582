#include "vmm/mirror/nbd_blocks.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/thread.h"
#include "base/timed_mutex.h"
#include "vmm/mirror/block_driver.h"
#include "vmm/mirror/nbd_server.h"

namespace ferrite {
namespace {

using migration::BlockIo;
using Operation = migration::BlockOperation;
using Kind = Operation::Kind;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint32_t kDepth = 4;

class NbdBlocksTest : public testing::Test {
 protected:
  NbdBlocksTest() : loop_(*EventLoop::Create("test-loop")) {}

  absl::StatusOr<std::unique_ptr<NbdExport>> Connect(const std::string& where, NbdExport::Options options) {
    options.depth = kDepth;
    auto name = ParseTargetName(where);
    return name.ok() ? NbdExport::Connect(*name, *loop_, options) : name.status();
  }
  void Use(const std::string& where, const NbdExport::Options& options = {}) {
    auto nbd = Connect(where, options);
    ASSERT_TRUE(nbd.ok()) << nbd.status();
    nbd_ = nbd->get();
    blocks_ = MakeNbdBlocks(where, *std::move(nbd), kDepth);
    driver_ = std::make_unique<BlockDriver>(*loop_, *blocks_);
  }
  // Uses an nbdkit with `arguments`.
  void Nbdkit(std::vector<std::string> arguments, const NbdExport::Options& options = {}) {
    auto server = NbdServer::Nbdkit(directory_, std::move(arguments));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::make_unique<NbdServer>(*std::move(server));
    Use(server_->where(), options);
  }

  ShortDirectory directory_;
  std::unique_ptr<NbdServer> server_;
  std::unique_ptr<EventLoop> loop_;
  NbdExport* nbd_ = nullptr;
  std::unique_ptr<BlockIo> blocks_;
  std::unique_ptr<BlockDriver> driver_;
};

TEST_F(NbdBlocksTest, DoesWhatBlocksDo) {
  ASSERT_NO_FATAL_FAILURE(Nbdkit({"memory", "64M"}));
  EXPECT_EQ(blocks_->name(), server_->where());
  EXPECT_EQ(blocks_->bytes(), 64 * kMiB);
  EXPECT_EQ(blocks_->block_bytes(), 512u);
  EXPECT_EQ(blocks_->cluster_bytes(), 4096u);
  const NbdExport::Facts& facts = nbd_->facts();
  EXPECT_TRUE(facts.flush && facts.trim && facts.zero && facts.fast_zero);
  EXPECT_FALSE(facts.read_only || facts.tls);

  const std::string data(kMiB, 'x');
  EXPECT_TRUE(driver_->Write(kMiB, data).ok());
  EXPECT_TRUE(driver_->Flush().ok());
  EXPECT_TRUE(driver_->Read(kMiB, kMiB) == data);
  EXPECT_TRUE(driver_->Zero(kMiB, 65536).ok());
  EXPECT_TRUE(driver_->Read(kMiB, 65536) == std::string(65536, '\0'));
  EXPECT_TRUE(driver_->Read(kMiB + 65536, 512) == std::string(512, 'x'));
  EXPECT_TRUE(driver_->Discard(kMiB + 131072, 65536).ok());
  EXPECT_TRUE(driver_->Read(kMiB + 131072 + 65536, 512) == std::string(512, 'x'));
  const auto extent = blocks_->NextExtent(kMiB);
  ASSERT_TRUE(extent.ok());
  EXPECT_TRUE(extent->data);
  EXPECT_EQ(extent->bytes, 63 * kMiB);
}

TEST_F(NbdBlocksTest, ManyInFlightEndAsTheyLike) {
  ASSERT_NO_FATAL_FAILURE(Nbdkit({"--filter=delay", "memory", "64M", "delay-write=1ms"}));
  std::mt19937 random(14);
  constexpr size_t kOperations = 300;
  std::vector<std::string> data;
  std::vector<Operation> operations(kOperations);
  std::vector<Operation*> pointers;
  for (size_t i = 0; i < kOperations; ++i) {
    data.emplace_back(512 * (1 + random() % 100), static_cast<char>('a' + i % 26));
  }
  for (size_t i = 0; i < kOperations; ++i) {
    operations[i] = BlockDriver::Make(Kind::kWrite, i * 65536, data[i].size(), &data[i]);
    pointers.push_back(&operations[i]);
  }
  driver_->Start(pointers);
  ASSERT_TRUE(driver_->Await());
  for (size_t i = 0; i < kOperations; ++i) {
    EXPECT_TRUE(operations[i].result.ok()) << operations[i].result;
    EXPECT_TRUE(driver_->Read(i * 65536, data[i].size()) == data[i]) << i;
  }
}

TEST_F(NbdBlocksTest, TheServersBlockSizesAreKept) {
  // It answers EINVAL to what does not keep them.
  ASSERT_NO_FATAL_FAILURE(Nbdkit({"--filter=blocksize-policy", "memory", "64M", "blocksize-error-policy=error",
                                  "blocksize-minimum=4096", "blocksize-preferred=256K", "blocksize-maximum=1M"}));
  EXPECT_EQ(blocks_->block_bytes(), 4096u);
  EXPECT_EQ(blocks_->cluster_bytes(), 256u << 10);
  EXPECT_EQ(nbd_->facts().most_bytes, 1u << 20);
  std::string data;
  for (int i = 0; i < 11; ++i) {
    data.append(kMiB / 2, static_cast<char>('a' + i));
  }
  EXPECT_TRUE(driver_->Write(4096, data).ok());
  EXPECT_TRUE(driver_->Read(4096, data.size()) == data);
  EXPECT_TRUE(driver_->Zero(4096 + kMiB, 3 * kMiB).ok());
  EXPECT_TRUE(driver_->Read(4096 + kMiB, 3 * kMiB) == std::string(3 * kMiB, '\0'));
  EXPECT_TRUE(driver_->Read(4096 + 4 * kMiB, kMiB) == data.substr(4 * kMiB, kMiB));
}

TEST_F(NbdBlocksTest, WhatIsLongGoesInPieces) {
  ASSERT_NO_FATAL_FAILURE(Nbdkit({"memory", "256M"}));
  EXPECT_EQ(nbd_->facts().most_bytes, 32u << 20);
  std::string data(200 * kMiB, 'x');
  data.front() = 'a';
  data.back() = 'z';
  EXPECT_TRUE(driver_->Write(kMiB, data).ok());
  EXPECT_TRUE(driver_->Read(kMiB, data.size()) == data);
  EXPECT_TRUE(driver_->Zero(0, 256 * kMiB).ok());
  EXPECT_TRUE(driver_->Read(kMiB, data.size()) == std::string(data.size(), '\0'));
  EXPECT_TRUE(driver_->Discard(0, 256 * kMiB).ok());
}

TEST_F(NbdBlocksTest, ZeroesAreWrittenWhereTheServerCannotZero) {
  ASSERT_NO_FATAL_FAILURE(Nbdkit({"--filter=nozero", "memory", "64M", "zeromode=none"}));
  EXPECT_FALSE(nbd_->facts().zero || nbd_->facts().fast_zero);
  EXPECT_TRUE(driver_->Write(0, std::string(50 * kMiB, 'x')).ok());
  EXPECT_TRUE(driver_->Zero(512, 40 * kMiB).ok());
  EXPECT_TRUE(driver_->Read(512, 40 * kMiB) == std::string(40 * kMiB, '\0'));
  EXPECT_EQ(driver_->Read(0, 512), std::string(512, 'x'));
  EXPECT_EQ(driver_->Read(40 * kMiB + 512, 512), std::string(512, 'x'));
}

TEST_F(NbdBlocksTest, ZeroesGoSlowlyWhereTheyCannotGoFast) {
  // It offers fast zeroes and then refuses each.
  ASSERT_NO_FATAL_FAILURE(Nbdkit({"--filter=nozero", "memory", "64M", "zeromode=emulate", "fastzeromode=slow"}));
  EXPECT_TRUE(nbd_->facts().fast_zero);
  EXPECT_TRUE(driver_->Write(0, std::string(50 * kMiB, 'x')).ok());
  EXPECT_TRUE(driver_->Zero(512, 40 * kMiB).ok());
  EXPECT_TRUE(driver_->Read(512, 40 * kMiB) == std::string(40 * kMiB, '\0'));
  EXPECT_EQ(driver_->Read(40 * kMiB + 512, 512), std::string(512, 'x'));
}

TEST_F(NbdBlocksTest, WhatTheServerHasNotIsNothingToDo) {
  ASSERT_NO_FATAL_FAILURE(Nbdkit({"eval", "get_size=echo 1M", "pread=head -c $3 /dev/zero", "pwrite=cat >/dev/null"}));
  EXPECT_FALSE(nbd_->facts().flush || nbd_->facts().trim);
  EXPECT_TRUE(driver_->Flush().ok());
  EXPECT_TRUE(driver_->Discard(0, kMiB).ok());
  EXPECT_TRUE(driver_->Write(0, std::string(512, 'x')).ok());
}

TEST_F(NbdBlocksTest, ErrorsOfTheServerAreThoseOfTheOperation) {
  ASSERT_NO_FATAL_FAILURE(Nbdkit({"--filter=error", "memory", "64M", "error-pread=EIO", "error-pread-rate=100%",
                                  "error-trim=EPERM", "error-trim-rate=100%"}));
  EXPECT_EQ(driver_->Read(512, 512),
            absl::StrCat("UNKNOWN: read 512 bytes at 512 of ", server_->where(), ": Input/output error"));
  EXPECT_EQ(driver_->Discard(512, 512).message(),
            absl::StrCat("discard 512 bytes at 512 of ", server_->where(), ": Operation not permitted"));
  EXPECT_TRUE(nbd_->lost().ok());
  EXPECT_TRUE(driver_->Write(0, std::string(512, 'x')).ok());
}

TEST_F(NbdBlocksTest, AFullTargetHasNoRoom) {
  ASSERT_NO_FATAL_FAILURE(Nbdkit({"full", "64M"}));
  // In pieces: the rest of it is not tried.
  const absl::Status status = driver_->Write(0, std::string(64 * kMiB, 'x'));
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(status.message(),
            absl::StrCat("write 67108864 bytes at 0 of ", server_->where(), ": No space left on device"));
  EXPECT_TRUE(driver_->Flush().ok());
}

TEST_F(NbdBlocksTest, AnErrorInOnePieceIsTheOperations) {
  const std::string trigger = directory_ / "trigger";
  ASSERT_NO_FATAL_FAILURE(Nbdkit({"--filter=error", "--filter=blocksize-policy", "memory", "64M",
                                  "blocksize-maximum=64K", "error-pwrite=ENOSPC", "error-pwrite-rate=5%"}));
  int failed = 0;
  for (int i = 0; i < 40; ++i) {
    const absl::Status status = driver_->Write(0, std::string(kMiB, static_cast<char>('a' + i % 26)));
    if (!status.ok()) {
      EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
      ++failed;
    } else {
      EXPECT_TRUE(driver_->Read(0, kMiB) == std::string(kMiB, static_cast<char>('a' + i % 26)));
    }
  }
  EXPECT_GT(failed, 0);
}

TEST_F(NbdBlocksTest, EveryOperationEndsWhenTheServerIsKilled) {
  ASSERT_NO_FATAL_FAILURE(Nbdkit({"--filter=delay", "memory", "64M", "delay-write=3600"}));
  std::string data(kMiB, 'x');
  std::vector<Operation> operations(3 * kDepth, BlockDriver::Make(Kind::kWrite, 0, kMiB, &data));
  std::vector<Operation*> pointers;
  for (Operation& operation : operations) {
    pointers.push_back(&operation);
  }
  // Some are at the server, which reads them in this order.
  Operation read = BlockDriver::Make(Kind::kRead, 0, 512, &data);
  TimedNotification answered;
  loop_->RunAndWait([&] {
    read.done = [&](Operation&) { answered.Notify(); };
    for (size_t i = 0; i < kDepth - 1; ++i) {
      operations[i].done = [](Operation&) {};
      blocks_->Submit(operations[i]);
    }
    blocks_->Submit(read);
    blocks_->Kick();
  });
  ASSERT_TRUE(answered.WaitFor(absl::Minutes(1)));
  driver_->Start({pointers.begin() + kDepth - 1, pointers.end()});
  server_->process().Signal(SIGKILL);
  ASSERT_TRUE(driver_->Await());
  for (const Operation& operation : operations) {
    EXPECT_TRUE(absl::IsUnavailable(operation.result)) << operation.result;
    EXPECT_TRUE(absl::StartsWith(
        operation.result.message(),
        absl::StrCat("write 1048576 bytes at 0 of ", server_->where(), ": the connection to the NBD server is lost: ")))
        << operation.result;
  }
  // And so do those that come later.
  EXPECT_TRUE(absl::IsUnavailable(driver_->Flush()));
  EXPECT_TRUE(absl::IsUnavailable(driver_->Write(0, std::string(512, 'x'))));
  EXPECT_TRUE(absl::IsUnavailable(nbd_->lost()));
}

TEST_F(NbdBlocksTest, AnIdleServerThatIsKilledIsNoticed) {
  ASSERT_NO_FATAL_FAILURE(Nbdkit({"memory", "64M"}));
  server_->process().Signal(SIGKILL);
  ASSERT_TRUE(server_->process().Wait(absl::Minutes(1)).ok());
  const absl::Status status = driver_->Flush();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_TRUE(absl::StrContains(status.message(), "the connection to the NBD server is lost: ")) << status;
}

TEST_F(NbdBlocksTest, AServerThatFallsSilentIsLost) {
  ASSERT_NO_FATAL_FAILURE(
      Nbdkit({"--filter=delay", "memory", "64M", "delay-write=3600"}, {.patience = absl::Milliseconds(200)}));
  const absl::Status status = driver_->Write(0, std::string(512, 'x'));
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_TRUE(
      absl::EndsWith(status.message(), ": the connection to the NBD server is lost: the server did nothing for 200ms"))
      << status;
}

TEST_F(NbdBlocksTest, PatienceIsOfWhatIsInFlight) {
  ASSERT_NO_FATAL_FAILURE(Nbdkit({"memory", "64M"}, {.patience = absl::Milliseconds(300)}));
  // Nothing in flight for longer than that: no condition could be waited for that nothing happens.
  absl::SleepFor(absl::Milliseconds(500));
  EXPECT_TRUE(driver_->Write(0, std::string(512, 'x')).ok());
}

TEST_F(NbdBlocksTest, CuttingEndsWhatIsInFlight) {
  ASSERT_NO_FATAL_FAILURE(Nbdkit({"--filter=delay", "memory", "64M", "delay-write=3600"}));
  std::string data(512, 'x');
  Operation write = BlockDriver::Make(Kind::kWrite, 0, 512, &data);
  driver_->Start({&write});
  nbd_->Cut();
  ASSERT_TRUE(driver_->Await());
  EXPECT_TRUE(absl::EndsWith(write.result.message(), "lost: it was given up")) << write.result;
}

TEST_F(NbdBlocksTest, AServerThatDoesNotAnswerIsGivenUp) {
  const Fd silent = ListenAtPath(directory_ / "silent");
  const std::string where = absl::StrCat("nbd:unix:", directory_ / "silent");
  const absl::Status status = Connect(where, {.connect_limit = absl::Milliseconds(200)}).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status));
  EXPECT_EQ(status.message(), absl::StrCat(where, ": the server does not answer within 200ms"));
}

TEST_F(NbdBlocksTest, WhoIsNoServerIsRefused) {
  const std::string where = absl::StrCat("nbd:unix:", directory_ / "nothing");
  const absl::Status nothing = Connect(where, {}).status();
  EXPECT_TRUE(absl::StartsWith(nothing.message(), absl::StrCat(where, ": "))) << nothing;
  EXPECT_TRUE(absl::StrContains(nothing.message(), "No such file or directory")) << nothing;

  // One that hangs up.
  const Fd listening = ListenAtPath(directory_ / "rude");
  auto rude = Thread::Start("rude", [&] { const Fd taken(accept(listening.get(), nullptr, nullptr)); });
  const absl::Status hung_up = Connect(absl::StrCat("nbd:unix:", directory_ / "rude"), {}).status();
  EXPECT_FALSE(hung_up.ok());
  EXPECT_FALSE(absl::IsDeadlineExceeded(hung_up)) << hung_up;

  // One that speaks something else.
  auto ssh = Thread::Start("ssh", [&] {
    const Fd taken(accept(listening.get(), nullptr, nullptr));
    EXPECT_GT(write(taken.get(), "SSH-2.0-OpenSSH_9.2\r\nand more, and more, and more\r\n", 50), 0);
    char byte;
    (void)!read(taken.get(), &byte, 1);
  });
  const absl::Status other = Connect(absl::StrCat("nbd:unix:", directory_ / "rude"), {}).status();
  EXPECT_TRUE(absl::StrContains(other.message(), "magic")) << other;

  EXPECT_FALSE(Connect(absl::StrCat("nbd:unix:/tmp/", std::string(200, 'x')), {}).ok());
  EXPECT_FALSE(Connect("nbd+unix:///?socket=/tmp&nonsense=%", {}).ok());
}

TEST_F(NbdBlocksTest, QemusServerHasItAllInItsFile) {
  const std::string image = directory_ / "image";
  const Fd file = *OpenFile(image, O_RDWR | O_CREAT, 0600);
  ASSERT_EQ(ftruncate(file.get(), 64 * kMiB), 0);
  auto server = NbdServer::Qemu(directory_, image, {"-x", "disk", "--discard=unmap", "--detect-zeroes=off"});
  ASSERT_TRUE(server.ok());
  const absl::Status other = Connect(server->where() + ":nodisk", {}).status();
  EXPECT_TRUE(absl::IsNotFound(other)) << other;
  EXPECT_TRUE(absl::StrContains(other.message(), "nodisk")) << other;

  ASSERT_NO_FATAL_FAILURE(Use(server->where() + ":exportname=disk"));
  EXPECT_EQ(nbd_->facts().name, "disk");
  EXPECT_TRUE(nbd_->facts().flush && nbd_->facts().trim && nbd_->facts().zero);
  EXPECT_TRUE(driver_->Write(kMiB, std::string(4 * kMiB, 'x')).ok());
  EXPECT_TRUE(driver_->Zero(2 * kMiB, kMiB).ok());
  EXPECT_TRUE(driver_->Discard(4 * kMiB, kMiB).ok());
  EXPECT_TRUE(driver_->Flush().ok());
  std::string there(5 * kMiB, '?');
  ASSERT_EQ(pread(file.get(), there.data(), there.size(), 0), static_cast<ssize_t>(there.size()));
  EXPECT_TRUE(there.substr(kMiB, kMiB) == std::string(kMiB, 'x'));
  EXPECT_TRUE(there.substr(2 * kMiB, kMiB) == std::string(kMiB, '\0'));
  EXPECT_TRUE(there.substr(3 * kMiB, kMiB) == std::string(kMiB, 'x'));
  struct stat info = {};
  ASSERT_EQ(fstat(file.get(), &info), 0);
  EXPECT_EQ(info.st_blocks * 512, static_cast<blkcnt_t>(2 * kMiB)) << "zeroed and discarded are holes";
}

TEST_F(NbdBlocksTest, TlsWhereTheUriSaysSo) {
  const std::string keys = directory_ / "keys";
  std::ofstream(keys) << "alice:00112233445566778899aabbccddeeff\n";
  const std::string wrong = directory_ / "wrong";
  std::ofstream(wrong) << "alice:ffeeddccbbaa99887766554433221100\n";
  auto server = NbdServer::Nbdkit(directory_, {"--tls=require", "--tls-psk=" + keys, "memory", "64M"});
  ASSERT_TRUE(server.ok());
  const std::string uri = absl::StrCat("nbds+unix://alice@/?socket=", server->socket(), "&tls-psk-file=");
  EXPECT_FALSE(Connect(uri + wrong, {}).ok());
  EXPECT_FALSE(Connect(uri + (directory_ / "missing"), {}).ok());
  EXPECT_FALSE(Connect(server->where(), {}).ok()) << "without TLS";
  ASSERT_NO_FATAL_FAILURE(Use(uri + keys));
  EXPECT_TRUE(nbd_->facts().tls);
  const std::string data(5 * kMiB, 'x');
  EXPECT_TRUE(driver_->Write(0, data).ok());
  EXPECT_TRUE(driver_->Read(0, data.size()) == data);

  // A server without it is refused.
  auto plain = NbdServer::Nbdkit(directory_, {"memory", "64M"});
  ASSERT_TRUE(plain.ok());
  const absl::Status status =
      Connect(absl::StrCat("nbds+unix://alice@/?socket=", plain->socket(), "&tls-psk-file=", keys), {}).status();
  EXPECT_TRUE(absl::StrContains(status.message(), "TLS")) << status;
}

// A socket that listens on the loopback, and its port.
Fd ListenOnTcp(uint16_t& port) {
  Fd listening(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {.sin_family = AF_INET, .sin_port = 0, .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
  socklen_t length = sizeof(address);
  EXPECT_EQ(bind(listening.get(), reinterpret_cast<const sockaddr*>(&address), length), 0);
  EXPECT_EQ(listen(listening.get(), 8), 0);
  EXPECT_EQ(getsockname(listening.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  port = ntohs(address.sin_port);
  return listening;
}

// A directory as nbdkit and libnbd want it: of an authority of its own, and of a server called localhost.
void MakeCertificates(const std::string& directory) {
  constexpr char kKey[] = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
  const std::string script = absl::StrCat(
      "set -e; mkdir ", directory, "; cd ", directory, "; ", kKey,
      " -x509 -days 2 -subj /CN=authority -keyout ca-key.pem -out ca-cert.pem; ", kKey,
      " -subj /CN=server -keyout server-key.pem -out request; echo subjectAltName=DNS:localhost >names; "
      "openssl x509 -req -days 2 -in request -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -extfile names "
      "-out server-cert.pem");
  auto shell = ChildProcess::Start({"/bin/sh", "-c", script}, {});
  ASSERT_TRUE(shell.ok()) << shell.status();
  const auto end = shell->Wait();
  ASSERT_TRUE(end.ok() && end->exited && end->number == 0);
}

// Who the server is its certificate says.
TEST_F(NbdBlocksTest, TlsWithCertificates) {
  const std::string good = directory_ / "good";
  const std::string other = directory_ / "other";
  ASSERT_NO_FATAL_FAILURE(MakeCertificates(good));
  ASSERT_NO_FATAL_FAILURE(MakeCertificates(other));
  uint16_t port = 0;
  Fd listening = ListenOnTcp(port);
  auto server = NbdServer::StartOn(
      std::move(listening), "",
      {"/usr/bin/nbdkit", "-f", "--exit-with-parent", "--tls=require", "--tls-certificates=" + good, "memory", "64M"});
  ASSERT_TRUE(server.ok()) << server.status();
  const auto uri = [port](const std::string& host, const std::string& certificates) {
    return absl::StrCat("nbds://", host, ":", port, "/?tls-certificates=", certificates);
  };
  EXPECT_FALSE(Connect(uri("localhost", other), {}).ok()) << "another authority";
  EXPECT_FALSE(Connect(uri("127.0.0.1", good), {}).ok()) << "another name";
  EXPECT_FALSE(Connect(absl::StrCat("nbd://localhost:", port, "/"), {}).ok()) << "without TLS";
  ASSERT_NO_FATAL_FAILURE(Use(uri("localhost", good)));
  EXPECT_TRUE(nbd_->facts().tls);
  const std::string data(5 * kMiB, 'x');
  EXPECT_TRUE(driver_->Write(0, data).ok());
  EXPECT_TRUE(driver_->Read(0, data.size()) == data);
}

TEST_F(NbdBlocksTest, OverTcp) {
  uint16_t port = 0;
  Fd listening = ListenOnTcp(port);
  const std::string uri = absl::StrCat("nbd://127.0.0.1:", port, "/");
  auto server = NbdServer::StartOn(std::move(listening), uri, {"/usr/bin/nbdkit", "-f", "memory", "64M"});
  ASSERT_TRUE(server.ok());
  ASSERT_NO_FATAL_FAILURE(Use(uri));
  const std::string data(20 * kMiB, 'x');
  EXPECT_TRUE(driver_->Write(0, data).ok());
  EXPECT_TRUE(driver_->Read(0, data.size()) == data);
}

}  // namespace
}  // namespace ferrite
