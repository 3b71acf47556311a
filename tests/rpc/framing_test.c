// SPDX-License-Identifier: Apache-2.0
// Hand-made TensorChunk frames against protobuf-c, and the limits of unpacking.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "service/rpc/framing.h"
#include "service/rpc/message.h"
#include "service/rpc/status.h"

static void frames_are_protobuf(void **state) {
  (void)state;
  static const uint64_t numbers[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, UINT64_MAX};
  enum { N = sizeof numbers / sizeof *numbers };
  uint64_t shape[] = {3, UINT64_MAX};
  for (int i = 0; i < N * 4; i++) {
    Weightd__V1__Tensor tensor = WEIGHTD__V1__TENSOR__INIT;
    Weightd__V1__Summary summary = WEIGHTD__V1__SUMMARY__INIT;
    tensor.name = (char *)"blk.0.weight \xe2\x82\xac";
    tensor.index = numbers[i % N];
    tensor.shape = shape;
    tensor.n_shape = 2;
    summary.bytes = numbers[(i + 3) % N];
    summary.crc32c = 0xdeadbeef;
    uint8_t payload[300];
    memset(payload, i, sizeof payload);
    struct wd_frame frame = {
        .tensor_index = numbers[i % N],
        .offset = numbers[(i + 1) % N],
        .crc32c = 0x01020304u * (unsigned)i,
        .tensor = i & 1 ? &tensor : NULL,
        .summary = i & 2 ? &summary : NULL,
        .data_size = i % 3 ? sizeof payload - (size_t)i : 0,
    };
    size_t header = wd_frame_header_size(&frame);
    uint8_t *message = malloc(header + frame.data_size);
    assert_non_null(message);
    assert_int_equal(wd_frame_header(&frame, message), header);
    memcpy(message + header, payload, frame.data_size);
    Weightd__V1__TensorChunk *chunk = weightd__v1__tensor_chunk__unpack(NULL, header + frame.data_size, message);
    assert_non_null(chunk);
    assert_int_equal(chunk->tensor_index, frame.tensor_index);
    assert_int_equal(chunk->offset, frame.offset);
    assert_int_equal(chunk->crc32c, frame.crc32c);
    assert_int_equal(chunk->data.len, frame.data_size);
    assert_memory_equal(chunk->data.data, payload, frame.data_size);
    assert_int_equal(chunk->tensor != NULL, i & 1);
    assert_int_equal(chunk->summary != NULL, (i & 2) != 0);
    if (chunk->tensor) {
      assert_string_equal(chunk->tensor->name, tensor.name);
      assert_int_equal(chunk->tensor->n_shape, 2);
      assert_int_equal(chunk->tensor->shape[1], UINT64_MAX);
    }
    if (chunk->summary) {
      assert_int_equal(chunk->summary->bytes, summary.bytes);
      assert_int_equal(chunk->summary->crc32c, 0xdeadbeef);
    }
    weightd__v1__tensor_chunk__free_unpacked(chunk, NULL);
    free(message);
  }
}

static grpc_byte_buffer *buffer_of(const void *bytes, size_t size) {
  grpc_slice slice = grpc_slice_from_copied_buffer(bytes, size);
  grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
  grpc_slice_unref(slice);
  return buffer;
}

static void unpacking_is_bounded(void **state) {
  (void)state;
  // Empty selections: two bytes each on the wire, far more as structs.
  size_t size = 4 << 20;
  uint8_t *bytes = malloc(size);
  assert_non_null(bytes);
  for (size_t i = 0; i < size; i += 2) {
    bytes[i] = 6 << 3 | 2;
    bytes[i + 1] = 0;
  }
  ProtobufCMessage *message = NULL;
  struct wd_error err;
  grpc_byte_buffer *buffer = buffer_of(bytes, size);
  assert_int_equal(wd_message_unpack(&weightd__v1__stream_tensors_request__descriptor, buffer, &message, &err),
                   WD_RESOURCE_EXHAUSTED);
  grpc_byte_buffer_destroy(buffer);
  buffer = buffer_of(bytes, 100);
  assert_int_equal(wd_message_unpack(&weightd__v1__stream_tensors_request__descriptor, buffer, &message, &err), WD_OK);
  assert_int_equal(((Weightd__V1__StreamTensorsRequest *)(void *)message)->n_selections, 50);
  wd_message_free(message);
  grpc_byte_buffer_destroy(buffer);
  free(bytes);
}

