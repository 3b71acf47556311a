// SPDX-License-Identifier: Apache-2.0
// Feeds gguf_fuzz.c with mutated models, the same ones every time: input number n follows from n alone.
//
//   gguf_driver [COUNT [FIRST]]   runs COUNT inputs (30,000; 2,000,000 with WEIGHTD_FULL=1) from number FIRST (0) on.
// Before each input its number is noted, and printed where the process dies; "gguf_driver 1 NUMBER" then repeats it.
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/gguf/model.h"
#include "tests/fuzz/gguf_fuzz.h"
#include "tests/gguf/writer.h"

static volatile unsigned long long current;

static void say_number(int signal_number) {
  char text[64];
  unsigned long long n = current;
  size_t at = sizeof text;
  text[--at] = '\n';
  do {
    text[--at] = (char)('0' + n % 10);
    n /= 10;
  } while (n);
  static const char before[] = "died at input number ";
  if (write(STDERR_FILENO, before, sizeof before - 1) < 0 || write(STDERR_FILENO, text + at, sizeof text - at) < 0) {
    _exit(1);
  }
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

// splitmix64
static uint64_t next(uint64_t *state) {
  uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
  z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
  return z ^ (z >> 31);
}

// Numbers that are worth a try in lengths, counts, dimensions and offsets.
static uint64_t odd_number(uint64_t *state) {
  uint64_t r = next(state), power = UINT64_C(1) << (r % 64);
  switch (next(state) % 6) {
    case 0:
      return power;
    case 1:
      return power - 1;
    case 2:
      return power + 1;
    case 3:
      return -(r % 64);
    case 4:
      return r % 64;
    default:
      return r;
  }
}

static void mutate(struct writer *w, const struct writer *others, size_t n_others, uint64_t *state) {
  size_t at = w->size ? next(state) % w->size : 0, left = w->size - at;
  size_t piece = left ? next(state) % (left < 40 ? left : 40) + 1 : 0;
  const struct writer *other = &others[next(state) % n_others];
  if (w->size == 0) {
    return;
  }
  switch (next(state) % 9) {
    case 0:  // a bit
      w->data[at] ^= (unsigned char)(1 << next(state) % 8);
      break;
    case 1:  // a byte
      w->data[at] = (unsigned char)next(state);
      break;
    case 2:  // a 32-bit number
      if (left >= 4) {
        w_set_u32(w, at, (uint32_t)odd_number(state));
      }
      break;
    case 3:  // a 64-bit number
    case 4:
      if (left >= 8) {
        w_set_u64(w, at, odd_number(state));
      }
      break;
    case 5:  // the end
      w->size = at;
      break;
    case 6:  // a piece less
      memmove(w->data + at, w->data + at + piece, left - piece);
      w->size -= piece;
      break;
    case 7:  // a piece twice
      w_fill(w, 0, piece);
      memmove(w->data + at + piece, w->data + at, left);
      break;
    default:  // a piece of another file
      if (at < other->size) {
        memcpy(w->data + at, other->data + at, piece < other->size - at ? piece : other->size - at);
      }
      break;
  }
}

// A model of every tensor type, with empty tensors and matrices of matrices.
static void all_types(struct writer *w) {
  w_start(w, 2, WD_TYPE_COUNT, 1);
  w_key_u32(w, "general.alignment", 8);
  for (int t = 0; t < WD_TYPE_COUNT; t++) {
    char name[8];
    snprintf(name, sizeof name, "%d", t);
    w_tensor(w, name, wd_types[t].id, (uint32_t)t % 4 + 1, (const uint64_t[]){256, 1, (uint64_t)t % 3, 1}, 0);
  }
  w_pad(w, 8);
  w_fill(w, 1, 4096);
}

static unsigned long long argument(int argc, char **argv, int i, unsigned long long otherwise) {
  return argc > i ? strtoull(argv[i], NULL, 10) : otherwise;
}

int main(int argc, char **argv) {
  enum { SEEDS = 5 };
  struct writer seeds[SEEDS] = {{0}, {.big_endian = true}, {0}, {.big_endian = true}, {0}}, input = {0};
  const char *full = getenv("WEIGHTD_FULL");
  unsigned long long count = argument(argc, argv, 1, full && strcmp(full, "1") == 0 ? 2000000 : 30000);
  unsigned long long first = argument(argc, argv, 2, 0);
  signal(SIGSEGV, say_number);
  signal(SIGABRT, say_number);
  signal(SIGFPE, say_number);
  signal(SIGBUS, say_number);
  w_sample(&seeds[0]);
  w_sample(&seeds[1]);
  w_rich_sample(&seeds[2]);
  w_rich_sample(&seeds[3]);
  all_types(&seeds[4]);
  for (unsigned long long n = first; n < first + count; n++) {
    uint64_t state = n * UINT64_C(0xD1342543DE82EF95) + 1;
    const struct writer *seed = &seeds[next(&state) % SEEDS];
    current = n;
    input.size = 0;
    input.big_endian = seed->big_endian;
    w_bytes(&input, seed->data, seed->size);
    for (uint64_t m = n < SEEDS ? 0 : next(&state) % 4 + 1; m > 0; m--) {
      mutate(&input, seeds, SEEDS, &state);
    }
    LLVMFuzzerTestOneInput(input.data, input.size);
  }
  for (int i = 0; i < SEEDS; i++) {
    writer_free(&seeds[i]);
  }
  writer_free(&input);
  printf("%llu inputs: %llu opened, %llu refused\n", count, gguf_fuzz_opened, gguf_fuzz_refused);
  return count >= 1000 &&
         (gguf_fuzz_opened < count / 50 || gguf_fuzz_refused < count / 50);  // met too little of one kind
}
