// SPDX-License-Identifier: Apache-2.0
// wd_chunk_decode against protobuf-c's own packer, in every order of fields and every division into pieces, and against
// bytes that are no chunk.
#include "client/chunk.h"
#include "tests/client/test.h"

struct bytes {
  uint8_t data[70000];
  size_t size;
};

static void put_varint(struct bytes *b, uint64_t value) {
  while (value >= 0x80) {
    b->data[b->size++] = (uint8_t)(value | 0x80);
    value >>= 7;
  }
  b->data[b->size++] = (uint8_t)value;
}

static void put_bytes(struct bytes *b, unsigned field, const void *data, size_t size) {
  put_varint(b, field << 3 | 2);
  put_varint(b, size);
  memcpy(b->data + b->size, data, size);
  b->size += size;
}

// The payload of every chunk here.
static uint8_t payload[3000];

// Appends field number `field` of a chunk; 7 to 10 are unknown ones of each wire type.
static void put_field(struct bytes *b, int field, const struct bytes *tensor, const struct bytes *summary) {
  static const uint8_t fixed[8] = {0x78, 0x56, 0x34, 0x12};
  switch (field) {
    case 1:
      put_varint(b, 1 << 3);
      put_varint(b, 99999);
      break;
    case 2:
      put_varint(b, 2 << 3);
      put_varint(b, UINT64_C(0x8000000000000001));
      break;
    case 3:
      put_varint(b, 3 << 3 | 5);
      memcpy(b->data + b->size, fixed, 4);
      b->size += 4;
      break;
    case 4:
      put_bytes(b, 4, tensor->data, tensor->size);
      break;
    case 5:
      put_bytes(b, 5, summary->data, summary->size);
      break;
    case 6:
      put_bytes(b, 6, payload, sizeof payload);
      break;
    case 7:
      put_varint(b, 7 << 3);
      put_varint(b, UINT64_MAX);
      break;
    case 8:
      put_varint(b, 1000 << 3 | 1);
      memcpy(b->data + b->size, fixed, 8);
      b->size += 8;
      break;
    case 9:
      put_bytes(b, 536870911, "whatever", 8);
      break;
    default:
      put_varint(b, 15 << 3 | 5);
      memcpy(b->data + b->size, fixed, 4);
      b->size += 4;
  }
}

static void pack_details(struct bytes *tensor, struct bytes *summary) {
  Weightd__V1__Tensor t = WEIGHTD__V1__TENSOR__INIT;
  Weightd__V1__Summary s = WEIGHTD__V1__SUMMARY__INIT;
  uint64_t shape[] = {7, 300};
  t.name = (char *)"blk.0.attn_q.weight";
  t.n_output_shape = 2;
  t.output_shape = shape;
  t.output_bytes = 4200;
  s.bytes = 3000;
  s.crc32c = 0xDEADBEEF;
  s.nans = 5;
  tensor->size = weightd__v1__tensor__pack(&t, tensor->data);
  summary->size = weightd__v1__summary__pack(&s, summary->data);
}

// Divides bytes into pieces at random places, some of them empty.
static size_t divide(const struct bytes *b, struct iovec *pieces, size_t room, uint64_t *seed) {
  size_t n = 0, at = 0;
  while (at < b->size) {
    size_t left = b->size - at, take = n + 1 == room ? left : wd_test_random(seed) % (left < 700 ? left + 1 : 700);
    pieces[n++] = (struct iovec){(void *)(b->data + at), take};
    at += take;
  }
  return n;
}

static void check_payload(const struct wd_chunk *chunk, const struct iovec *pieces) {
  uint8_t out[sizeof payload];
  struct iovec list[3];
  struct wd_place place = chunk->data;
  uint64_t left = chunk->size;
  size_t n, at = 0;
  assert_int_equal(chunk->size, sizeof payload);
  while ((n = wd_chunk_payload(pieces, &place, &left, list, 3)) > 0) {
    for (size_t i = 0; i < n; i++) {
      assert_true(list[i].iov_len <= sizeof out - at);
      memcpy(out + at, list[i].iov_base, list[i].iov_len);
      at += list[i].iov_len;
    }
  }
  assert_int_equal(at, sizeof payload);
  assert_memory_equal(out, payload, sizeof payload);
}

