// SPDX-License-Identifier: Apache-2.0
// Certificates and keys made here, whole and broken in every way that is told apart. Under the sanitizers it also shows
// that what OpenSSL allocates for us is given back.
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "service/security/identity.h"

static char folder[] = "/tmp/weightd-identity-XXXXXX";
static char cert_path[64], key_path[64], ca_path[64];
static const struct wd_identity_files both = {cert_path, "--cert", key_path, "--key", ca_path, "--ca"};
static const struct wd_identity_files ca_only = {.ca = ca_path, .ca_option = "--ca"};
static EVP_PKEY *key, *other_key;

static X509 *make_certificate(EVP_PKEY *of, long begins, long ends) {
  X509 *certificate = X509_new();
  assert_non_null(certificate);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), begins);
  X509_gmtime_adj(X509_getm_notAfter(certificate), ends);
  assert_int_equal(X509_set_pubkey(certificate, of), 1);
  assert_true(X509_sign(certificate, of, EVP_sha256()) > 0);
  return certificate;
}

static void write_certificates(const char *path, EVP_PKEY *of, long begins, long ends, int n, const char *behind) {
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  for (int i = 0; i < n; i++) {
    X509 *certificate = make_certificate(of, begins, ends);
    assert_int_equal(PEM_write_X509(file, certificate), 1);
    X509_free(certificate);
  }
  fputs(behind, file);
  assert_int_equal(fclose(file), 0);
}

static void write_key(EVP_PKEY *of, const char *passphrase) {
  FILE *file = fopen(key_path, "w");
  assert_non_null(file);
  assert_int_equal(PEM_write_PKCS8PrivateKey(file, of, passphrase ? EVP_aes_128_cbc() : NULL, passphrase,
                                             passphrase ? (int)strlen(passphrase) : 0, NULL, NULL),
                   1);
  assert_int_equal(fclose(file), 0);
}

static void write_good(void) {
  write_certificates(cert_path, key, -60, 3600, 2, "");
  write_certificates(ca_path, other_key, -60, 3600, 2, "");
  write_key(key, NULL);
}

static void refused(const struct wd_identity_files *files, const char *path, const char *word) {
  struct wd_identity identity;
  struct wd_error err;
  assert_int_equal(wd_identity_load(files, &identity, &err), WD_FAILED_PRECONDITION);
  if (!strstr(err.message, path) || !strstr(err.message, word)) {
    fail_msg("'%s' does not name %s and '%s'", err.message, path, word);
  }
  assert_null(identity.cert.text);
  assert_null(identity.key.text);
  assert_null(identity.ca.text);
  write_good();
}

static void whole_ones_are_loaded(void **state) {
  (void)state;
  write_good();
  struct wd_identity identity;
  struct wd_error err;
  time_t now = time(NULL);
  assert_int_equal(wd_identity_load(&both, &identity, &err), WD_OK);
  assert_true(identity.expires > now + 3000 && identity.expires < now + 4000);
  assert_non_null(strstr(identity.cert.text, "BEGIN CERTIFICATE"));
  assert_non_null(strstr(identity.key.text, "PRIVATE KEY"));
  wd_identity_free(&identity);
  assert_int_equal(wd_identity_load(&ca_only, &identity, &err), WD_OK);
  assert_null(identity.cert.text);
  assert_int_equal(identity.expires, 0);
  wd_identity_free(&identity);
  static const struct wd_identity_files nothing;
  assert_int_equal(wd_identity_load(&nothing, &identity, &err), WD_OK);
  wd_identity_free(&identity);
}

static void broken_ones_are_named(void **state) {
  (void)state;
  static const char half[] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
  write_certificates(cert_path, key, -60, 3600, 0, "nothing\n");
  refused(&both, cert_path, "PEM");
  write_certificates(cert_path, key, -60, 3600, 0, half);
  refused(&both, cert_path, "PEM");
  write_certificates(cert_path, key, -60, 3600, 2, half);
  refused(&both, cert_path, "certificate 3 of the chain");
  write_certificates(cert_path, key, -7200, -3600, 1, "");
  refused(&both, cert_path, "expired");
  write_certificates(cert_path, key, 3600, 7200, 1, "");
  refused(&both, cert_path, "not valid before");
  write_certificates(cert_path, other_key, -60, 3600, 1, "");
  refused(&both, key_path, "not the key");
  write_key(other_key, NULL);
  refused(&both, key_path, "not the key");
  write_key(key, "passphrase");
  refused(&both, key_path, "encrypted");
  write_certificates(key_path, key, -60, 3600, 1, "");
  refused(&both, key_path, "no private key");
  write_certificates(ca_path, key, -60, 3600, 0, "");
  refused(&both, ca_path, "no certificate");
  write_certificates(ca_path, key, -60, 3600, 3, half);
  refused(&ca_only, ca_path, "certificate 4");
  write_certificates(ca_path, key, -7200, -3600, 2, "");
  refused(&ca_only, ca_path, "expired");
  remove(key_path);
  refused(&both, key_path, "No such file");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(whole_ones_are_loaded),
      cmocka_unit_test(broken_ones_are_named),
  };
  key = EVP_EC_gen("P-256");
  other_key = EVP_EC_gen("P-256");
  if (!mkdtemp(folder) || !key || !other_key) {
    return 1;
  }
  snprintf(cert_path, sizeof cert_path, "%s/cert", folder);
  snprintf(key_path, sizeof key_path, "%s/key", folder);
  snprintf(ca_path, sizeof ca_path, "%s/ca", folder);
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  remove(cert_path);
  remove(key_path);
  remove(ca_path);
  rmdir(folder);
  EVP_PKEY_free(key);
  EVP_PKEY_free(other_key);
  return failed;
}
