#include "tests/fakes/control_place.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <utility>

#include "base/status.h"

namespace ferrite {

ControlPlace::ControlPlace() {
  FERRITE_CHECK(mkdtemp(base_.data()) != nullptr);
  auto dir = RunDir::Create(base_, "vm");
  FERRITE_CHECK(dir.ok());
  dir_ = *std::move(dir);
}

ControlPlace::~ControlPlace() {
  dir_.reset();
  std::filesystem::remove_all(base_);
}

Fd ControlPlace::Listen() {
  auto listener = dir_->ListenOnControlSocket();
  FERRITE_CHECK(listener.ok());
  return *std::move(listener);
}

std::unique_ptr<ControlClient> ControlPlace::Connect(absl::Duration timeout) const {
  auto client = ControlClient::ConnectToMachine(base_, "vm", timeout);
  EXPECT_TRUE(client.ok()) << client.status();
  return client.ok() ? *std::move(client) : nullptr;
}

}  // namespace ferrite
