// SPDX-License-Identifier: Apache-2.0
#include "service/gguf/header.h"

#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "service/base/checked.h"
#include "service/base/text.h"
#include "service/gguf/reader.h"

// Enough that few reads are needed, little enough that many parts may be parsed at once.
#define BUFFER_SIZE ((size_t)256 << 10)

// The fewest bytes of a key (length, one character, type, one byte) and of a tensor (length, one character, no
// dimensions, type, offset): counts that cannot fit are refused before anything is read.
#define LEAST_KEY_BYTES 14
#define LEAST_TENSOR_BYTES 25

struct parser {
  struct wd_reader reader;
  struct wd_contents *contents;
  const struct wd_header_file *file;
  struct wd_header header;
  uint64_t n_keys, n_tensors;
  // What is being parsed, for messages: its name once that is known, its number before.
  enum { IN_PREAMBLE, IN_KEY, IN_TENSOR } where;
  uint64_t number;
  const char *name;
  size_t name_size;
  char text[WD_MAX_KEY + 1];  // the name, while it is parsed
};

static enum wd_status read_part(void *context, uint64_t offset, void *buffer, size_t size, struct wd_error *err) {
  const struct parser *p = context;
  return wd_read_file(p->file->fd, p->file->name, WD_FAILED_PRECONDITION, offset, buffer, size, err);
}

static enum wd_status refuse(void *context, enum wd_status status, uint64_t offset, const char *reason,
                             struct wd_error *err) {
  const struct parser *p = context;
  char where[WD_QUOTED + 64] = "";
  const char *kind = p->where == IN_KEY ? "key" : "tensor";
  if (p->where != IN_PREAMBLE && p->name) {
    snprintf(where, sizeof where, "%s %s: ", kind, WD_QUOTE(p->name, p->name_size));
  } else if (p->where != IN_PREAMBLE) {
    snprintf(where, sizeof where, "%s %" PRIu64 " of %" PRIu64 ": ", kind, p->number + 1,
             p->where == IN_KEY ? p->n_keys : p->n_tensors);
  }
  wd_fail(err, status, "%s, byte %" PRIu64 ": %s%s", WD_QUOTE(p->file->name, strlen(p->file->name)), offset, where,
          reason);
  if (err && status == WD_RESOURCE_EXHAUSTED) {
    err->limit = WD_LIMIT_MODEL;
  }
  return status;
}

static enum wd_status out_of_memory(struct wd_error *err) {
  return wd_fail(err, WD_RESOURCE_EXHAUSTED, "out of memory parsing a model's header");
}

static enum wd_status over_limit(struct parser *p, uint64_t offset, const char *limit, uint64_t value,
                                 struct wd_error *err) {
  char reason[120];
  snprintf(reason, sizeof reason, "the model goes over the limit %s of %" PRIu64, limit, value);
  return refuse(p, WD_RESOURCE_EXHAUSTED, offset, reason, err);
}

static enum wd_status over_memory(struct parser *p, struct wd_error *err) {
  enum wd_status status = over_limit(p, p->reader.offset, "on memory", p->contents->max_bytes, err);
  if (err) {
    err->limit = WD_LIMIT_METADATA_BUDGET;
  }
  return status;
}

// Magic, version and byte order.
static enum wd_status parse_version(struct parser *p, struct wd_error *err) {
  struct wd_reader *r = &p->reader;
  unsigned char magic[4];
  enum wd_status status = wd_reader_bytes(r, "the magic", magic, sizeof magic, err);
  if (status != WD_OK) {
    return status;
  }
  if (memcmp(magic, "GGUF", 4) != 0) {
    return wd_reader_refuse(r, 0, err, "not a GGUF file: it begins with %s, not 'GGUF'",
                            WD_QUOTE((const char *)magic, sizeof magic));
  }
  uint32_t version;
  status = wd_reader_u32(r, "the version", &version, err);
  if (status != WD_OK) {
    return status;
  }
  if ((version & 0xFFFF) == 0) {
    version = __builtin_bswap32(version);
    r->big_endian = true;
  }
  if (version == 1) {
    return wd_reader_refuse(
        r, 4, err,
        "GGUF version 1 is not supported: convert the model again, or rewrite the file in version 3 "
        "with a program that reads version 1");
  }
  if (version != 2 && version != 3) {
    return wd_reader_refuse(r, 4, err, "GGUF version %" PRIu32 " is not known: versions 2 and 3 are read", version);
  }
  p->header.version = version;
  p->header.big_endian = r->big_endian;
  return WD_OK;
}

