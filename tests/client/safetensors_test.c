// SPDX-License-Identifier: Apache-2.0
// Headers: what is written is read again; what is wrong is refused; layouts of plans.
#include "client/safetensors.h"

#include <sys/mman.h>

#include "client/layout.h"
#include "tests/client/test.h"

// A file of a header text (with its length before it, or `length` where that is not UINT64_MAX) and n bytes of data.
static int make_file(const char *text, uint64_t length, size_t n) {
  int fd = memfd_create("safetensors", 0);
  uint64_t size = length == UINT64_MAX ? strlen(text) : length;
  assert_true(fd >= 0);
  assert_int_equal(write(fd, &size, 8), 8);  // the tests run on little-endian machines, like the program
  assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
  assert_int_equal(ftruncate(fd, (off_t)(8 + strlen(text) + n)), 0);
  return fd;
}

static enum wd_status try_file(const char *text, uint64_t length, size_t n, struct wd_error *err) {
  struct wd_safetensors file;
  int fd = make_file(text, length, n);
  enum wd_status status = wd_safetensors_read(fd, &file, err);
  if (!status) {
    wd_safetensors_free(&file);
  }
  close(fd);
  return status;
}

static void round_trip(void **state) {
  (void)state;
  static const struct wd_file_tensor tensors[] = {
      {.name = "second", .dtype = "F16", .n_shape = 2, .shape = {3, 4}, .begin = 16, .end = 40},
      {.name = "first \"quoted\" \n ü", .dtype = "F32", .n_shape = 0, .begin = 0, .end = 4},
      {.name = "empty", .dtype = "F64", .n_shape = 3, .shape = {0, 5, 6}, .begin = 16, .end = 16},
      {.name = "bytes", .dtype = "U8", .n_shape = 1, .shape = {12}, .begin = 4, .end = 16},
  };
  json_t *metadata = json_pack("{s:s, s:s}", "format", "pt", "weightd.model", "x \"y\".gguf");
  char *header;
  size_t size;
  assert_int_equal(wd_safetensors_header(tensors, 4, metadata, &header, &size, NULL), WD_OK);
  json_decref(metadata);
  assert_int_equal(size % 8, 0);
  uint64_t length;
  memcpy(&length, header, 8);
  assert_int_equal(length, size - 8);
  int fd = memfd_create("safetensors", 0);
  assert_int_equal(write(fd, header, size), (ssize_t)size);
  assert_int_equal(ftruncate(fd, (off_t)size + 40), 0);
  free(header);
  struct wd_safetensors file;
  assert_int_equal(wd_safetensors_read(fd, &file, NULL), WD_OK);
  close(fd);
  assert_int_equal(file.n, 4);
  assert_int_equal(file.data, size);
  assert_string_equal(file.tensors[0].name, "first \"quoted\" \n ü");
  assert_string_equal(file.tensors[1].dtype, "U8");
  assert_true(file.tensors[3].n_shape == 2 && file.tensors[3].shape[1] == 4 && file.tensors[3].begin == 16);
  assert_string_equal(wd_safetensors_metadata(&file, "weightd.model"), "x \"y\".gguf");
  assert_null(wd_safetensors_metadata(&file, "other"));
  wd_safetensors_free(&file);
}

#define T(dtype, shape, begin, end) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static void good_headers(void **state) {
  (void)state;
  assert_int_equal(try_file("{}", UINT64_MAX, 0, NULL), WD_OK);
  assert_int_equal(try_file("{\"__metadata__\":{}}   ", UINT64_MAX, 0, NULL), WD_OK);
  assert_int_equal(try_file("{\"a\":" T("F32", "[2]", "0", "8") "}", UINT64_MAX, 8, NULL), WD_OK);
  assert_int_equal(
      try_file("{\"b\":" T("BF16", "[2,2]", "4", "12") ",\"a\":" T("F32", "[]", "0", "4") "}", UINT64_MAX, 12, NULL),
      WD_OK);
  assert_int_equal(try_file("{\"a\":" T("F4", "[4]", "0", "2") "}", UINT64_MAX, 2, NULL), WD_OK);
}

