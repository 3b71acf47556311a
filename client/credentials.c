// SPDX-License-Identifier: Apache-2.0
#include "client/credentials.h"

#include <grpc/slice.h>
#include <stdlib.h>
#include <string.h>

#include "service/security/identity.h"
#include "service/security/tokens.h"

bool wd_credentials_use_tls(const struct wd_credentials_config *config) {
  return config->tls || config->ca || config->client_cert || config->client_key || config->name;
}

enum wd_status wd_credentials_create(const struct wd_credentials_config *config, grpc_channel_credentials **credentials,
                                     struct wd_error *err) {
  *credentials = NULL;
  if (!wd_credentials_use_tls(config)) {
    *credentials = grpc_insecure_credentials_create();
    return WD_OK;
  }
  struct wd_identity_files files = {.cert = config->client_cert,
                                    .cert_option = "--tls-client-cert",
                                    .key = config->client_key,
                                    .key_option = "--tls-client-key",
                                    .ca = config->ca,
                                    .ca_option = "--tls-ca"};
  struct wd_identity identity;
  enum wd_status status = wd_identity_load(&files, &identity, err);
  if (status) {
    return status;
  }
  grpc_ssl_pem_key_cert_pair pair = {identity.key.text, identity.cert.text};
  *credentials = grpc_ssl_credentials_create_ex(identity.ca.text, config->client_cert ? &pair : NULL, NULL, NULL);
  wd_identity_free(&identity);
  return WD_OK;
}

enum wd_status wd_credentials_header(const struct wd_credentials_config *config, grpc_slice *header,
                                     struct wd_error *err) {
  static const char scheme[] = "Bearer ";
  char *token = NULL;
  *header = grpc_empty_slice();
  if (!config->token_file) {
    return WD_OK;
  }
  enum wd_status status = wd_tokens_first("--token-file", config->token_file, &token, err);
  if (status) {
    return status;
  }
  size_t size = strlen(token);
  *header = grpc_slice_malloc(sizeof scheme - 1 + size);
  memcpy(GRPC_SLICE_START_PTR(*header), scheme, sizeof scheme - 1);
  memcpy(GRPC_SLICE_START_PTR(*header) + sizeof scheme - 1, token, size);
  explicit_bzero(token, size);
  free(token);
  return WD_OK;
}

const char *wd_credentials_hint(const struct wd_credentials_config *config, const char *failure) {
  bool tls = wd_credentials_use_tls(config);
  if (strstr(failure, "certificate verify failed")) {
    return config->ca ? "the authorities in the file of --tls-ca do not vouch for the server's certificate, or it has "
                        "expired: is it the server's authority?"
                      : "no authority that this machine trusts vouches for the server's certificate: name its own with "
                        "--tls-ca FILE";
  }
  if (tls && !config->ca && strstr(failure, "empty address list")) {
    return "this machine has no authorities that it trusts (Debian: ca-certificates): name the server's with --tls-ca "
           "FILE";
  }
  if (strstr(failure, "not in peer certificate")) {
    return "the server's certificate is made out to another name: if that name is right, give --tls-name NAME";
  }
  if (strstr(failure, "wrong version number")) {
    return "the server speaks plain text there: leave the --tls options out, or name the port that speaks TLS";
  }
  if (strstr(failure, "Socket closed")) {
    return !tls ? "something listens there and hung up: if it speaks TLS, give --tls-ca FILE or --tls"
                : "the server hung up: if it asks for a certificate, give --tls-client-cert and --tls-client-key of an "
                  "authority that it trusts";
  }
  return NULL;
}
