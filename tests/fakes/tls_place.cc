#include "tests/fakes/tls_place.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "migration/channel/tls/tls_security.h"

namespace ferrite::migration {
namespace {

EVP_PKEY* MakeKey() {
  EVP_PKEY* const key = EVP_EC_gen("P-256");
  FERRITE_CHECK(key != nullptr);
  return key;
}

void Extend(X509* certificate, X509* issuer, int what, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, &context, what, value.c_str());
  FERRITE_CHECK(extension != nullptr && X509_add_ext(certificate, extension, -1) == 1);
  X509_EXTENSION_free(extension);
}

X509* MakeCertificate(const TestCertificate& what, EVP_PKEY* key, X509* issuer, EVP_PKEY* issuer_key, bool is_ca) {
  static std::atomic<int> number = 0;
  X509* const certificate = X509_new();
  FERRITE_CHECK(certificate != nullptr);
  X509_set_version(certificate, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++number);
  X509_gmtime_adj(X509_getm_notBefore(certificate), absl::ToInt64Seconds(what.begins));
  X509_gmtime_adj(X509_getm_notAfter(certificate), absl::ToInt64Seconds(what.ends));
  X509_NAME* const name = X509_get_subject_name(certificate);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(what.name.c_str()), -1,
                             -1, 0);
  X509* const by = issuer != nullptr ? issuer : certificate;
  X509_set_issuer_name(certificate, X509_get_subject_name(by));
  X509_set_pubkey(certificate, key);
  Extend(certificate, by, NID_basic_constraints, is_ca ? "critical,CA:TRUE" : "critical,CA:FALSE");
  if (!is_ca && !what.alternatives.empty()) {
    Extend(certificate, by, NID_subject_alt_name, absl::StrJoin(what.alternatives, ","));
  }
  if (!what.usage.empty()) {
    Extend(certificate, by, NID_ext_key_usage, what.usage);
  }
  FERRITE_CHECK(X509_sign(certificate, issuer_key != nullptr ? issuer_key : key, EVP_sha256()) > 0);
  return certificate;
}

template <typename Writer>
void WriteFile(const std::string& path, int mode, const Writer& write) {
  (void)unlink(path.c_str());
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  std::FILE* const file = fdopen(fd, "w");
  FERRITE_CHECK(file != nullptr && write(file));
  FERRITE_CHECK(fchmod(fd, static_cast<mode_t>(mode)) == 0 && std::fclose(file) == 0);
}

void WriteCertificateTo(const std::string& path, X509* certificate) {
  WriteFile(path, 0644, [&](std::FILE* file) { return PEM_write_X509(file, certificate) == 1; });
}

std::string MakeDirectory() {
  char name[] = "/tmp/ferrite-tls-XXXXXX";
  FERRITE_CHECK(mkdtemp(name) != nullptr);
  return name;
}

}  // namespace

struct TestCa::Inside {
  EVP_PKEY* key = nullptr;
  X509* certificate = nullptr;
};

TestCa::TestCa(const std::string& name) : inside_(std::make_unique<Inside>()) {
  inside_->key = MakeKey();
  inside_->certificate = MakeCertificate({.name = name}, inside_->key, nullptr, nullptr, /*is_ca=*/true);
}

TestCa::~TestCa() {
  X509_free(inside_->certificate);
  EVP_PKEY_free(inside_->key);
}

void TestCa::WriteCertificate(const std::string& directory) const {
  WriteCertificateTo(absl::StrCat(directory, "/ca-cert.pem"), inside_->certificate);
}

void TestCa::Issue(const std::string& directory, const std::string& whose, const TestCertificate& certificate) const {
  EVP_PKEY* const key = MakeKey();
  X509* const made = MakeCertificate(certificate, key, certificate.self_signed ? nullptr : inside_->certificate,
                                     certificate.self_signed ? nullptr : inside_->key, /*is_ca=*/false);
  WriteCertificateTo(absl::StrCat(directory, "/", whose, "-cert.pem"), made);
  WriteFile(absl::StrCat(directory, "/", whose, "-key.pem"), 0600, [&](std::FILE* file) {
    return PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr) == 1;
  });
  X509_free(made);
  EVP_PKEY_free(key);
}

TlsPlace::TlsPlace() : directory_(MakeDirectory()) {
  ca_.WriteCertificate(directory_);
  ca_.Issue(directory_, "server");
  ca_.Issue(directory_, "client", {.name = "source"});
}

TlsPlace::~TlsPlace() { std::filesystem::remove_all(directory_); }

std::string TlsPlace::Write(const std::string& name, const std::string& text, int mode) const {
  const std::string path = absl::StrCat(directory_, "/", name);
  WriteFile(path, mode, [&](std::FILE* file) { return std::fwrite(text.data(), 1, text.size(), file) == text.size(); });
  return path;
}

std::shared_ptr<StreamSecurity> TlsPlace::source() const { return SecurityOf(options(), TlsSide::kSource); }

std::shared_ptr<StreamSecurity> TlsPlace::destination() const { return SecurityOf(options(), TlsSide::kDestination); }

std::shared_ptr<StreamSecurity> SecurityOf(const TlsOptions& options, TlsSide side) {
  auto security = TlsSecurity::Create(options, side, Address());
  if (!security.ok()) {
    std::fprintf(stderr, "test set-up: %s\n", std::string(security.status().message()).c_str());
    std::abort();
  }
  return *std::move(security);
}

}  // namespace ferrite::migration
