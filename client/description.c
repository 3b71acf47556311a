// SPDX-License-Identifier: Apache-2.0
#include "client/description.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "client/call.h"
#include "service/base/checked.h"
#include "service/base/text.h"

static enum wd_status fail_tensor(const Weightd__V1__Tensor *tensor, const char *what, struct wd_error *err) {
  return wd_fail(err, WD_INTERNAL, "the server's description of tensor %" PRIu64 ", %s, contradicts itself: %s",
                 tensor->index, WD_QUOTE(tensor->name, strlen(tensor->name)), what);
}

enum wd_status wd_description_add(struct wd_description *d, const Weightd__V1__Tensor *tensor, struct wd_error *err) {
  if (d->n_tensors == WD_MAX_TENSORS) {
    return wd_fail(err, WD_INTERNAL, "the server describes more than %u tensors", WD_MAX_TENSORS);
  }
  if (tensor->index != d->n_tensors) {
    return wd_fail(err, WD_INTERNAL, "the server describes tensor %" PRIu64 " where tensor %" PRIu64 " comes",
                   tensor->index, d->n_tensors);
  }
  if (d->n_tensors == d->room) {
    uint64_t room = d->room ? 2 * d->room : 256;
    struct wd_tensor_info *tensors = realloc(d->tensors, room * sizeof *tensors);
    if (!tensors) {
      return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the description of %" PRIu64 " tensors", room);
    }
    d->tensors = tensors;
    d->room = room;
  }
  if (tensor->name[0] == '\0' || strlen(tensor->type_name) >= sizeof d->tensors->type_name) {
    return fail_tensor(tensor, "its name is empty or its type's name too long", err);
  }
  if (tensor->n_shape > WD_MAX_SHAPE) {
    return fail_tensor(tensor, "it has more than four axes", err);
  }
  struct wd_tensor_info info = {
      .type = tensor->type,
      .n_shape = (uint32_t)tensor->n_shape,
      .elements = 1,
      .block_elements = tensor->block_elements,
      .block_bytes = tensor->block_bytes,
      .big_endian = tensor->byte_order == WEIGHTD__V1__BYTE_ORDER__BIG_ENDIAN,
  };
  strcpy(info.type_name, tensor->type_name);
  for (uint32_t i = 0; i < info.n_shape; i++) {
    info.shape[i] = tensor->shape[i];
    if (!wd_mul_u64(info.elements, info.shape[i], &info.elements) || info.elements > INT64_MAX / 8) {
      return fail_tensor(tensor, "its shape has too many elements", err);
    }
  }
  if (info.elements != tensor->elements) {
    return fail_tensor(tensor, "elements is not the product of shape", err);
  }
  if (info.block_elements == 0 || info.block_bytes == 0 || info.elements % info.block_elements ||
      !wd_mul_u64(info.elements / info.block_elements, info.block_bytes, &info.stored_bytes) ||
      info.stored_bytes != tensor->stored_bytes || info.stored_bytes > INT64_MAX / 8) {
    return fail_tensor(tensor, "its blocks do not add up to stored_bytes", err);
  }
  uint64_t row = info.n_shape ? info.shape[info.n_shape - 1] : 1;
  if (row % info.block_elements) {
    return fail_tensor(tensor, "its rows are not whole blocks", err);
  }
  info.name = strdup(tensor->name);
  info.companion = tensor->companion_scale[0] ? strdup(tensor->companion_scale) : NULL;
  if (!info.name || (tensor->companion_scale[0] && !info.companion)) {
    free(info.name);
    free(info.companion);
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for the description of a tensor");
  }
  d->tensors[d->n_tensors++] = info;
  return WD_OK;
}

static int compare_names(const void *a, const void *b, void *context) {
  const struct wd_tensor_info *tensors = context;
  return strcmp(tensors[*(const uint32_t *)a].name, tensors[*(const uint32_t *)b].name);
}

enum wd_status wd_description_finish(struct wd_description *d, struct wd_error *err) {
  d->by_name = malloc((d->n_tensors ? d->n_tensors : 1) * sizeof *d->by_name);
  if (!d->by_name) {
    return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory to sort %" PRIu64 " tensors", d->n_tensors);
  }
  for (uint64_t i = 0; i < d->n_tensors; i++) {
    d->by_name[i] = (uint32_t)i;
  }
  qsort_r(d->by_name, d->n_tensors, sizeof *d->by_name, compare_names, d->tensors);
  for (uint64_t i = 1; i < d->n_tensors; i++) {
    const char *name = d->tensors[d->by_name[i]].name;
    if (strcmp(d->tensors[d->by_name[i - 1]].name, name) == 0) {
      return wd_fail(err, WD_INTERNAL, "the server describes two tensors named %s", WD_QUOTE(name, strlen(name)));
    }
  }
  return WD_OK;
}