static void garbage_is_refused(void **state) {
  (void)state;
  ProtobufCMessage *message = NULL;
  struct wd_error err;
  grpc_byte_buffer *buffer = buffer_of("\x0a\xff\xff\xff\xff\x0f", 6);
  assert_int_equal(wd_message_unpack(&weightd__v1__stream_tensors_request__descriptor, buffer, &message, &err),
                   WD_INVALID_ARGUMENT);
  assert_non_null(strstr(err.message, "StreamTensorsRequest"));
  grpc_byte_buffer_destroy(buffer);
  assert_int_equal(wd_message_unpack(&weightd__v1__stream_tensors_request__descriptor, NULL, &message, &err),
                   WD_INVALID_ARGUMENT);
}

static void a_nul_in_a_string_is_refused(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t size;
    const char *field;  // NULL: fine
  } cases[] = {
      {"\x0a\x03"
       "a\0b",
       5, "model:"},
      {"\x0a\x03"
       "abc",
       5, NULL},
      {"\x0a\x01"
       "a"
       "\x12\x01\0",
       6, "tensors:"},
      {"\x0a\x01"
       "a"
       "\x32\x05\x0a\x03"
       "a\0b",
       10, "pattern:"},
      {"\x0a\x01"
       "a"
       "\x7a\x01\0",
       6, NULL},  // a field we do not know
      {"\x0a\x01"
       "a"
       "\x2a\x02"
       "x\0",
       7, "if_revision:"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    ProtobufCMessage *message = NULL;
    struct wd_error err;
    grpc_byte_buffer *buffer = buffer_of(cases[i].bytes, cases[i].size);
    enum wd_status status = wd_message_unpack(&weightd__v1__stream_tensors_request__descriptor, buffer, &message, &err);
    if (cases[i].field) {
      assert_int_equal(status, WD_INVALID_ARGUMENT);
      assert_non_null(strstr(err.message, cases[i].field));
      assert_null(message);
    } else {
      assert_int_equal(status, WD_OK);
    }
    wd_message_free(message);
    grpc_byte_buffer_destroy(buffer);
  }
}

static void every_status_has_a_code(void **state) {
  (void)state;
  for (int status = WD_OK; status <= WD_INTERNAL; status++) {
    grpc_status_code code = wd_status_to_grpc((enum wd_status)status);
    assert_string_not_equal(wd_grpc_status_name(code), "UNKNOWN");
    assert_int_equal(wd_status_from_grpc(code), status);
  }
  assert_int_equal(wd_status_to_grpc(WD_DATA_LOSS), GRPC_STATUS_DATA_LOSS);
  assert_int_equal(wd_status_to_grpc((enum wd_status)99), GRPC_STATUS_UNKNOWN);
  assert_int_equal(wd_status_from_grpc(GRPC_STATUS_UNIMPLEMENTED), WD_INTERNAL);
  assert_int_equal(wd_status_from_grpc(GRPC_STATUS_OUT_OF_RANGE), WD_INVALID_ARGUMENT);
  assert_int_equal(wd_status_from_grpc((grpc_status_code)99), WD_INTERNAL);
  assert_string_equal(wd_grpc_status_name(GRPC_STATUS_NOT_FOUND), "NOT_FOUND");
  assert_string_equal(wd_grpc_status_name((grpc_status_code)99), "UNKNOWN");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(frames_are_protobuf),     cmocka_unit_test(unpacking_is_bounded),
      cmocka_unit_test(garbage_is_refused),      cmocka_unit_test(a_nul_in_a_string_is_refused),
      cmocka_unit_test(every_status_has_a_code),
  };
  grpc_init();
  int result = cmocka_run_group_tests(tests, NULL, NULL);
  grpc_shutdown_blocking();
  return result;
}