static void any_order_any_pieces(void **state) {
  (void)state;
  static struct bytes tensor, summary, message;
  uint64_t seed = 42;
  for (size_t i = 0; i < sizeof payload; i++) {
    payload[i] = (uint8_t)wd_test_random(&seed);
  }
  pack_details(&tensor, &summary);
  for (int round = 0; round < 3000; round++) {
    int order[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    for (int i = 9; i > 0; i--) {
      int k = (int)(wd_test_random(&seed) % (unsigned)(i + 1)), swap = order[i];
      order[i] = order[k];
      order[k] = swap;
    }
    message.size = 0;
    for (int i = 0; i < 10; i++) {
      put_field(&message, order[i], &tensor, &summary);
    }
    struct iovec pieces[200];
    size_t n = divide(&message, pieces, 200, &seed);
    struct wd_arena arena = {0};
    struct wd_chunk chunk;
    struct wd_error err;
    assert_int_equal(wd_chunk_decode(pieces, n, &arena, &chunk, &err), WD_OK);
    assert_int_equal(chunk.tensor_index, 99999);
    assert_true(chunk.offset == UINT64_C(0x8000000000000001));
    assert_int_equal(chunk.crc32c, 0x12345678);
    assert_string_equal(chunk.tensor->name, "blk.0.attn_q.weight");
    assert_int_equal(chunk.tensor->n_output_shape, 2);
    assert_int_equal(chunk.tensor->output_shape[1], 300);
    assert_true(chunk.summary->crc32c == 0xDEADBEEF && chunk.summary->nans == 5);
    check_payload(&chunk, pieces);
    wd_arena_reset(&arena);
  }
}

static enum wd_status decode(const void *data, size_t size, struct wd_chunk *chunk) {
  struct iovec piece = {(void *)data, size};
  struct wd_arena arena = {0};
  enum wd_status status = wd_chunk_decode(&piece, 1, &arena, chunk, NULL);
  wd_arena_reset(&arena);
  return status;
}

static void empty_and_repeated(void **state) {
  (void)state;
  struct wd_chunk chunk;
  assert_int_equal(decode("", 0, &chunk), WD_OK);
  assert_true(chunk.size == 0 && !chunk.tensor && !chunk.summary && chunk.tensor_index == 0);
  // An empty `summary` is a summary; of several scalars the last counts, as protobuf has it.
  assert_int_equal(decode("\x2a\x00\x08\x05\x08\x07", 6, &chunk), WD_OK);
  assert_true(chunk.summary && chunk.tensor_index == 7);
  // A summary in two parts is their sum.
  struct iovec piece = {(void *)"\x2a\x02\x08\x05\x2a\x02\x20\x09", 8};
  struct wd_arena arena = {0};
  assert_int_equal(wd_chunk_decode(&piece, 1, &arena, &chunk, NULL), WD_OK);
  assert_true(chunk.summary->bytes == 5 && chunk.summary->nans == 9);
  wd_arena_reset(&arena);
}

// Every way to end too early is refused, and nothing beyond the end is looked at (the sanitizers watch).
static void truncated(void **state) {
  (void)state;
  static struct bytes tensor, summary, message;
  size_t borders[11];
  size_t n = 0;
  pack_details(&tensor, &summary);
  message.size = 0;
  for (int field = 1; field <= 10; field++) {
    borders[n++] = message.size;
    put_field(&message, field, &tensor, &summary);
  }
  for (size_t size = 0; size < message.size; size++) {
    uint8_t *copy = malloc(size ? size : 1);
    struct wd_chunk chunk;
    bool border = false;
    assert_non_null(copy);
    memcpy(copy, message.data, size);
    for (size_t i = 0; i < n; i++) {
      border |= borders[i] == size;
    }
    assert_int_equal(decode(copy, size, &chunk), border ? WD_OK : WD_INTERNAL);
    free(copy);
  }
}

static void hostile(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t size;
  } wrong[] = {
      {"\x00", 1},                                               // field 0
      {"\x0b", 1},                                               // a group begins
      {"\x0c", 1},                                               // a group ends
      {"\x0e\x01", 2},                                           // no wire type
      {"\x80", 1},                                               // a key without an end
      {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 11},      // more than 64 bits
      {"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", 12},  // more than ten bytes
      {"\x32\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11},      // a payload of 2^64 - 1 bytes
      {"\x32\x05\x01\x02", 4},                                   // a payload that is cut
      {"\x22\x01\xff", 3},                                       // a tensor that is none
      {"\x2a\x01\x08", 3},                                       // a summary that is none
      {"\x22\xff\xff\xff\x7f", 5},                               // a tensor of 256 MiB
      {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 10},          // a key beyond 32 bits
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    struct wd_chunk chunk;
    assert_int_equal(decode(wrong[i].bytes, wrong[i].size, &chunk), WD_INTERNAL);
  }
  // More than a tensor has to say, though every length is right.
  static struct bytes message;
  static uint8_t name[40000];
  memset(name, 'x', sizeof name);
  struct bytes *b = &message;
  b->size = 0;
  put_varint(b, 4 << 3 | 2);
  put_varint(b, WD_CHUNK_DETAIL_LIMIT + 1);
  struct wd_chunk chunk;
  memset(b->data + b->size, 0, WD_CHUNK_DETAIL_LIMIT + 1);
  assert_int_equal(decode(b->data, b->size + WD_CHUNK_DETAIL_LIMIT + 1, &chunk), WD_INTERNAL);
}

static void random_bytes(void **state) {
  (void)state;
  uint64_t seed = 7;
  for (int round = 0; round < 200000; round++) {
    uint8_t bytes[24];
    size_t size = wd_test_random(&seed) % sizeof bytes;
    for (size_t i = 0; i < size; i++) {
      uint64_t r = wd_test_random(&seed);
      bytes[i] = (uint8_t)(r & 0x300 ? r % 64 : r);  // mostly plausible keys and lengths
    }
    struct wd_chunk chunk;
    if (decode(bytes, size, &chunk) == WD_OK) {
      assert_true(chunk.size <= size);
    }
  }
}

// A message in a message in a message … is refused before protobuf-c's recursion meets the end of the stack.
static void nesting(void **state) {
  (void)state;
  enum { DEEP = 100000, ROOM = DEEP * 8 };
  uint8_t *data = malloc(ROOM);
  assert_non_null(data);
  for (int depth = 5; depth <= DEEP; depth = depth < 50 ? depth + 5 : depth * 10) {
    size_t at = ROOM;
    for (int i = 0; i < depth; i++) {  // from the inside out
      size_t size = ROOM - at;
      uint8_t head[8];
      size_t n = 0;
      head[n++] = 8 << 3 | 2;  // MetadataArray.array_values
      do {
        head[n++] = (uint8_t)(size & 0x7f) | (size > 0x7f ? 0x80 : 0);
        size >>= 7;
      } while (size);
      at -= n;
      memcpy(data + at, head, n);
    }
    struct wd_arena arena = {0};
    bool taken = wd_arena_unpack(&arena, &weightd__v1__metadata_array__descriptor, data + at, ROOM - at) != NULL;
    assert_int_equal(taken, depth < WD_ARENA_DEPTH);
    wd_arena_reset(&arena);
  }
  free(data);
}

// Two bytes can ask for a struct: what an unpacked message may take is capped.
static void amplification(void **state) {
  (void)state;
  size_t size = (size_t)4 << 20;
  uint8_t *data = malloc(size);
  assert_non_null(data);
  for (size_t i = 0; i < size; i += 2) {
    data[i] = 3 << 3 | 2;  // ModelDescription.tensors, empty
    data[i + 1] = 0;
  }
  struct wd_arena arena = {0};
  assert_null(wd_arena_unpack(&arena, &weightd__v1__model_description__descriptor, data, size));
  assert_true(arena.total <= WD_ARENA_LIMIT);
  wd_arena_reset(&arena);
  assert_non_null(wd_arena_unpack(&arena, &weightd__v1__model_description__descriptor, data, size / 8));
  wd_arena_reset(&arena);
  free(data);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(any_order_any_pieces),
      cmocka_unit_test(empty_and_repeated),
      cmocka_unit_test(truncated),
      cmocka_unit_test(hostile),
      cmocka_unit_test(random_bytes),
      cmocka_unit_test(nesting),
      cmocka_unit_test(amplification),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