static void hostile_headers(void **state) {
  (void)state;
  static const struct {
    const char *text;
    uint64_t length;
    size_t data;
    const char *says;
  } cases[] = {
      {"", UINT64_MAX, 0, "JSON"},
      {"[]", UINT64_MAX, 0, "object"},
      {"{}", 3, 0, "header"},
      {"{}", UINT64_MAX - 7, 0, "header"},
      {"{}", (uint64_t)1 << 63, 0, "header"},
      {"{}", 100000001, 0, "header"},
      {"{}", 1, 1, "JSON"},
      {"{}", UINT64_MAX, 1, "bytes"},
      {"{\"a\":", UINT64_MAX, 0, "JSON"},
      {"{\"\xff\":{}}", UINT64_MAX, 0, "JSON"},
      {"{\"a\\u0000b\":{}}", UINT64_MAX, 0, "JSON"},
      {"{\"a\":{}}", UINT64_MAX, 0, "dtype"},
      {"{\"a\":7}", UINT64_MAX, 0, "dtype"},
      {"{\"a\":null}", UINT64_MAX, 0, "dtype"},
      {"{\"a\":" T("Q4_K", "[2]", "0", "8") "}", UINT64_MAX, 8, "dtype"},
      {"{\"a\":{\"dtype\":7,\"shape\":[],\"data_offsets\":[0,0]}}", UINT64_MAX, 0, "dtype"},
      {"{\"a\":" T("F32", "[-2]", "0", "8") "}", UINT64_MAX, 8, "shape"},
      {"{\"a\":" T("F32", "[2.0]", "0", "8") "}", UINT64_MAX, 8, "shape"},
      {"{\"a\":" T("F32", "2", "0", "8") "}", UINT64_MAX, 8, "shape"},
      {"{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,2]", "0", "8") "}", UINT64_MAX, 8, "shape"},
      {"{\"a\":" T("F32", "[4611686018427387904,4]", "0", "0") "}", UINT64_MAX, 0, "too many"},
      {"{\"a\":" T("F32", "[9223372036854775808]", "0", "0") "}", UINT64_MAX, 0, "JSON"},
      {"{\"a\":" T("F32", "[2]", "0", "7") "}", UINT64_MAX, 7, "as many bytes"},
      {"{\"a\":" T("F32", "[2]", "8", "0") "}", UINT64_MAX, 8, "data_offsets"},
      {"{\"a\":" T("F32", "[2]", "-8", "0") "}", UINT64_MAX, 8, "data_offsets"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", UINT64_MAX, 8, "data_offsets"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4,8]}}", UINT64_MAX, 8, "data_offsets"},
      {"{\"a\":" T("F32", "[2]", "0", "8") "}", UINT64_MAX, 7, "bytes"},
      {"{\"a\":" T("F32", "[2]", "4", "12") "}", UINT64_MAX, 12, "gap"},
      {"{\"a\":" T("F32", "[2]", "0", "8") ",\"b\":" T("F32", "[2]", "4", "12") "}", UINT64_MAX, 12, "overlap"},
      {"{\"a\":" T("F32", "[2]", "0", "8") ",\"a\":" T("F32", "[2]", "8", "16") "}", UINT64_MAX, 16, "JSON"},
      {"{\"a\":" T("F4", "[1]", "0", "0") "}", UINT64_MAX, 0, "as many bytes"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct wd_error err;
    enum wd_status status = try_file(cases[i].text, cases[i].length, cases[i].data, &err);
    if (status != WD_FAILED_PRECONDITION || !strstr(err.message, cases[i].says)) {
      print_error("case %zu: %s: status %d, %s\n", i, cases[i].text, status, status ? err.message : "");
    }
    assert_int_equal(status, WD_FAILED_PRECONDITION);
    assert_non_null(strstr(err.message, cases[i].says));
  }
  struct wd_safetensors file;
  int fd = memfd_create("short", 0);
  assert_int_equal(write(fd, "1234567", 7), 7);
  assert_int_equal(wd_safetensors_read(fd, &file, NULL), WD_FAILED_PRECONDITION);
  close(fd);
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  assert_int_equal(wd_safetensors_read(ends[0], &file, NULL), WD_FAILED_PRECONDITION);
  close(ends[0]);
  close(ends[1]);
}

// A header of nothing but values asks for far more memory than it has bytes: it is refused, not obeyed.
static void expensive_header(void **state) {
  (void)state;
  wd_json_limit_memory(32u << 20);
  size_t size = 2u << 20;
  char *text = malloc(size + 1);
  assert_non_null(text);
  strcpy(text, "{\"a\":[");
  for (size_t at = 6; at + 3 < size; at += 3) {
    memcpy(text + at, "{},", 3);
  }
  text[size - 4] = '\0';
  size = strlen(text);
  int fd = memfd_create("expensive", 0);
  struct wd_safetensors file;
  uint64_t length = size;
  assert_int_equal(write(fd, &length, 8), 8);
  assert_int_equal(write(fd, text, size), (ssize_t)size);
  free(text);
  assert_int_not_equal(wd_safetensors_read(fd, &file, NULL), WD_OK);
  close(fd);
}