// The counts, held against what is left of the file and against the limits.
static enum wd_status parse_counts(struct parser *p, struct wd_error *err) {
  struct wd_reader *r = &p->reader;
  const struct wd_contents *c = p->contents;
  enum wd_status status = wd_reader_u64(r, "the number of tensors", &p->n_tensors, err);
  if (status == WD_OK) {
    status = wd_reader_u64(r, "the number of keys", &p->n_keys, err);
  }
  if (status != WD_OK) {
    return status;
  }
  uint64_t left = wd_reader_left(r), tensors = left / LEAST_TENSOR_BYTES, keys = left / LEAST_KEY_BYTES;
  const char *hint = "";
  if (r->big_endian && __builtin_bswap64(p->n_tensors) <= tensors && __builtin_bswap64(p->n_keys) <= keys) {
    hint = " (the version says that the file is big-endian, but its counts look little-endian)";
  }
  if (p->n_tensors > tensors) {
    return wd_reader_refuse(r, 8, err, "%" PRIu64 " tensors cannot stand in the %" PRIu64 " bytes left in the file%s",
                            p->n_tensors, left, hint);
  }
  if (p->n_keys > (left - p->n_tensors * LEAST_TENSOR_BYTES) / LEAST_KEY_BYTES) {
    return wd_reader_refuse(
        r, 16, err, "%" PRIu64 " keys and %" PRIu64 " tensors cannot stand in the %" PRIu64 " bytes left in the file%s",
        p->n_keys, p->n_tensors, left, hint);
  }
  if (p->n_tensors > c->limits.max_tensors || c->n_tensors > c->limits.max_tensors - p->n_tensors) {
    return over_limit(p, 8, "max_tensors", c->limits.max_tensors, err);
  }
  if (p->n_keys > c->limits.max_metadata || c->n_metadata > c->limits.max_metadata - p->n_keys) {
    return over_limit(p, 16, "max_metadata", c->limits.max_metadata, err);
  }
  return WD_OK;
}

// A key or a tensor's name of at most `most` bytes.
static enum wd_status parse_name(struct parser *p, uint64_t most, struct wd_error *err) {
  struct wd_reader *r = &p->reader;
  char *text = p->text;
  const char *what = p->where == IN_KEY ? "the key" : "the name";
  uint64_t at = r->offset, size;
  enum wd_status status = wd_reader_u64(r, p->where == IN_KEY ? "the key's length" : "the name's length", &size, err);
  if (status != WD_OK) {
    return status;
  }
  if (size > wd_reader_left(r)) {
    return wd_reader_refuse(r, at, err, "%s of %" PRIu64 " bytes goes past the end, which is at byte %" PRIu64, what,
                            size, r->end);
  }
  if (size == 0) {
    return wd_reader_refuse(r, at, err, "%s is empty", what);
  }
  if (size > most) {
    return wd_reader_refuse(r, at, err, "%s has %" PRIu64 " bytes, but %" PRIu64 " is the most", what, size, most);
  }
  status = wd_reader_bytes(r, what, text, size, err);
  if (status != WD_OK) {
    return status;
  }
  text[size] = '\0';
  p->name = text;
  p->name_size = (size_t)size;
  const char *nul = memchr(text, '\0', (size_t)size);
  if (nul) {
    return wd_reader_refuse(r, at + 8 + (uint64_t)(nul - text), err, "%s has a NUL in it", what);
  }
  for (size_t i = 0, n; i < size; i += n) {
    n = wd_utf8_char(text + i, (size_t)size - i);
    if (n == 0) {
      return wd_reader_refuse(r, at + 8 + i, err, "%s is not valid UTF-8", what);
    }
  }
  return WD_OK;
}

