// SPDX-License-Identifier: Apache-2.0
// What DescribeModel says of a model's tensors, checked and kept compactly: about 150 bytes a tensor.
#ifndef WD_CLIENT_DESCRIPTION_H
#define WD_CLIENT_DESCRIPTION_H

#include <stdbool.h>
#include <stdint.h>

#include "client/connection.h"
#include "service/base/error.h"
#include "weightd/v1/weightd.pb-c.h"

#define WD_MAX_SHAPE 4             // axes of a tensor
#define WD_MAX_TENSORS (1u << 24)  // more than any server may describe

struct wd_tensor_info {
  char *name;
  char *companion;  // the tensor that scales this one, or NULL
  char type_name[16];
  uint32_t type;
  uint32_t n_shape;
  uint64_t shape[WD_MAX_SHAPE];  // slowest first
  uint64_t elements;             // the product of shape
  uint64_t stored_bytes;         // elements / block_elements * block_bytes
  uint32_t block_elements;
  uint32_t block_bytes;
  bool big_endian;
};

struct wd_description {
  char *model;  // as the server names it
  char *revision;
  uint64_t n_tensors;
  uint64_t room;
  struct wd_tensor_info *tensors;  // by index
  uint32_t *by_name;               // indices in byte order of the names
};

// Asks for a model's tensors. INTERNAL where the answer contradicts itself: the caller's arithmetic may rely on it.
enum wd_status wd_description_get(struct wd_connection *connection, const char *model,
                                  struct wd_description *description, struct wd_error *err);

// Asks for a model's revision only (malloc'd). Where `if_revision` is given and the server has another one,
// FAILED_PRECONDITION.
enum wd_status wd_description_revision(struct wd_connection *connection, const char *model, const char *if_revision,
                                       char **revision, struct wd_error *err);

// The two steps of wd_description_get: adds one described tensor, then checks the whole. For tests.
enum wd_status wd_description_add(struct wd_description *description, const Weightd__V1__Tensor *tensor,
                                  struct wd_error *err);
enum wd_status wd_description_finish(struct wd_description *description, struct wd_error *err);

void wd_description_free(struct wd_description *description);

// The index of the tensor of exactly this name, or UINT64_MAX.
uint64_t wd_description_find(const struct wd_description *description, const char *name);

#endif
