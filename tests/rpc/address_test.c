// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "service/rpc/address.h"

static void addresses_are_understood(void **state) {
  (void)state;
  static const struct {
    const char *text;
    const char *host;
    unsigned port;
    bool loopback;
  } good[] = {
      {"127.0.0.1:50151", "127.0.0.1", 50151, true},
      {"127.200.3.4:0", "127.200.3.4", 0, true},
      {"localhost:1", "localhost", 1, true},
      {"[::1]:65535", "::1", 65535, true},
      {"0.0.0.0:80", "0.0.0.0", 80, false},
      {"[::]:80", "::", 80, false},
      {"host.example:80", "host.example", 80, false},
      {"128.0.0.1:80", "128.0.0.1", 80, false},
      {"127.0.0.1.example:80", "127.0.0.1.example", 80, false},
  };
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    struct wd_address address;
    struct wd_error err;
    assert_int_equal(wd_address_parse("--listen", good[i].text, &address, &err), WD_OK);
    assert_string_equal(address.host, good[i].host);
    assert_int_equal(address.port, good[i].port);
    assert_int_equal(address.loopback, good[i].loopback);
    assert_null(address.path);
  }
}

static void others_are_refused(void **state) {
  (void)state;
  static const char *const bad[] = {"",       "127.0.0.1", ":80",   "host:",   "host:x",  "host:65536",
                                    "::1:80", "[::1]",     "unix:", "host:-1", "host: 1", "[]:1"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct wd_address address;
    struct wd_error err;
    assert_int_equal(wd_address_parse("--listen", bad[i], &address, &err), WD_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "--listen"));
  }
  char path[300] = "unix:";
  memset(path + 5, 'x', 200);
  struct wd_address address;
  struct wd_error err;
  assert_int_equal(wd_address_parse("--listen", path, &address, &err), WD_INVALID_ARGUMENT);
}

static void sockets_are_local(void **state) {
  (void)state;
  struct wd_address address;
  struct wd_error err;
  char out[128];
  assert_int_equal(wd_address_parse("--listen", "unix:/tmp/x:1.sock", &address, &err), WD_OK);
  assert_true(address.loopback);
  assert_string_equal(address.path, "/tmp/x:1.sock");
  wd_address_format(&address, 1, out, sizeof out);
  assert_string_equal(out, "unix:/tmp/x:1.sock");
  assert_int_equal(wd_address_parse("--listen", "[::1]:0", &address, &err), WD_OK);
  wd_address_format(&address, 77, out, sizeof out);
  assert_string_equal(out, "[::1]:77");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(addresses_are_understood),
      cmocka_unit_test(others_are_refused),
      cmocka_unit_test(sockets_are_local),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