// The value of a scalar key that the reader itself needs.
static enum wd_status parse_known(struct parser *p, enum wd_value_type type, enum wd_value_type expected,
                                  int64_t *value, struct wd_error *err) {
  struct wd_reader *r = &p->reader;
  if (type != expected) {
    return wd_reader_refuse(r, r->offset - 4, err, "its type is %s, but must be %s", wd_value_type_name(type),
                            wd_value_type_name(expected));
  }
  if (expected == WD_VALUE_UINT16) {
    uint16_t v;
    enum wd_status status = wd_reader_bytes(r, "the value", &v, sizeof v, err);
    *value = status != WD_OK ? 0 : r->big_endian ? be16toh(v) : le16toh(v);
    return status;
  }
  uint32_t v = 0;
  enum wd_status status = wd_reader_u32(r, "the value", &v, err);
  *value = expected == WD_VALUE_INT32 ? (int64_t)(int32_t)v : (int64_t)v;
  return status;
}

// The value of metadata->key, from its first byte on.
static enum wd_status parse_value(struct parser *p, struct wd_metadata *metadata, struct wd_error *err) {
  struct wd_reader *r = &p->reader;
  struct wd_header *h = &p->header;
  const struct {
    const char *key;
    enum wd_value_type type;
    struct wd_split_key *split;
  } known[] = {{"general.alignment", WD_VALUE_UINT32, NULL},
               {"split.no", WD_VALUE_UINT16, &h->split_no},
               {"split.count", WD_VALUE_UINT16, &h->split_count},
               {"split.tensors.count", WD_VALUE_INT32, &h->split_tensors}};
  metadata->offset = r->offset;
  size_t k = 0, n_known = sizeof known / sizeof *known;
  while (k < n_known && strcmp(metadata->key, known[k].key) != 0) {
    k++;
  }
  enum wd_status status;
  if (k == n_known) {
    status = wd_reader_skip_value(r, metadata->type, err);
  } else {
    int64_t value = 0;
    status = parse_known(p, metadata->type, known[k].type, &value, err);
    if (status == WD_OK && known[k].split) {
      *known[k].split = (struct wd_split_key){true, value, metadata->offset};
    } else if (status == WD_OK) {
      h->alignment = (uint64_t)value;
      if (value == 0 || (value & (value - 1))) {
        return wd_reader_refuse(r, metadata->offset, err, "%" PRIi64 " is not a power of two", value);
      }
    }
  }
  metadata->bytes = r->offset - metadata->offset;
  return status;
}

static enum wd_status parse_key(struct parser *p, struct wd_error *err) {
  struct wd_reader *r = &p->reader;
  struct wd_contents *c = p->contents;
  uint64_t at = r->offset;
  const char *text = p->text;
  enum wd_status status = parse_name(p, WD_MAX_KEY, err);
  if (status != WD_OK) {
    return status;
  }
  struct wd_metadata metadata = {.key = text, .key_size = (uint32_t)p->name_size, .part = p->file->part};
  uint32_t known = wd_contents_find_key(c, text, p->name_size);
  if (known != UINT32_MAX && c->metadata_seen[known] == p->file->part + 1) {
    return wd_reader_refuse(r, at, err, "the file has this key twice");
  }
  status = wd_reader_value_type(r, "the value's type", &metadata.type, err);
  if (status == WD_OK) {
    status = parse_value(p, &metadata, err);
  }
  if (status != WD_OK) {
    return status;
  }
  if (known != UINT32_MAX) {  // an earlier part's: its value stands
    c->metadata_seen[known] = p->file->part + 1;
    return WD_OK;
  }
  return wd_contents_add_key(c, &metadata) ? WD_OK : out_of_memory(err);
}

