#include "vmm/mirror/target_name.h"

#include <gtest/gtest.h>

#include <string>

namespace ferrite {
namespace {

using Kind = TargetName::Kind;

TEST(TargetNameTest, PathsAndNbd) {
  const struct {
    std::string text;
    Kind kind;
    std::string socket;
    std::string export_name;
  } kCases[] = {
      {"/srv/disk.raw", Kind::kPath, "", ""},
      {"disk.raw", Kind::kPath, "", ""},
      {"./nbd:disk", Kind::kPath, "", ""},
      {"nbd", Kind::kPath, "", ""},
      {"nbd.raw", Kind::kPath, "", ""},
      {"nbdx:foo", Kind::kPath, "", ""},
      {"xnbd://host/", Kind::kPath, "", ""},
      {"a:b", Kind::kPath, "", ""},
      {"/dev/disk/by-path/pci-0000:00:1f.2", Kind::kPath, "", ""},
      {"nbd:unix:/run/nbd.sock", Kind::kNbdUnix, "/run/nbd.sock", ""},
      {"nbd:unix:nbd.sock", Kind::kNbdUnix, "nbd.sock", ""},
      {"nbd:unix:/run/nbd.sock:", Kind::kNbdUnix, "/run/nbd.sock", ""},
      {"nbd:unix:/run/nbd.sock:disk", Kind::kNbdUnix, "/run/nbd.sock", "disk"},
      {"nbd:unix:/run/nbd.sock:a:b", Kind::kNbdUnix, "/run/nbd.sock", "a:b"},
      {"nbd:unix:/run/nbd.sock:exportname=disk", Kind::kNbdUnix, "/run/nbd.sock", "disk"},
      {"nbd://host", Kind::kNbdUri, "", ""},
      {"nbd://host:10809/disk", Kind::kNbdUri, "", ""},
      {"nbd+unix:///disk?socket=/run/nbd.sock", Kind::kNbdUri, "", ""},
      {"nbd+unix:///?a=b&socket=/run/nbd.sock", Kind::kNbdUri, "", ""},
      {"nbd+vsock://2/", Kind::kNbdUri, "", ""},
      {"nbds://host/disk?tls-certificates=/etc/pki", Kind::kNbdUri, "", ""},
      {"nbds://user@host/disk?tls-psk-file=/etc/keys", Kind::kNbdUri, "", ""},
      {"nbds+unix:///?socket=/s&tls-psk-file=/etc/keys", Kind::kNbdUri, "", ""},
  };
  for (const auto& one : kCases) {
    const auto name = ParseTargetName(one.text);
    ASSERT_TRUE(name.ok()) << one.text << ": " << name.status();
    EXPECT_EQ(name->kind, one.kind) << one.text;
    EXPECT_EQ(name->text, one.text);
    EXPECT_EQ(name->socket, one.socket) << one.text;
    EXPECT_EQ(name->export_name, one.export_name) << one.text;
  }
}

TEST(TargetNameTest, MistakesAreRefusedInOneLine) {
  const struct {
    std::string text;
    std::string words;
  } kCases[] = {
      {"", "the target has no name"},
      {std::string("/srv/a\0b", 8), "cannot be shown: /srv/a?b"},
      {"/srv/a\nb", "cannot be shown: /srv/a?b"},
      {"nbd:foo", "a file of this name is ./nbd:foo"},
      {"nbd:", "an NBD target is nbd:unix:PATH[:EXPORT]"},
      {"nbd:/run/nbd.sock", "an NBD target is"},
      {"nbd:host:10809", "an NBD target is"},
      {"nbd:unix", "an NBD target is"},
      {"nbd:unix:", "names no socket"},
      {"nbd:unix::disk", "names no socket"},
      {"nbds:unix:/run/nbd.sock", "an NBD target is"},
      {"nbd+unix:/run/nbd.sock", "an NBD target is"},
      {"nbd+unix:///disk", "names no socket"},
      {"nbd+unix:///disk?sockets=/a", "names no socket"},
      {"nbd+unix:///disk?socket=", "names no socket"},
      {"nbd+unix:///disk#?socket=/a", "names no socket"},
      {"nbds://host/disk", "how the server proves who it is"},
      {"nbds://host/disk?tls-psk-file=", "how the server proves who it is"},
      {"nbds+unix:///?socket=/s", "how the server proves who it is"},
  };
  for (const auto& one : kCases) {
    const auto name = ParseTargetName(one.text);
    ASSERT_FALSE(name.ok()) << one.text;
    EXPECT_TRUE(absl::IsInvalidArgument(name.status())) << one.text;
    EXPECT_NE(name.status().message().find(one.words), std::string::npos) << one.text << ": " << name.status();
    EXPECT_EQ(name.status().message().find('\n'), std::string::npos) << one.text;
  }
}

}  // namespace
}  // namespace ferrite