static void reserved_and_too_long(void **state) {
  (void)state;
  struct wd_file_tensor tensor = {.name = "__metadata__", .dtype = "F16"};
  struct wd_error err;
  json_t *metadata = json_object();
  char *header;
  size_t size;
  assert_int_equal(wd_safetensors_header(&tensor, 1, metadata, &header, &size, &err), WD_FAILED_PRECONDITION);
  char *name = malloc(WD_SAFETENSORS_MAX_HEADER + 1);
  assert_non_null(name);
  memset(name, 'n', WD_SAFETENSORS_MAX_HEADER);
  name[WD_SAFETENSORS_MAX_HEADER] = '\0';
  tensor.name = name;
  assert_int_equal(wd_safetensors_header(&tensor, 1, metadata, &header, &size, &err), WD_RESOURCE_EXHAUSTED);
  assert_non_null(strstr(err.message, "--tensor"));
  free(name);
  json_decref(metadata);
}

static void layouts(void **state) {
  (void)state;
  struct wd_tensor_info infos[] = {
      {.name = (char *)"q",
       .type_name = "Q4_K",
       .n_shape = 2,
       .shape = {2, 256},
       .block_elements = 256,
       .block_bytes = 144},
      {.name = (char *)"f", .type_name = "F64", .n_shape = 1, .shape = {3}, .block_elements = 1, .block_bytes = 8},
      {.name = (char *)"b",
       .type_name = "I16",
       .n_shape = 1,
       .shape = {4},
       .block_elements = 1,
       .block_bytes = 2,
       .big_endian = true},
      {.name = (char *)"i",
       .type_name = "I8",
       .n_shape = 1,
       .shape = {5},
       .block_elements = 1,
       .block_bytes = 1,
       .big_endian = true},
      {.name = (char *)"h", .type_name = "F16", .n_shape = 1, .shape = {6}, .block_elements = 1, .block_bytes = 2},
  };
  struct wd_item items[5];
  struct wd_description d = {.model = (char *)"m.gguf", .revision = (char *)"r", .n_tensors = 5, .tensors = infos};
  const struct wd_cut whole = {0};
  for (uint64_t i = 0; i < 5; i++) {
    infos[i].elements = infos[i].shape[0] * (infos[i].n_shape == 2 ? infos[i].shape[1] : 1);
    assert_int_equal(wd_item_init(&d, i, WEIGHTD__V1__OUTPUT_TYPE__STORED, &whole, false, &items[i], NULL), WD_OK);
  }
  struct wd_plan plan = {.items = items, .n_items = 5};
  struct wd_wish wish = {.output = WEIGHTD__V1__OUTPUT_TYPE__STORED, .rows = NULL};
  struct wd_layout layout;
  assert_int_equal(wd_layout_create(&d, &plan, &wish, &layout, NULL), WD_OK);
  // The widest first, then the order of the file: f (8 bytes an element), h, q, b, i.
  uint64_t data = layout.header_bytes;
  assert_int_equal(layout.offsets[1], data);
  assert_int_equal(layout.offsets[4], data + 24);
  assert_int_equal(layout.offsets[0], data + 36);
  assert_int_equal(layout.offsets[2], data + 36 + 288);
  assert_int_equal(layout.offsets[3], data + 36 + 288 + 8);
  assert_int_equal(layout.file_bytes, data + 36 + 288 + 8 + 5);
  int fd = memfd_create("layout", 0);
  struct wd_safetensors file;
  assert_int_equal(write(fd, layout.header, layout.header_bytes), (ssize_t)layout.header_bytes);
  assert_int_equal(ftruncate(fd, (off_t)layout.file_bytes), 0);
  assert_int_equal(wd_safetensors_read(fd, &file, NULL), WD_OK);
  close(fd);
  static const char *const dtypes[] = {"F64", "F16", "U8", "U8", "I8"};
  for (size_t i = 0; i < 5; i++) {
    assert_string_equal(file.tensors[i].dtype, dtypes[i]);
  }
  json_t *stored = json_loads(wd_safetensors_metadata(&file, "weightd.stored"), 0, NULL);
  const json_t *q = json_object_get(stored, "q"), *b = json_object_get(stored, "b");
  assert_string_equal(json_string_value(json_object_get(q, "type")), "Q4_K");
  assert_int_equal(json_integer_value(json_array_get(json_object_get(q, "shape"), 1)), 256);
  assert_string_equal(json_string_value(json_object_get(b, "byte_order")), "big");
  json_decref(stored);
  wd_safetensors_free(&file);
  json_t *one = wd_layout_binding(&d, &wish, &layout);
  d.revision = (char *)"s";
  json_t *other = wd_layout_binding(&d, &wish, &layout);
  assert_false(json_equal(one, other));
  json_decref(one);
  json_decref(other);
  wd_layout_free(&layout);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(round_trip),      cmocka_unit_test(good_headers),
      cmocka_unit_test(hostile_headers), cmocka_unit_test(reserved_and_too_long),
      cmocka_unit_test(layouts),         cmocka_unit_test(expensive_header),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