// Type, dimensions and sizes.
static enum wd_status parse_shape(struct parser *p, struct wd_tensor *t, struct wd_error *err) {
  struct wd_reader *r = &p->reader;
  uint64_t at = r->offset, product = 1;
  enum wd_status status = wd_reader_u32(r, "the number of dimensions", &t->n_dims, err);
  if (status != WD_OK) {
    return status;
  }
  if (t->n_dims > WD_MAX_DIMS) {
    return wd_reader_refuse(r, at, err, "it has %" PRIu32 " dimensions, but %d is the most", t->n_dims, WD_MAX_DIMS);
  }
  uint64_t dims_at = r->offset;
  for (uint32_t i = 0; i < WD_MAX_DIMS; i++) {
    t->dims[i] = 1;
    at = r->offset;
    status = i < t->n_dims ? wd_reader_u64(r, "a dimension", &t->dims[i], err) : WD_OK;
    if (status != WD_OK) {
      return status;
    }
    if (t->dims[i] > INT64_MAX) {
      return wd_reader_refuse(r, at, err, "dimension %" PRIu32 " is %" PRIu64 ", but 2^63 - 1 is the most", i + 1,
                              t->dims[i]);
    }
  }
  t->elements = 1;
  for (uint32_t i = 0; i < WD_MAX_DIMS; i++) {
    // A dimension of 0 makes a tensor without elements, but the others must not be absurd for that: products of some of
    // them (rows, matrices) stay within bounds everywhere.
    if (!wd_mul_u64(product, t->dims[i] ? t->dims[i] : 1, &product) || product > INT64_MAX) {
      return wd_reader_refuse(r, dims_at, err,
                              "the number of its elements goes beyond 2^63 - 1: dimensions %" PRIu64 " x %" PRIu64
                              " x %" PRIu64 " x %" PRIu64,
                              t->dims[0], t->dims[1], t->dims[2], t->dims[3]);
    }
    t->elements *= t->dims[i];
  }
  at = r->offset;
  uint32_t id;
  status = wd_reader_u32(r, "the type", &id, err);
  if (status != WD_OK) {
    return status;
  }
  t->type = wd_type_by_id(id);
  if (!t->type) {
    const char *removed = wd_type_removed(id);
    if (removed) {
      return wd_reader_refuse(r, at, err,
                              "tensor type %" PRIu32 " (%s) was removed from the format: quantize the model again", id,
                              removed);
    }
    return wd_reader_refuse(r, at, err, "tensor type %" PRIu32 " is not known", id);
  }
  if (t->dims[0] % t->type->block_elements != 0) {
    return wd_reader_refuse(r, dims_at, err,
                            "a row of %" PRIu64 " elements is not whole blocks of type %s, of %" PRIu32, t->dims[0],
                            t->type->name, t->type->block_elements);
  }
  if (!wd_mul_u64(t->elements / t->type->block_elements, t->type->block_bytes, &t->bytes)) {
    return wd_reader_refuse(r, dims_at, err,
                            "the size of its data goes beyond 64 bits: %" PRIu64 " elements of type %s", t->elements,
                            t->type->name);
  }
  return WD_OK;
}

static enum wd_status parse_tensor(struct parser *p, struct wd_error *err) {
  struct wd_reader *r = &p->reader;
  struct wd_contents *c = p->contents;
  uint64_t at = r->offset;
  const char *text = p->text;
  struct wd_tensor tensor = {.part = p->file->part, .companion = UINT64_MAX};
  enum wd_status status = parse_name(p, WD_MAX_NAME, err);
  if (status != WD_OK) {
    return status;
  }
  uint32_t known = wd_contents_find_tensor(c, text, p->name_size);
  if (known != UINT32_MAX) {
    return wd_reader_refuse(r, at, err, "another tensor of this model, in part %" PRIu32 ", has the same name",
                            c->tensors[known].part + 1);
  }
  status = parse_shape(p, &tensor, err);
  if (status != WD_OK) {
    return status;
  }
  at = r->offset;
  status = wd_reader_u64(r, "the offset", &tensor.offset, err);
  if (status != WD_OK) {
    return status;
  }
  if (tensor.offset & (p->header.alignment - 1)) {
    return wd_reader_refuse(r, at, err, "its offset %" PRIu64 " is not a multiple of the alignment, %" PRIu64,
                            tensor.offset, p->header.alignment);
  }
  tensor.name = text;
  tensor.name_size = (uint32_t)p->name_size;
  return wd_contents_add_tensor(c, &tensor) ? WD_OK : out_of_memory(err);
}

