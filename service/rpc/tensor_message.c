// SPDX-License-Identifier: Apache-2.0
#include "service/rpc/tensor_message.h"

void wd_tensor_message_fill(struct wd_tensor_message *message, const struct wd_model *model,
                            const struct wd_tensor *tensor) {
  Weightd__V1__Tensor *t = &message->base;
  weightd__v1__tensor__init(t);
  for (uint32_t d = 0; d < tensor->n_dims; d++) {
    message->shape[d] = tensor->dims[tensor->n_dims - 1 - d];
  }
  t->index = wd_model_tensor_index(model, tensor);
  t->name = (char *)tensor->name;
  t->type = tensor->type->id;
  t->type_name = (char *)tensor->type->name;
  t->n_shape = tensor->n_dims;
  t->shape = message->shape;
  t->elements = tensor->elements;
  t->stored_bytes = tensor->bytes;
  t->f16_bytes = tensor->elements * 2;
  t->part = tensor->part;
  t->offset = tensor->offset;
  t->block_elements = tensor->type->block_elements;
  t->block_bytes = tensor->type->block_bytes;
  t->byte_order =
      wd_model_info(model)->big_endian ? WEIGHTD__V1__BYTE_ORDER__BIG_ENDIAN : WEIGHTD__V1__BYTE_ORDER__LITTLE_ENDIAN;
  if (tensor->companion != UINT64_MAX) {
    t->companion_scale = (char *)wd_model_tensor(model, tensor->companion)->name;
  }
}

void wd_tensor_message_add_output(struct wd_tensor_message *message, const struct wd_unit *unit) {
  Weightd__V1__Tensor *t = &message->base;
  for (uint32_t d = 0; d < unit->output_dims; d++) {
    message->output_shape[d] = unit->output_shape[d];
  }
  t->output_type = (Weightd__V1__OutputType)unit->output;
  t->n_output_shape = unit->output_dims;
  t->output_shape = message->output_shape;
  t->output_bytes = unit->output_bytes;
  t->companion_scale_applied = unit->companion.tensor != NULL;
}