uint64_t wd_description_find(const struct wd_description *d, const char *name) {
  uint64_t low = 0, high = d->n_tensors;
  while (low < high) {
    uint64_t middle = low + (high - low) / 2;
    int order = strcmp(d->tensors[d->by_name[middle]].name, name);
    if (order == 0) {
      return d->by_name[middle];
    }
    if (order < 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return UINT64_MAX;
}

// Takes one message of the stream; *count is the header's tensor_count once it was seen.
static enum wd_status take_message(struct wd_description *d, const Weightd__V1__ModelDescription *message,
                                   uint64_t *count, struct wd_error *err) {
  if (message->header && !d->model) {
    d->model = strdup(message->header->model);
    d->revision = strdup(message->header->revision);
    *count = message->header->tensor_count;
    if (!d->model || !d->revision) {
      return wd_fail(err, WD_RESOURCE_EXHAUSTED, "no memory for a description");
    }
  }
  for (size_t i = 0; i < message->n_tensors; i++) {
    enum wd_status status = wd_description_add(d, message->tensors[i], err);
    if (status) {
      return status;
    }
  }
  return WD_OK;
}

// Asks for a description and adds what comes to *d; the caller frees it whatever comes of it.
static enum wd_status ask(struct wd_connection *connection, const Weightd__V1__DescribeModelRequest *request,
                          struct wd_description *d, uint64_t *count, struct wd_error *err) {
  struct wd_call *call;
  struct wd_arena arena = {0};
  enum wd_status status =
      wd_call_start(connection, "/weightd.v1.WeightService/DescribeModel", &request->base, &call, err);
  if (status) {
    return status;
  }
  ProtobufCMessage *message;
  do {
    status = wd_call_next_message(call, &weightd__v1__model_description__descriptor, &arena, &message, err);
    if (!status && message) {
      status = take_message(d, (const Weightd__V1__ModelDescription *)message, count, err);
    }
    wd_arena_reset(&arena);
  } while (!status && message);
  wd_call_end(call);
  return status;
}

enum wd_status wd_description_get(struct wd_connection *connection, const char *model, struct wd_description *d,
                                  struct wd_error *err) {
  Weightd__V1__DescribeModelRequest request = WEIGHTD__V1__DESCRIBE_MODEL_REQUEST__INIT;
  uint64_t count = 0;
  *d = (struct wd_description){0};
  request.model = (char *)model;
  request.no_metadata = true;
  enum wd_status status = ask(connection, &request, d, &count, err);
  if (!status && (!d->model || !d->revision[0] || count != d->n_tensors)) {
    status = wd_fail(err, WD_INTERNAL,
                     "the server's description is incomplete: %" PRIu64 " tensors of %" PRIu64 ", %s header",
                     d->n_tensors, count, d->model ? "a" : "no");
  }
  status = status ? status : wd_description_finish(d, err);
  if (status) {
    wd_description_free(d);
  }
  return status;
}

enum wd_status wd_description_revision(struct wd_connection *connection, const char *model, const char *if_revision,
                                       char **revision, struct wd_error *err) {
  Weightd__V1__DescribeModelRequest request = WEIGHTD__V1__DESCRIBE_MODEL_REQUEST__INIT;
  struct wd_description d = {0};
  uint64_t count = 0;
  *revision = NULL;
  request.model = (char *)model;
  request.no_metadata = request.no_tensors = true;
  request.if_revision = (char *)(if_revision ? if_revision : "");
  enum wd_status status = ask(connection, &request, &d, &count, err);
  if (!status && !d.revision) {
    status = wd_fail(err, WD_INTERNAL, "the server's description has no header");
  }
  if (!status) {
    *revision = d.revision;
    d.revision = NULL;
  }
  wd_description_free(&d);
  return status;
}

void wd_description_free(struct wd_description *d) {
  for (uint64_t i = 0; i < d->n_tensors; i++) {
    free(d->tensors[i].name);
    free(d->tensors[i].companion);
  }
  free(d->tensors);
  free(d->by_name);
  free(d->model);
  free(d->revision);
  *d = (struct wd_description){0};
}