// Turns the tensors' offsets into places in the file, all of which must be there. directory is where they began.
static enum wd_status place_tensors(struct parser *p, uint64_t directory, struct wd_error *err) {
  struct wd_reader *r = &p->reader;
  uint64_t data;
  if (!wd_align_u64(r->offset, p->header.alignment, &data)) {
    return wd_reader_refuse(r, r->offset, err, "an alignment of %" PRIu64 " puts the data beyond 64 bits",
                            p->header.alignment);
  }
  if (data > r->end) {
    if (p->n_tensors > 0) {
      return wd_reader_refuse(r, r->offset, err,
                              "with an alignment of %" PRIu64 " the data would begin at byte %" PRIu64
                              ", past the end, which is at byte %" PRIu64,
                              p->header.alignment, data, r->end);
    }
    data = r->end;  // a file without tensors needs no padding
  }
  p->header.data_offset = data;
  uint64_t at = directory;
  p->where = IN_TENSOR;
  for (struct wd_tensor *t = p->contents->tensors + (p->contents->n_tensors - p->n_tensors), *end = t + p->n_tensors;
       t < end; t++) {
    at += 8 + (uint64_t)t->name_size + 4 + 8 * (uint64_t)t->n_dims + 4;  // where its offset stands
    if (!wd_in_range(t->offset, t->bytes, r->end - data)) {
      p->name = t->name;
      p->name_size = t->name_size;
      return wd_reader_refuse(r, at, err,
                              "its data of %" PRIu64 " bytes at offset %" PRIu64
                              " of the data, which begins at byte %" PRIu64
                              ", goes past the end, which is at byte %" PRIu64,
                              t->bytes, t->offset, data, r->end);
    }
    t->offset += data;
    at += 8;
  }
  return WD_OK;
}

enum wd_status wd_header_parse(struct wd_contents *contents, const struct wd_header_file *file,
                               struct wd_header *header, struct wd_error *err) {
  struct parser p = {.contents = contents, .file = file, .header = {.alignment = 32}};
  const struct wd_reader_owner owner = {&p, read_part, refuse};
  enum wd_status status = wd_reader_init(&p.reader, &owner, 0, file->bytes, BUFFER_SIZE, err);
  if (status != WD_OK) {
    *header = p.header;
    return status;
  }
  p.reader.hash = contents->hash;
  p.reader.limit = contents->limits.max_header_bytes - contents->header_bytes;
  status = parse_version(&p, err);
  if (status == WD_OK) {
    status = parse_counts(&p, err);
  }
  p.where = IN_KEY;
  for (p.number = 0; status == WD_OK && p.number < p.n_keys; p.number++) {
    p.name = NULL;
    status = wd_contents_bytes(contents) > contents->max_bytes ? over_memory(&p, err) : parse_key(&p, err);
  }
  p.where = IN_TENSOR;
  uint64_t directory = p.reader.offset;
  for (p.number = 0; status == WD_OK && p.number < p.n_tensors; p.number++) {
    p.name = NULL;
    status = wd_contents_bytes(contents) > contents->max_bytes ? over_memory(&p, err) : parse_tensor(&p, err);
  }
  p.where = IN_PREAMBLE;
  if (status == WD_OK) {
    status = place_tensors(&p, directory, err);
  }
  if (status == WD_OK) {
    wd_reader_flush_hash(&p.reader);
    contents->header_bytes += p.reader.offset;
  }
  *header = p.header;
  wd_reader_free(&p.reader);
  return status;
}
