// SPDX-License-Identifier: Apache-2.0
// A buffered, bounded reader over a stretch of an untrusted file.
//
// It never reads past `end` (what cannot be there) nor past `limit` (what we do not want), holds one buffer however
// large the stretch is, and can hash what it passes over. Who owns the file says how bytes are fetched and how a
// refusal is worded, so that a header being parsed and a value being fetched later read by the same code.
#ifndef WD_GGUF_READER_H
#define WD_GGUF_READER_H

#include "service/base/error.h"
#include "service/gguf/model.h"

struct XXH3_state_s;

struct wd_reader_owner {
  void *context;
  // Fetches exactly size bytes at offset.
  enum wd_status (*read)(void *context, uint64_t offset, void *buffer, size_t size, struct wd_error *err);
  // What stands at byte `offset` is not acceptable, for this reason: WD_FAILED_PRECONDITION because of the file, or
  // WD_RESOURCE_EXHAUSTED because of a limit. Never returns WD_OK.
  enum wd_status (*refuse)(void *context, enum wd_status status, uint64_t offset, const char *reason,
                           struct wd_error *err);
};

struct wd_reader {
  struct wd_reader_owner owner;
  uint64_t offset;  // of the next byte
  uint64_t end;     // of the file, or of the value
  uint64_t limit;   // reading past it is RESOURCE_EXHAUSTED
  bool big_endian;
  struct XXH3_state_s *hash;  // gets all bytes passed over; NULL for none
  unsigned char *buffer;
  size_t capacity;
  size_t begin, filled;  // buffer[begin .. filled) holds the bytes at offset
  size_t unhashed;       // buffer[unhashed .. begin) was passed over and not hashed yet
};

// Starts at `offset`; capacity is at least 16. RESOURCE_EXHAUSTED out of memory.
enum wd_status wd_reader_init(struct wd_reader *reader, const struct wd_reader_owner *owner, uint64_t offset,
                              uint64_t end, size_t capacity, struct wd_error *err);
void wd_reader_free(struct wd_reader *reader);

static inline uint64_t wd_reader_left(const struct wd_reader *reader) {
  return reader->end - reader->offset;
}

// The owner's refusal of the file with a formatted reason.
enum wd_status wd_reader_refuse(const struct wd_reader *reader, uint64_t offset, struct wd_error *err,
                                const char *format, ...) __attribute__((format(printf, 4, 5)));

// Reads exactly size bytes at offset of a file, whatever interrupts; `failure` where it cannot be read or ends early,
// with a message that names the file and the byte.
enum wd_status wd_read_file(int fd, const char *file, enum wd_status failure, uint64_t offset, void *buffer,
                            size_t size, struct wd_error *err);

// Each reads, or refuses, what stands at the offset and moves past it. `what` names it in a refusal.
enum wd_status wd_reader_u32(struct wd_reader *reader, const char *what, uint32_t *value, struct wd_error *err);
enum wd_status wd_reader_u64(struct wd_reader *reader, const char *what, uint64_t *value, struct wd_error *err);
// size bytes in the file's order, to out, or past them where out is NULL.
enum wd_status wd_reader_bytes(struct wd_reader *reader, const char *what, void *out, uint64_t size,
                               struct wd_error *err);

// Puts the bytes passed over since into the hash.
void wd_reader_flush_hash(struct wd_reader *reader);

// Bytes of a scalar of this type; 0 for strings and arrays.
uint64_t wd_scalar_size(enum wd_value_type type);
const char *wd_value_type_name(enum wd_value_type type);

// Reads a value type, refusing what is none.
enum wd_status wd_reader_value_type(struct wd_reader *reader, const char *what, enum wd_value_type *type,
                                    struct wd_error *err);

// Reads an array's element type and count. The count is refused where so many elements cannot fit before the end.
enum wd_status wd_reader_array(struct wd_reader *reader, enum wd_value_type *type, uint64_t *count,
                               struct wd_error *err);

// Moves past a whole value, checking its structure; arrays nested deeper than WD_MAX_ARRAY_DEPTH are refused.
enum wd_status wd_reader_skip_value(struct wd_reader *reader, enum wd_value_type type, struct wd_error *err);

#endif
