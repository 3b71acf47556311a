// SPDX-License-Identifier: Apache-2.0
// The decoders on a pipe, for property_test.py.
//
//   decode_driver --list                        the paths this CPU supports, best first, a line each
//   decode_driver PATH TYPE OUTPUT FACTOR [N…]  blocks of TYPE from standard input, values as OUTPUT (F16, BF16 or F32)
//                                               to standard output; decoded in pieces of N, N, … blocks, then the rest
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/formats/decode.h"

static int complain(const char *what) {
  fprintf(stderr, "decode_driver: %s\n", what);
  return 2;
}

static int list(void) {
  for (const struct wd_decode_path *const *p = wd_decode_paths; *p; p++) {
    if ((*p)->supported()) {
      puts((*p)->name);
    }
  }
  return 0;
}

// All of standard input in a heap block of exactly its size, so that a sanitizer sees a read beyond it.
static uint8_t *read_all(size_t *size) {
  size_t room = 1 << 16;
  uint8_t *data = malloc(room);
  *size = 0;
  while (data) {
    size_t got = fread(data + *size, 1, room - *size, stdin);
    *size += got;
    if (got == 0 || *size == room) {
      room = got == 0 ? *size : 2 * room;
      uint8_t *moved = realloc(data, room > 0 ? room : 1);
      if (!moved) {
        free(data);
        return NULL;
      }
      data = moved;
      if (got == 0) {
        break;
      }
    }
  }
  return data;
}

int main(int argc, char **argv) {
  static const char *const outputs[WD_DECODED_OUTPUTS] = {"F16", "BF16", "F32"};
  const struct wd_decode_path *path;
  const struct wd_type_info *type;
  struct wd_error err;
  enum wd_output output = 0;
  size_t size, done = 0;
  int result = 0;

  if (argc == 2 && strcmp(argv[1], "--list") == 0) {
    return list();
  }
  if (argc < 5) {
    return complain("usage: decode_driver PATH TYPE OUTPUT FACTOR [N…] < BLOCKS > VALUES");
  }
  if (wd_decode_path_choose(argv[1], &path, &err) != WD_OK) {
    return complain(err.message);
  }
  type = wd_type_by_name(argv[2]);
  while (output < WD_DECODED_OUTPUTS && strcmp(outputs[output], argv[3]) != 0) {
    output++;
  }
  if (!type || output == WD_DECODED_OUTPUTS) {
    return complain("no such type or output");
  }
  const float factor = strtof(argv[4], NULL);

  uint8_t *blocks = read_all(&size);
  const size_t n = size / type->block_bytes, block_out = type->block_elements * wd_output_bytes(output);
  uint8_t *values = malloc(n > 0 ? n * block_out : 1);
  if (!blocks || !values || size % type->block_bytes != 0) {
    result = complain("the input is no whole number of blocks, or too large");
    goto end;
  }
  for (int k = 5; k < argc && done < n; k++) {
    size_t count = strtoull(argv[k], NULL, 10);
    count = count < n - done ? count : n - done;
    path->decode[type->type][output](blocks + done * type->block_bytes, count, factor, values + done * block_out);
    done += count;
  }
  path->decode[type->type][output](blocks + done * type->block_bytes, n - done, factor, values + done * block_out);
  if (fwrite(values, 1, n * block_out, stdout) != n * block_out || fflush(stdout) != 0) {
    result = complain(strerror(errno));
  }
end:
  free(values);
  free(blocks);
  return result;
}
