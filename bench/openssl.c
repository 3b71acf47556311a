// SPDX-License-Identifier: Apache-2.0
// How fast bare OpenSSL carries bytes over loopback: what a fetch over TLS is measured against (bench/tls).
//
//   openssl [GIGABYTES [CONNECTIONS]]        prints one line of JSON
//
// A sender and a receiver, a process each for every connection, the same library that gRPC uses, TLS 1.3 with what the
// two agree on by default, a P-256 certificate made for the occasion. The sender writes from one buffer of 1 MiB, the
// receiver reads into one; reading ahead by a record is what costs OpenSSL least. CPU seconds are of all processes,
// user and system.
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_BYTES ((size_t)1 << 20)
#define MAX_CONNECTIONS 64

static void die(const char *what) {
  fprintf(stderr, "openssl: %s failed\n", what);
  ERR_print_errors_fp(stderr);
  exit(1);
}

#define MUST(condition) ((condition) ? (void)0 : die(#condition))

static SSL_CTX *make_server(void) {
  SSL_CTX *context = SSL_CTX_new(TLS_server_method());
  EVP_PKEY *key = EVP_EC_gen("P-256");
  X509 *certificate = X509_new();
  MUST(context && key && certificate);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 86400);
  MUST(X509_set_pubkey(certificate, key) && X509_sign(certificate, key, EVP_sha256()));
  MUST(SSL_CTX_use_certificate(context, certificate) == 1 && SSL_CTX_use_PrivateKey(context, key) == 1);
  X509_free(certificate);
  EVP_PKEY_free(key);
  return context;
}

static SSL_CTX *make_client(void) {
  SSL_CTX *context = SSL_CTX_new(TLS_client_method());
  MUST(context);
  SSL_CTX_set_read_ahead(context, 1);
  return context;
}

// One end of a connection, in a process of its own: sends or receives so many bytes and ends the process.
static void run_end(SSL_CTX *context, int fd, uint64_t bytes, bool sends, int tell) {
  SSL *ssl = SSL_new(context);
  char *buffer = malloc(BUFFER_BYTES);
  MUST(ssl && buffer && SSL_set_fd(ssl, fd) == 1);
  memset(buffer, 0x5A, BUFFER_BYTES);
  MUST((sends ? SSL_accept(ssl) : SSL_connect(ssl)) == 1);
  if (tell >= 0) {
    char text[64] = "";
    snprintf(text, sizeof text, "%s, %s", SSL_get_version(ssl), SSL_get_cipher_name(ssl));
    MUST(write(tell, text, sizeof text) == sizeof text);
  }
  for (uint64_t left = bytes; left;) {
    int most = (int)(left < BUFFER_BYTES ? left : BUFFER_BYTES);
    int n = sends ? SSL_write(ssl, buffer, most) : SSL_read(ssl, buffer, most);
    MUST(n > 0);
    left -= (uint64_t)n;
  }
  // The sender stays until the receiver has hung up.
  if (sends) {
    MUST(SSL_read(ssl, buffer, 1) <= 0);
  }
  _exit(0);
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
  bool smoke = argc > 1 && strcmp(argv[1], "--smoke") == 0;
  double gigabytes = smoke ? 0.01 : argc > 1 ? strtod(argv[1], NULL) : 2;
  long connections = argc > 2 ? strtol(argv[2], NULL, 10) : 1;
  if (!(gigabytes > 0 && gigabytes < 1e6) || connections < 1 || connections > MAX_CONNECTIONS) {
    fprintf(stderr, "usage: openssl [GIGABYTES [CONNECTIONS]] | --smoke\n");
    return 2;
  }
  uint64_t bytes = (uint64_t)(gigabytes * 1e9 / (double)connections);
  SSL_CTX *server = make_server(), *client = make_client();
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  MUST(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, MAX_CONNECTIONS) == 0);
  MUST(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
  int cipher[2];
  MUST(pipe(cipher) == 0);
  double begin = seconds();
  for (long i = 0; i < connections; i++) {
    int there = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(connect(there, (struct sockaddr *)&address, sizeof address) == 0);
    int here = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    MUST(here >= 0);
    for (int end = 0; end < 2; end++) {
      pid_t pid = fork();
      MUST(pid >= 0);
      if (pid == 0) {
        close(end ? there : here);
        run_end(end ? server : client, end ? here : there, bytes, end, end == 0 && i == 0 ? cipher[1] : -1);
      }
    }
    close(there);
    close(here);
  }
  for (long i = 0; i < 2 * connections; i++) {
    int status;
    MUST(wait(&status) > 0 && status == 0);
  }
  double took = seconds() - begin;
  struct rusage usage;
  getrusage(RUSAGE_CHILDREN, &usage);
  double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
               1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  char text[64];
  MUST(read(cipher[0], text, sizeof text) == sizeof text);
  double all = (double)bytes * (double)connections;
  printf("{\"gb_s\": %.4f, \"cpu_s_per_gb\": %.4f, \"cipher\": \"%s\", \"library\": \"%s\"}\n", all / took / 1e9,
         cpu / (all / 1e9), text, OpenSSL_version(OPENSSL_VERSION));
  SSL_CTX_free(server);
  SSL_CTX_free(client);
  return 0;
}
