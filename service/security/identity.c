// SPDX-License-Identifier: Apache-2.0
#include "service/security/identity.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

#define MAX_CERTIFICATES 1024  // of a file

const char *wd_format_utc(time_t when, char *out, size_t out_size) {
  struct tm parts;
  if (!gmtime_r(&when, &parts) || !strftime(out, out_size, "%Y-%m-%d %H:%M:%S UTC", &parts)) {
    snprintf(out, out_size, "(no time)");
  }
  return out;
}

// What OpenSSL has to say of its last failure; forgets the others.
static const char *reason(void) {
  unsigned long error = ERR_peek_last_error();
  const char *text = error ? ERR_reason_error_string(error) : NULL;
  ERR_clear_error();
  return text ? text : "no reason was given";
}

static time_t to_time(const ASN1_TIME *time) {
  struct tm parts;
  return time && ASN1_TIME_to_tm(time, &parts) ? timegm(&parts) : 0;
}

// A key that wants a passphrase is refused: nobody is there to type it.
static int no_passphrase(char *buffer, int size, int writing, void *asked) {
  (void)buffer;
  (void)size;
  (void)writing;
  *(bool *)asked = true;
  return -1;
}

// The chain goes into the context, its first certificate as the context's own.
static enum wd_status check_chain(const struct wd_identity_files *files, struct wd_identity *identity, SSL_CTX *context,
                                  struct wd_error *err) {
  enum wd_status status = WD_OK;
  BIO *bio = BIO_new_mem_buf(identity->cert.text, (int)identity->cert.size);
  X509 *leaf = bio ? PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL) : NULL;
  if (!leaf) {
    status = wd_fail(err, WD_FAILED_PRECONDITION,
                     "%s %s holds no certificate in PEM, that is, -----BEGIN CERTIFICATE----- and what follows (%s)",
                     files->cert_option, files->cert, reason());
    goto out;
  }
  time_t now = time(NULL), begins = to_time(X509_get0_notBefore(leaf));
  identity->expires = to_time(X509_get0_notAfter(leaf));
  if (identity->expires <= now) {
    status = wd_fail(err, WD_FAILED_PRECONDITION, "%s %s expired at %s: renew the certificate", files->cert_option,
                     files->cert, WD_UTC(identity->expires));
  } else if (begins > now) {
    status = wd_fail(err, WD_FAILED_PRECONDITION,
                     "%s %s is not valid before %s, and here it is %s: is this machine's clock right?",
                     files->cert_option, files->cert, WD_UTC(begins), WD_UTC(now));
  } else if (SSL_CTX_use_certificate(context, leaf) != 1) {
    status =
        wd_fail(err, WD_FAILED_PRECONDITION, "%s %s cannot be used: %s", files->cert_option, files->cert, reason());
  }
  for (int i = 0; !status && i < MAX_CERTIFICATES; i++) {
    X509 *next = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    if (!next) {
      if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) {
        status = wd_fail(err, WD_FAILED_PRECONDITION, "%s %s: certificate %d of the chain cannot be read: %s",
                         files->cert_option, files->cert, i + 2, reason());
      }
      break;
    }
    if (SSL_CTX_add_extra_chain_cert(context, next) != 1) {
      X509_free(next);
      status = wd_fail(err, WD_FAILED_PRECONDITION, "%s %s: certificate %d of the chain cannot be used: %s",
                       files->cert_option, files->cert, i + 2, reason());
    }
  }
out:
  X509_free(leaf);
  BIO_free(bio);
  ERR_clear_error();
  return status;
}

static enum wd_status check_key(const struct wd_identity_files *files, const struct wd_identity *identity,
                                SSL_CTX *context, struct wd_error *err) {
  enum wd_status status = WD_OK;
  bool asked = false;
  BIO *bio = BIO_new_mem_buf(identity->key.text, (int)identity->key.size);
  EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &asked) : NULL;
  if (!key && asked) {
    status = wd_fail(err, WD_FAILED_PRECONDITION,
                     "%s %s is encrypted, and there is nobody to ask for its passphrase: decrypt it with `openssl pkey "
                     "-in … -out …` and protect the file",
                     files->key_option, files->key);
  } else if (!key) {
    status = wd_fail(err, WD_FAILED_PRECONDITION,
                     "%s %s holds no private key in PEM, that is, -----BEGIN PRIVATE KEY----- and what follows (%s)",
                     files->key_option, files->key, reason());
  } else if (SSL_CTX_use_PrivateKey(context, key) != 1 || SSL_CTX_check_private_key(context) != 1) {
    ERR_clear_error();
    status = wd_fail(err, WD_FAILED_PRECONDITION,
                     "%s %s is not the key of the certificate %s: give the two that were made together",
                     files->key_option, files->key, files->cert);
  }
  EVP_PKEY_free(key);
  BIO_free(bio);
  ERR_clear_error();
  return status;
}

static enum wd_status check_ca(const struct wd_identity_files *files, const struct wd_identity *identity,
                               struct wd_error *err) {
  BIO *bio = BIO_new_mem_buf(identity->ca.text, (int)identity->ca.size);
  int n = 0, current = 0;
  time_t now = time(NULL);
  while (bio && n < MAX_CERTIFICATES) {
    X509 *ca = PEM_read_bio_X509(bio, NULL, NULL, NULL);
    if (!ca) {
      break;
    }
    current += to_time(X509_get0_notAfter(ca)) > now;
    X509_free(ca);
    n++;
  }
  bool ended = n == MAX_CERTIFICATES || ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  enum wd_status status = WD_OK;
  if (n == 0) {
    status = wd_fail(err, WD_FAILED_PRECONDITION,
                     "%s %s holds no certificate in PEM, that is, -----BEGIN CERTIFICATE----- and what follows (%s)",
                     files->ca_option, files->ca, reason());
  } else if (!ended) {
    status = wd_fail(err, WD_FAILED_PRECONDITION, "%s %s: certificate %d cannot be read: %s", files->ca_option,
                     files->ca, n + 1, reason());
  } else if (!current) {
    status = wd_fail(err, WD_FAILED_PRECONDITION,
                     "%s %s: every certificate in it has expired, so it could vouch for nobody: renew it",
                     files->ca_option, files->ca);
  }
  BIO_free(bio);
  ERR_clear_error();
  return status;
}

enum wd_status wd_identity_load(const struct wd_identity_files *files, struct wd_identity *identity,
                                struct wd_error *err) {
  *identity = (struct wd_identity){0};
  ERR_clear_error();
  // A context that is thrown away: what it takes, gRPC's will take.
  SSL_CTX *context = SSL_CTX_new(TLS_method());
  if (!context) {
    return wd_fail(err, WD_INTERNAL, "OpenSSL does not work here: %s", reason());
  }
  enum wd_status status = WD_OK;
  if (files->cert) {
    status = wd_secret_read(files->cert_option, files->cert, &identity->cert, err);
    status = status ? status : wd_secret_read(files->key_option, files->key, &identity->key, err);
    status = status ? status : check_chain(files, identity, context, err);
    status = status ? status : check_key(files, identity, context, err);
  }
  if (!status && files->ca) {
    status = wd_secret_read(files->ca_option, files->ca, &identity->ca, err);
    status = status ? status : check_ca(files, identity, err);
  }
  SSL_CTX_free(context);
  if (status) {
    wd_identity_free(identity);
  }
  return status;
}

void wd_identity_free(struct wd_identity *identity) {
  wd_secret_free(&identity->cert);
  wd_secret_free(&identity->key);
  wd_secret_free(&identity->ca);
}
