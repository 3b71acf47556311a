// SPDX-License-Identifier: Apache-2.0
#include "service/rpc/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "service/base/text.h"

static bool is_loopback(const char *host) {
  struct in_addr v4;
  struct in6_addr v6;
  if (inet_pton(AF_INET, host, &v4) == 1) {
    return ntohl(v4.s_addr) >> 24 == 127;
  }
  if (inet_pton(AF_INET6, host, &v6) == 1) {
    return IN6_IS_ADDR_LOOPBACK(&v6);
  }
  return strcmp(host, "localhost") == 0;
}

enum wd_status wd_address_parse(const char *option, const char *text, struct wd_address *address,
                                struct wd_error *err) {
  *address = (struct wd_address){.option = option};
  if (strncmp(text, "unix:", 5) == 0) {
    size_t most = sizeof((struct sockaddr_un *)0)->sun_path - 1;
    address->path = text + 5;
    address->loopback = true;
    if (!*address->path || strlen(address->path) > most) {
      return wd_fail(err, WD_INVALID_ARGUMENT, "%s %s: the path of a unix socket has 1 to %zu bytes", option, text,
                     most);
    }
    return WD_OK;
  }
  const char *colon = strrchr(text, ':');
  uint64_t port = 0;
  size_t size = colon ? (size_t)(colon - text) : 0;
  const char *host = text;
  if (size > 1 && host[0] == '[' && host[size - 1] == ']') {
    host++;
    size -= 2;
  } else if (memchr(host, ':', size)) {
    size = 0;  // an IPv6 address without brackets: where its port begins is anyone's guess
  }
  if (!size || size >= sizeof address->host || !wd_parse_u64(colon + 1, 0, 65535, &port)) {
    return wd_fail(err, WD_INVALID_ARGUMENT, "%s %s: give HOST:PORT, [IPV6]:PORT or unix:PATH, such as 127.0.0.1:50151",
                   option, text);
  }
  memcpy(address->host, host, size);
  address->port = (unsigned)port;
  address->loopback = is_loopback(address->host);
  return WD_OK;
}

enum wd_status wd_address_claim(const struct wd_address *address, struct wd_error *err) {
  struct stat st;
  if (!address->path || lstat(address->path, &st) != 0) {
    return WD_OK;
  }
  if (!S_ISSOCK(st.st_mode)) {
    return wd_fail(err, WD_UNAVAILABLE, "%s unix:%s: there is a file of that name which is no socket", address->option,
                   address->path);
  }
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  snprintf(name.sun_path, sizeof name.sun_path, "%s", address->path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  bool answers = fd >= 0 && (connect(fd, (struct sockaddr *)&name, sizeof name) == 0 || errno == EAGAIN);
  if (fd >= 0) {
    close(fd);
  }
  if (answers) {
    return wd_fail(err, WD_UNAVAILABLE, "%s unix:%s: another server is listening there", address->option,
                   address->path);
  }
  return WD_OK;
}

void wd_address_format(const struct wd_address *address, int port, char *out, size_t out_size) {
  if (address->path) {
    snprintf(out, out_size, "unix:%s", address->path);
  } else if (strchr(address->host, ':')) {
    snprintf(out, out_size, "[%s]:%d", address->host, port);
  } else {
    snprintf(out, out_size, "%s:%d", address->host, port);
  }
}
